"""Random crops and flips: the numbers drawn on the CPU, and their application to images in memory, on any device.

The windows of `draw_windows` are applied by DALI (`dali.py`); `first_valid_window` is its slow twin in plain Python.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

NUM_TRIES = 10  # of torchvision's RandomResizedCrop, before it falls back to the centre
RATIOS = (3 / 4, 4 / 3)  # of width to height

# The columns of a row of `draw_windows`.
HEIGHTS, WIDTHS = slice(0, NUM_TRIES), slice(NUM_TRIES, 2 * NUM_TRIES)
TOP, LEFT, MIRROR = range(2 * NUM_TRIES, 2 * NUM_TRIES + 3)


def draw_shifts(random: np.random.Generator, num_images: int, padding: int, flip: bool) -> NDArray[np.int64]:
    """Where to crop the padded image and whether to mirror it.

    Args:
        random: numbers are taken from it.
        num_images: how many.
        padding: pixels on each side.
        flip: mirror every other image; the numbers drawn are the same without.

    Returns:
        [num_images, 3] int64: top and left in [0, 2 padding], mirror in {0, 1}.
    """
    corners = random.integers(0, 2 * padding + 1, size=(num_images, 2))
    mirror = random.integers(0, 2, size=(num_images, 1)) * flip
    return np.concatenate([corners, mirror], axis=1)


def no_shifts(num_images: int, padding: int) -> NDArray[np.int64]:
    """The shifts that leave images as they are: [num_images, 3] int64."""
    return np.tile(np.array([padding, padding, 0], dtype=np.int64), (num_images, 1))


def apply_shifts(images: Tensor, shifts: Tensor, padding: int) -> Tensor:
    """Pad with black, crop back to the old size and mirror, each image by its own shift.

    Args:
        images: [B, C, H, W] uint8.
        shifts: [B, 3] int64, on the device of the images, as `draw_shifts` gives them.
        padding: pixels on each side.

    Returns:
        [B, C, H, W] uint8, new memory.
    """
    num_images, channels, height, width = images.shape
    device = images.device
    padded = torch.nn.functional.pad(images, [padding] * 4)
    top, left, mirror = shifts.unbind(1)
    rows = top[:, None] + torch.arange(height, device=device)
    forward = torch.arange(width, device=device)
    columns = left[:, None] + torch.where(mirror[:, None] == 1, width - 1 - forward, forward)
    batch = torch.arange(num_images, device=device)
    channel = torch.arange(channels, device=device)
    return padded[
        batch[:, None, None, None], channel[None, :, None, None], rows[:, None, :, None], columns[:, None, None, :]
    ]


def draw_windows(
    random: np.random.Generator, num_images: int, scale: tuple[float, float], flip: bool
) -> NDArray[np.float32]:
    """The random numbers of torchvision's RandomResizedCrop and RandomHorizontalFlip, whatever the images' sizes.

    Args:
        random: numbers are taken from it.
        num_images: how many.
        scale: smallest and largest area of a window, as shares of the image's.
        flip: mirror every other image; the numbers drawn are the same without.

    Returns:
        [num_images, 23] float32. Columns HEIGHTS and WIDTHS: sizes of ten windows to try, as shares of the square root
        of the image's area. TOP and LEFT: in [0, 1), of the room that the window leaves. MIRROR: 0 or 1.
    """
    area = random.uniform(*scale, size=(num_images, NUM_TRIES))
    ratio = np.exp(random.uniform(math.log(RATIOS[0]), math.log(RATIOS[1]), size=(num_images, NUM_TRIES)))
    corner = random.random(size=(num_images, 2))
    mirror = random.integers(0, 2, size=(num_images, 1)) * flip
    return np.concatenate([np.sqrt(area / ratio), np.sqrt(area * ratio), corner, mirror], axis=1).astype(np.float32)


def first_valid_window(draws: NDArray[np.float32], height: int, width: int) -> tuple[int, int, int, int]:
    """The window that one image's draws give: the slow twin of DALI's arithmetic.

    Args:
        draws: [23] float32, one row of `draw_windows`.
        height: of the image, in pixels.
        width: of the image, in pixels.

    Returns:
        top, left, height and width of the window, in pixels: the first of the ten that fits into the image, or the
        largest centred one with a permitted ratio where none does.
    """
    side = np.sqrt(np.float32(height * width))
    for share_of_height, share_of_width in zip(draws[HEIGHTS], draws[WIDTHS], strict=True):
        window_height = math.floor(share_of_height * side + np.float32(0.5))
        window_width = math.floor(share_of_width * side + np.float32(0.5))
        if 0 < window_height <= height and 0 < window_width <= width:
            top = math.floor(draws[TOP] * np.float32(height - window_height + 1))
            left = math.floor(draws[LEFT] * np.float32(width - window_width + 1))
            return min(top, height - window_height), min(left, width - window_width), window_height, window_width
    window_height = min(height, math.floor(width / RATIOS[0] + 0.5))
    window_width = min(width, math.floor(height * RATIOS[1] + 0.5))
    return (height - window_height) // 2, (width - window_width) // 2, window_height, window_width
