"""Encoded images, as files hold them, split by split: what a listing of them must offer. Nothing is decoded here.

`folder` lists class folders, `shard_images` the contents of tar files. `image_source` is the source over any such
listing, `decode` makes batches of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from wash_hpc.data.source import Positions

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
    """A whole data set; `held_out` is None where it has no such split: then a share of `train` is taken."""

    train: EncodedImages
    held_out: EncodedImages | None
    test: EncodedImages
    num_classes: int


def fault_of(name: str, start: bytes) -> str | None:
    """What is wrong with a file that has this name and these first bytes; None where nothing is."""
    if not start:
        return f"{name}: the file is empty; expected an image"
    if not start.startswith(MAGIC) or (start.startswith(b"RIFF") and start[8:12] != b"WEBP"):
        return f"{name}: this is no image: it starts with {start[:8]!r}; expected JPEG, PNG, BMP, WebP, TIFF or PNM"
    return None
