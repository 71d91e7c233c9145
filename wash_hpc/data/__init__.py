"""Where images and text come from: what reads a data set by its name, and what opens it.

Reading (`read_content`) is done once for all ranks, on one of them; what it finds can be sent. Opening (`open_source`)
is every rank's. Importing this package needs none of the libraries that read images; DALI is imported when image files
are opened.

A set of one's own is a function between `register` and `wash_hpc.__main__.main`; docs/your_data.md shows one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from wash_hpc.config import Config, refuse_unknown
from wash_hpc.data.arrays import ArraySet, ArraySource, require_sound_set
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

Reader = Callable[[Config], Content]
"""Reads the files of a data set."""

ArrayReader = TypeVar("ArrayReader", bound=Callable[[Config], ArraySet])

_READERS: dict[str, Reader] = {
    "image_folder": lambda config: scan_splits(config.data.path),
    "shards": lambda config: open_shards(config.data.path),
    "digits": lambda config: load_digits(),
    "fashion_mnist": lambda config: load_fashion_mnist(config.data.path),
    "cifar10": lambda config: load_cifar10(config.data.path),
    "cifar100": lambda config: load_cifar100(config.data.path),
    "text": lambda config: read_text(config.data.path),
}
_MADE = "synthetic"  # of no files: each rank makes it
_REGISTERED: set[str] = set()


def register(name: str) -> Callable[[ArrayReader], ArrayReader]:
    """Make a function that reads a set into memory known as `data.name=NAME`; to be called before anything is read.

    It is called with the run's configuration on one rank; what it returns is sent to the others.

    Args:
        name: a new one.
    """
    if name in source_names():
        raise ValueError(f"there is a data set {name} already")

    def add(read: ArrayReader) -> ArrayReader:
        _READERS[name] = read
        _REGISTERED.add(name)
        return read

    return add


def reader_of(name: str) -> Reader | None:
    """What reads the data set of this name, written here or in a file of the user's; None where there is no such."""
    return _READERS.get(name)


def source_names() -> tuple[str, ...]:
    """The values that `data.name` may have."""
    return (*_READERS, _MADE)


def require_source(name: str) -> None:
    """Refuse a name that is no data set.

    Raises:
        ConfigError: naming those there are.
    """
    if name not in source_names():
        raise refuse_unknown("data.name", name, source_names())


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
    require_source(name)
    if name == _MADE:
        return None
    content = _READERS[name](config)
    if name in _REGISTERED:
        require_sound_set(name, content)
    return content


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
