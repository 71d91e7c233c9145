"""Fashion-MNIST from idx files, plain or gzipped, as Debian's dataset-fashion-mnist installs them. No device."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wash_hpc.data.arrays import ArraySet, Images
from wash_hpc.errors import DataError

DEBIAN_FOLDER = "/usr/share/datasets/fashion-mnist"

# Of the 60,000 training images, pixels in [0, 1].
MEAN = (0.2860,)
STD = (0.3530,)


def load_fashion_mnist(path: str | None) -> ArraySet:
    """The set, one channel, 28x28.

    Args:
        path: the folder of the four idx files; None: where Debian's package puts them.

    Raises:
        DataError: a file is absent, truncated, or no idx file; images and labels do not fit.
    """
    folder = Path(path or DEBIAN_FOLDER)
    return ArraySet(
        train=_read_split(folder, "train"),
        held_out=None,
        test=_read_split(folder, "t10k"),
        num_classes=10,
        mean=MEAN,
        std=STD,
    )


def _read_split(folder: Path, prefix: str) -> Images:
    pixels = read_idx(_find(folder, f"{prefix}-images-idx3-ubyte"), num_axes=3)
    labels = read_idx(_find(folder, f"{prefix}-labels-idx1-ubyte"), num_axes=1)
    if len(pixels) != len(labels):
        raise DataError(f"{folder}: {prefix} has {len(pixels)} images and {len(labels)} labels; expected as many")
    if len(labels) == 0 or labels.max() > 9:
        raise DataError(f"{folder}: {prefix} labels: expected at least one, all from 0 to 9")
    return Images(pixels[:, None], labels.astype(np.int64))


def _find(folder: Path, name: str) -> Path:
    for file in (folder / f"{name}.gz", folder / name):
        if file.is_file():
            return file
    raise DataError(
        f"{folder / name}[.gz]: there is no such file; data.path must name the folder of Fashion-MNIST's four idx "
        f"files, which `apt install dataset-fashion-mnist` puts into {DEBIAN_FOLDER}"
    )


def read_idx(file: Path, num_axes: int) -> NDArray[np.uint8]:
    """The array of bytes in an idx file: two zeros, 8 for bytes, the number of axes, their lengths, the values.

    Raises:
        DataError: the file cannot be read, is truncated, or has another form.
    """
    try:
        content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{file}: cannot be read: {error}") from error
    if content[:4] != bytes([0, 0, 8, num_axes]) or len(content) < 4 + 4 * num_axes:
        raise DataError(f"{file}: this is no idx file of bytes with {num_axes} axes")
    shape = tuple(int(length) for length in np.frombuffer(content, dtype=">u4", count=num_axes, offset=4))
    values = np.frombuffer(content, dtype=np.uint8, offset=4 + 4 * num_axes)
    if len(values) != int(np.prod(shape)):
        raise DataError(f"{file}: the file is truncated: {len(values)} values, expected {shape}")
    return values.reshape(shape)
