"""Where images and text come from: one function that opens a data set by its name.

Importing this package needs none of the libraries that read images; DALI is imported when image files are opened.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from wash_hpc.config import Config, refuse_unknown
from wash_hpc.data.arrays import ArraySet, ArraySource
from wash_hpc.data.cifar import load_cifar10, load_cifar100
from wash_hpc.data.digits import load_digits
from wash_hpc.data.fashion_mnist import load_fashion_mnist
from wash_hpc.data.folder import scan_splits
from wash_hpc.data.shard_images import open_shards
from wash_hpc.data.source import Source
from wash_hpc.data.synthetic import make_synthetic
from wash_hpc.data.text import TextSource

_ARRAY_SETS: dict[str, Callable[[Config], ArraySet]] = {
    "digits": lambda config: load_digits(),
    "fashion_mnist": lambda config: load_fashion_mnist(config.data.path),
    "cifar10": lambda config: load_cifar10(config.data.path),
    "cifar100": lambda config: load_cifar100(config.data.path),
    "synthetic": make_synthetic,
}


def source_names() -> tuple[str, ...]:
    """The values that `data.name` may have."""
    return ("image_folder", "shards", *_ARRAY_SETS, "text")


def open_source(config: Config, device: torch.device) -> Source:
    """Open the data set `data.name`; a set in memory, or a text, is read here, image files are listed.

    Args:
        config: `run.seed` and the `data` section are read.
        device: where batches are wanted.

    Returns:
        The source, equal on all ranks.

    Raises:
        ConfigError: an unknown name, or no `data.path` where one is needed.
        DataError: the files are absent, incomplete or unreadable.
        MissingDependencyError: the library that reads this set is not installed.
    """
    name = config.data.name
    if name in {"image_folder", "shards"}:
        from wash_hpc.data.image_source import ImageSource  # DALI is optional, and slow to import

        splits = scan_splits if name == "image_folder" else open_shards
        return ImageSource(splits(config.data.path), config, device)
    if name in _ARRAY_SETS:
        return ArraySource(_ARRAY_SETS[name](config), config, device)
    if name == "text":
        return TextSource(config, device)
    raise refuse_unknown("data.name", name, source_names())
