"""scikit-learn's bundled digits: 1,797 real images of 8x8 pixels, and their fixed split. No augmentation, no device."""

from __future__ import annotations

import numpy as np

from wash_hpc.data.arrays import ArraySet, Images
from wash_hpc.data.source import Positions
from wash_hpc.errors import MissingDependencyError
from wash_hpc.seeds import Stream, generator

# Of the training split below, pixels in [0, 1].
MEAN = (0.3060,)
STD = (0.3762,)


def load_digits() -> ArraySet:
    """The digits, one channel, grey values 0 to 16 stretched to 0 to 255, with a validation split of their own.

    Raises:
        MissingDependencyError: scikit-learn, which brings the images, is not installed.
    """
    pixels, labels = read_digits()
    train, val, test = split_digits(labels)
    parts = [Images(pixels[part], labels[part]) for part in (train, val, test)]
    return ArraySet(train=parts[0], held_out=parts[1], test=parts[2], num_classes=10, mean=MEAN, std=STD)


def read_digits() -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.uint8]], Positions]:
    """All digits: pixels [1797, 1, 8, 8] uint8 and labels [1797] int64.

    Raises:
        MissingDependencyError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits as load
    except ImportError as error:
        raise MissingDependencyError("scikit-learn", "pip install scikit-learn", "it bundles the digits") from error
    digits = load()
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)
    return pixels[:, None], digits.target.astype(np.int64)


def split_digits(labels: Positions) -> tuple[Positions, Positions, Positions]:
    """Train, val and test: 70 %, 10 % and 20 % of each class, the same in every run.

    Args:
        labels: [N] int64.

    Returns:
        Three sorted arrays of positions, int64, that together hold each of [0, N) once.
    """
    random = generator(0, Stream.SPLIT)
    train, val, test = [], [], []
    for label in np.unique(labels):
        positions = random.permutation(np.flatnonzero(labels == label))
        num_test, num_val = round(0.2 * len(positions)), round(0.1 * len(positions))
        test.append(positions[:num_test])
        val.append(positions[num_test : num_test + num_val])
        train.append(positions[num_test + num_val :])
    return np.sort(np.concatenate(train)), np.sort(np.concatenate(val)), np.sort(np.concatenate(test))
