"""Random crops and flips against slow twins that handle one image at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wash_hpc.config import load_config
from wash_hpc.data.arrays import ArraySource
from wash_hpc.data.augment import (
    HEIGHTS,
    LEFT,
    MIRROR,
    TOP,
    WIDTHS,
    apply_shifts,
    draw_shifts,
    draw_windows,
    first_valid_window,
    no_shifts,
)
from wash_hpc.data.source import Shard, batch_positions
from wash_hpc.data.synthetic import make_synthetic
from wash_hpc.seeds import Stream, generator


def shift_one(image: np.ndarray, shift: np.ndarray, padding: int) -> np.ndarray:
    """Pad, crop and mirror one image [C, H, W], pixel by pixel."""
    channels, height, width = image.shape
    top, left, mirror = shift
    result = np.zeros_like(image)
    for channel in range(channels):
        for row in range(height):
            for column in range(width):
                from_row = row + top - padding
                from_column = (width - 1 - column if mirror else column) + left - padding
                if 0 <= from_row < height and 0 <= from_column < width:
                    result[channel, row, column] = image[channel, from_row, from_column]
    return result


@given(st.integers(0, 2**32), st.integers(1, 4), st.integers(1, 7), st.integers(1, 7), st.integers(0, 5), st.booleans())
def test_shifted_images_equal_the_slow_twin_bit_for_bit(
    seed: int, num_images: int, height: int, width: int, padding: int, flip: bool
) -> None:
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (num_images, 2, height, width), dtype=np.uint8)
    shifts = draw_shifts(random, num_images, padding, flip)
    fast = apply_shifts(torch.from_numpy(images), torch.from_numpy(shifts), padding).numpy()
    assert np.array_equal(fast, [shift_one(*pair, padding) for pair in zip(images, shifts, strict=True)])


def test_no_shifts_leave_images_as_they_are() -> None:
    images = torch.randint(0, 256, (5, 3, 6, 7), dtype=torch.uint8)
    assert torch.equal(apply_shifts(images, torch.from_numpy(no_shifts(5, 4)), 4), images)


def test_shifts_are_uniform_over_all_places_and_mirror_half() -> None:
    shifts = draw_shifts(np.random.default_rng(0), 25_000, 2, flip=True)
    counts = np.zeros((5, 5))
    np.add.at(counts, (shifts[:, 0], shifts[:, 1]), 1)
    assert np.abs(counts - 1000).max() < 5 * np.sqrt(1000)
    assert abs(shifts[:, 2].mean() - 0.5) < 0.02


def test_flip_off_mirrors_nothing_and_changes_no_crop() -> None:
    on, off = (draw_shifts(np.random.default_rng(1), 50, 4, flip) for flip in (True, False))
    assert np.array_equal(on[:, :2], off[:, :2])
    assert not off[:, 2].any()
    on, off = (draw_windows(np.random.default_rng(1), 50, (0.1, 1), flip) for flip in (True, False))
    assert np.array_equal(on[:, :MIRROR], off[:, :MIRROR])
    assert not off[:, MIRROR].any()


@pytest.mark.parametrize("augment", [True, False])
def test_a_training_batch_is_the_normalised_slow_twin_of_its_images(augment: bool) -> None:
    keys = ["data.name=synthetic", "data.image_size=9", "data.num_images=40", "data.num_classes=4", "data.held_out=0"]
    config = load_config(None, [*keys, f"data.augment={str(augment).lower()}", "data.crop_padding=3", "run.seed=5"])
    images = make_synthetic(config)
    source = ArraySource(images, config, torch.device("cpu"))
    batches = source.train(2, Shard(), 8, 6)
    for step in (6, 7):
        positions = batch_positions(5, 2, step, 40, 8)
        shifts = draw_shifts(generator(5, Stream.AUGMENT, 2, step), 8, 3, flip=True) if augment else no_shifts(8, 3)
        pixels = np.stack([shift_one(*pair, 3) for pair in zip(images.train.pixels[positions], shifts, strict=True)])
        mean, std = (torch.tensor(values).view(3, 1, 1) * 255 for values in (images.mean, images.std))
        batch = next(batches)
        assert torch.equal(batch.images, (torch.from_numpy(pixels).float() - mean) / std)
        assert np.array_equal(batch.labels, images.train.labels[positions])


@given(st.integers(0, 2**32), st.integers(1, 900), st.integers(1, 900), st.sampled_from([(0.08, 1.0), (0.9, 1.0)]))
def test_a_window_lies_in_its_image(seed: int, height: int, width: int, scale: tuple[float, float]) -> None:
    for draws in draw_windows(np.random.default_rng(seed), 5, scale, True):
        top, left, window_height, window_width = first_valid_window(draws, height, width)
        assert 0 <= top <= top + window_height <= height
        assert 0 <= left <= left + window_width <= width
        assert window_height > 0
        assert window_width > 0


def test_a_window_is_the_first_of_the_tries_that_fits() -> None:
    draws = np.full(23, 9, dtype=np.float32)
    draws[HEIGHTS][3:] = draws[WIDTHS][3:] = [0.5, 0.25, 0.1, 0.1, 0.1, 0.1, 0.1]
    draws[TOP], draws[LEFT] = 0, 0.999
    assert first_valid_window(draws, 100, 100) == (0, 50, 50, 50)


@pytest.mark.parametrize(("height", "width", "expected"), [(30, 300, (0, 130, 30, 40)), (300, 30, (130, 0, 40, 30))])
def test_a_window_that_never_fits_becomes_the_centre_as_in_torchvision(
    height: int, width: int, expected: tuple[int, int, int, int]
) -> None:
    assert first_valid_window(np.full(23, 9, dtype=np.float32), height, width) == expected


def test_windows_have_the_distribution_of_torchvisions_random_resized_crop() -> None:
    from torchvision import transforms

    ours = np.array(
        [
            first_valid_window(draws, 375, 500)
            for draws in draw_windows(np.random.default_rng(0), 4000, (0.08, 1.0), True)
        ]
    )
    torch.manual_seed(0)
    image = torch.zeros(3, 375, 500)
    theirs = np.array(
        [transforms.RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(4000)]
    )
    error = np.sqrt(ours.var(0) / 4000 + theirs.var(0) / 4000)
    assert (np.abs(ours.mean(0) - theirs.mean(0)) < 4 * error).all()
    assert (np.abs(ours.std(0) / theirs.std(0) - 1) < 0.06).all()
