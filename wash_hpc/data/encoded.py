"""Encoded images, as files hold them, split by split: what a listing of them must offer. Nothing is decoded here.

`folder` lists class folders, `shard_images` the contents of tar files. `image_source` is the source over any such
listing, `decode` makes batches of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from wash_hpc.data.source import Positions
from wash_hpc.errors import DataError

# What DALI decodes.
EXTENSIONS = ("jpg", "jpeg", "png", "bmp", "webp", "tif", "tiff", "ppm", "pgm", "pbm", "pnm", "jp2")
MAGIC = (
    b"\xff\xd8\xff",  # JPEG
    b"\x89PNG\r\n\x1a\n",
    b"BM",
    b"RIFF",  # WebP, with "WEBP" after four bytes of length
    b"II*\x00",  # TIFF
    b"MM\x00*",
    b"\x00\x00\x00\x0cjP  ",  # JPEG 2000
    b"\xff\x4f\xff\x51",
    *(b"P%d" % kind for kind in range(1, 7)),  # PBM, PGM, PPM
)
START_BYTES = 12  # of a file, which tell its kind

_EVERYWHERE = "every host must have the files that rank 0 has found"


class EncodedImages(Protocol):
    """The images of one split, in a fixed order."""

    @property
    def are_paths(self) -> bool:
        """Whether `inputs` gives paths of files, which DALI reads; else it gives the bytes of the files."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """[N], in [0, num_classes)."""

    def __len__(self) -> int:
        """N."""

    def at(self, positions: Positions) -> Self:
        """The images at these positions, in this order."""

    def name(self, position: int) -> str:
        """What an image is called in messages."""

    def inputs(self, positions: Positions) -> list[NDArray[np.uint8]]:
        """What DALI is given for these images: each a path or a file's bytes, of which there are none if it fails."""

    def find_fault(self, position: int) -> str | None:
        """What is wrong with the first bytes of an image's file, as a sentence; None where nothing is."""


@dataclass(frozen=True)
class Splits:
    """A whole data set, as it was listed; it can be sent to other ranks.

    Attributes:
        train: the training images.
        held_out: None where the set has no such split: then a share of `train` is taken.
        test: the test images.
        num_classes: number of classes.
        landmarks: some of its files, by which another host can tell that it has the same.
    """

    train: EncodedImages
    held_out: EncodedImages | None
    test: EncodedImages
    num_classes: int
    landmarks: tuple[Landmark, ...] = ()


@dataclass(frozen=True)
class Landmark:
    """A file and its size."""

    path: str
    num_bytes: int


def require_landmarks(path: str, landmarks: Iterable[Landmark]) -> None:
    """Check that a data set that another rank has listed is on this host, too, by a few of its files.

    Args:
        path: `data.path`.
        landmarks: files of the set.

    Raises:
        DataError: the folder or one of the files is absent or unreadable, or has another size.
    """
    if not Path(path).is_dir():
        raise DataError(f"data.path={path}: there is no such folder; {_EVERYWHERE}")
    for landmark in landmarks:
        try:
            num_bytes = Path(landmark.path).stat().st_size
        except OSError as error:
            raise DataError(f"{landmark.path}: cannot be read: {error.strerror}; {_EVERYWHERE}") from error
        if num_bytes != landmark.num_bytes:
            raise DataError(
                f"{landmark.path}: has {num_bytes:,} bytes here and {landmark.num_bytes:,} for rank 0; {_EVERYWHERE}"
            )


def fault_of(name: str, start: bytes) -> str | None:
    """What is wrong with a file that has this name and these first bytes; None where nothing is."""
    if not start:
        return f"{name}: the file is empty; expected an image"
    if not start.startswith(MAGIC) or (start.startswith(b"RIFF") and start[8:12] != b"WEBP"):
        return f"{name}: this is no image: it starts with {start[:8]!r}; expected JPEG, PNG, BMP, WebP, TIFF or PNM"
    return None
