"""Made-up images that can be learned: a smooth pattern for each class, under noise. For tests and for timing.

Deterministic in `run.seed`; the patterns are the same in all splits.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wash_hpc.config import Config
from wash_hpc.data.arrays import ArraySet, Images
from wash_hpc.seeds import Stream, generator

CELLS = 4  # a pattern is a coarse grid of so many cells a side, stretched to the image
# Pattern and noise are each uniform on 0 ... 127, so the sum has mean 127 and standard deviation sqrt(2) 128/sqrt(12).
MEAN = (0.498, 0.498, 0.498)
STD = (0.205, 0.205, 0.205)


def make_synthetic(config: Config) -> ArraySet:
    """`data.num_images` training images, a quarter as many test images, 3 x `data.image_size` x `data.image_size`."""
    data, seed = config.data, config.run.seed
    grids = generator(seed, Stream.SYNTHETIC, 0).integers(
        0, 128, size=(data.num_classes, 3, CELLS, CELLS), dtype=np.uint8
    )
    cell = np.arange(data.image_size) * CELLS // data.image_size
    patterns = grids[:, :, cell[:, None], cell]
    num_test = max(data.num_images // 4, data.num_classes)
    return ArraySet(
        train=_noisy(patterns, data.num_images, generator(seed, Stream.SYNTHETIC, 1)),
        held_out=None,
        test=_noisy(patterns, num_test, generator(seed, Stream.SYNTHETIC, 2)),
        num_classes=data.num_classes,
        mean=MEAN,
        std=STD,
    )


def _noisy(patterns: NDArray[np.uint8], num_images: int, random: np.random.Generator) -> Images:
    """Balanced classes: [num_images, 3, H, W] uint8 in [0, 254]."""
    labels = np.arange(num_images) % len(patterns)
    pixels = random.integers(0, 128, size=(num_images, *patterns.shape[1:]), dtype=np.uint8)
    pixels += patterns[labels]
    return Images(pixels, labels)
