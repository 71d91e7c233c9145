"""Resizing windows on the CPU: what torchvision does to tensors, and nearly what it does to PIL images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from wash_hpc.data.resize import Pixels, resizer

SIDE = 64


@pytest.fixture(scope="module")
def windows() -> list[Pixels]:
    """Of two photographs, small and large, wide and high, and one of a single pixel."""
    random = np.random.default_rng(0)
    photos = load_sample_images().images
    cut = []
    for number in range(40):
        photo = photos[number % 2]
        height, width = (int(random.integers(2, side)) for side in photo.shape[:2])
        top, left = (int(random.integers(0, room + 1)) for room in np.subtract(photo.shape[:2], (height, width)))
        cut.append(np.ascontiguousarray(photo[top : top + height, left : left + width]))
    return [*cut, photos[0][:1, :1].copy()]


@pytest.mark.parametrize("num_threads", [1, 3])
def test_windows_are_resized_as_torchvision_resizes_tensors_bit_for_bit(
    windows: list[Pixels], num_threads: int
) -> None:
    resized = resizer(SIDE, num_threads)(windows)
    for pixels, window in zip(resized, windows, strict=True):
        expected = functional.resize(torch.from_numpy(window).permute(2, 0, 1), [SIDE, SIDE], antialias=True)
        assert pixels.shape == (SIDE, SIDE, 3)
        assert np.array_equal(pixels, expected.permute(1, 2, 0).numpy())


def test_windows_are_resized_nearly_as_pil_resizes_images(windows: list[Pixels]) -> None:
    for pixels, window in zip(resizer(SIDE, 1)(windows), windows, strict=True):
        image = functional.resize(Image.fromarray(window), [SIDE, SIDE], InterpolationMode.BILINEAR, antialias=True)
        difference = np.abs(pixels.astype(int) - np.asarray(image).astype(int))
        assert difference.mean() < 0.5
        assert difference.max() <= 2
