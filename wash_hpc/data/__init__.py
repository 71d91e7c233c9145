"""Where images and text come from: what reads a data set by its name, and what opens it.

Reading (`read_content`) is done once for all ranks, on one of them; what it finds can be sent. Opening (`open_source`)
is every rank's. Importing this package needs none of the libraries that read images; DALI is imported when image files
are opened.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from wash_hpc.config import Config, refuse_unknown
from wash_hpc.data.arrays import ArraySet, ArraySource
from wash_hpc.data.cifar import load_cifar10, load_cifar100
from wash_hpc.data.digits import load_digits
from wash_hpc.data.encoded import Splits, require_landmarks
from wash_hpc.data.fashion_mnist import load_fashion_mnist
from wash_hpc.data.folder import scan_splits
from wash_hpc.data.shard_images import open_shards
from wash_hpc.data.source import Source
from wash_hpc.data.synthetic import make_synthetic
from wash_hpc.data.text import TextSource, read_text

Content = Splits | ArraySet | NDArray[np.uint8]
"""What the files of a data set hold: a listing of encoded images, a set in memory, or the bytes of a text."""

_READERS: dict[str, Callable[[Config], Content]] = {
    "image_folder": lambda config: scan_splits(config.data.path),
    "shards": lambda config: open_shards(config.data.path),
    "digits": lambda config: load_digits(),
    "fashion_mnist": lambda config: load_fashion_mnist(config.data.path),
    "cifar10": lambda config: load_cifar10(config.data.path),
    "cifar100": lambda config: load_cifar100(config.data.path),
    "text": lambda config: read_text(config.data.path),
}
_MADE = "synthetic"  # of no files: each rank makes it


def source_names() -> tuple[str, ...]:
    """The values that `data.name` may have."""
    return (*_READERS, _MADE)


def read_content(config: Config) -> Content | None:
    """Read the files of the data set `data.name`: a set in memory, or a text, whole; image files are listed.

    Args:
        config: the `data` section is read.

    Returns:
        What `open_source` wants, on any rank; None for a set that is of no files.

    Raises:
        ConfigError: an unknown name, or no `data.path` where one is needed.
        DataError: the files are absent, incomplete or unreadable.
        MissingDependencyError: the library that reads this set is not installed.
    """
    name = config.data.name
    if name not in source_names():
        raise refuse_unknown("data.name", name, source_names())
    return None if name == _MADE else _READERS[name](config)


def require_content(config: Config, content: Content | None) -> None:
    """Check that this host has the image files that another rank has listed, by a few of them; cheap.

    What was read whole is not wanted again, so it need not be here.

    Raises:
        DataError: they are absent or others.
    """
    if isinstance(content, Splits):
        require_landmarks(str(config.data.path), content.landmarks)


def open_source(config: Config, device: torch.device, content: Content | None = None) -> Source:
    """Open the data set `data.name`.

    Args:
        config: `run.seed` and the `data` section are read.
        device: where batches are wanted.
        content: what `read_content` has found, here or on another rank; None: it is read now.

    Returns:
        The source, equal on all ranks.

    Raises:
        WashError: as `read_content`; the set is too small, or what opens it is not installed.
    """
    if content is None:
        content = make_synthetic(config) if config.data.name == _MADE else read_content(config)
    if isinstance(content, Splits):
        from wash_hpc.data.image_source import ImageSource  # DALI is optional, and slow to import

        return ImageSource(content, config, device)
    if isinstance(content, ArraySet):
        return ArraySource(content, config, device)
    assert content is not None
    return TextSource(content, config, device)
