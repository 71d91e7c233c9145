"""Image sets small enough to live in memory, whole, on the training device; batches are gathered and augmented there.

Owns the form of such a set and the source over it. Where the images come from is the loaders' (`digits`,
`fashion_mnist`, `cifar`, `synthetic`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wash_hpc.config import Config
from wash_hpc.data.augment import apply_shifts, draw_shifts, no_shifts
from wash_hpc.data.feed import Draws, feed_evaluation, feed_statistics, feed_training
from wash_hpc.data.source import Batch, Positions, Shard, Split, divide_training_set
from wash_hpc.data.transfer import send
from wash_hpc.errors import DataError


@dataclass(frozen=True)
class Images:
    """One split.

    Attributes:
        pixels: [N, C, H, W] uint8.
        labels: [N] int64.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def at(self, positions: Positions) -> Images:
        """The images at these positions, in this order."""
        return Images(self.pixels[positions], self.labels[positions])


@dataclass(frozen=True)
class ArraySet:
    """A whole set.

    Attributes:
        train: the training images.
        held_out: the validation images, None where the set has no such split: then a share of `train` is taken.
        test: the test images.
        num_classes: number of classes.
        mean: of each channel over the training images, pixels in [0, 1].
        std: likewise.
    """

    train: Images
    held_out: Images | None
    test: Images
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


def require_sound_set(name: str, images: object) -> None:
    """Check a set that somebody else's function has made; cheap beside its reading.

    Args:
        name: `data.name`.
        images: what the function returned.

    Raises:
        DataError: it is no `ArraySet`, or one whose parts do not fit each other.
    """
    if not isinstance(images, ArraySet):
        raise DataError(f"data.name={name}: the function registered gives a {type(images).__name__}, not an ArraySet")
    if not isinstance(images.num_classes, int | np.integer):
        raise DataError(f"data.name={name}: num_classes={images.num_classes}: expected a whole number")
    _require_sound_split(f"data.name={name}: train", images.train, images.num_classes)
    shape = images.train.pixels.shape[1:]
    others = {"test": images.test} | ({} if images.held_out is None else {"held_out": images.held_out})
    for split, part in others.items():
        _require_sound_split(f"data.name={name}: {split}", part, images.num_classes)
        if part.pixels.shape[1:] != shape:
            raise DataError(f"data.name={name}: {split}: images {part.pixels.shape[1:]}: expected {shape}, as in train")
    for what, values in (("mean", images.mean), ("std", images.std)):
        if not _are_numbers(values, shape[0]) or (what == "std" and min(values) <= 0):
            raise DataError(f"data.name={name}: {what}={values}: expected a number for each of {shape[0]} channels")


def _are_numbers(values: object, count: int) -> bool:
    """Whether it is a sequence of so many finite numbers."""
    try:
        numbers = np.asarray(values, np.float64)
    except (TypeError, ValueError):
        return False
    return numbers.shape == (count,) and bool(np.isfinite(numbers).all())


def _require_sound_split(where: str, part: object, num_classes: int) -> None:
    if not isinstance(part, Images):
        raise DataError(f"{where}: it is a {type(part).__name__}: expected Images(pixels, labels)")
    pixels, labels = part.pixels, part.labels
    for what, values in (("pixels", pixels), ("labels", labels)):
        if not isinstance(values, np.ndarray):
            raise DataError(f"{where}: {what} are a {type(values).__name__}: expected a NumPy array")
    if pixels.dtype != np.uint8 or pixels.ndim != 4:
        raise DataError(f"{where}: pixels {pixels.dtype} {pixels.shape}: expected uint8 [N, C, H, W]")
    if labels.dtype != np.int64 or labels.shape != pixels.shape[:1]:
        raise DataError(f"{where}: labels {labels.dtype} {labels.shape}: expected int64 [{len(pixels)}]")
    if len(labels) == 0:
        raise DataError(f"{where}: there are no images in it")
    if labels.min() < 0 or labels.max() >= num_classes:
        raise DataError(f"{where}: labels from {labels.min()} to {labels.max()}: expected 0 to {num_classes - 1}")


class ArraySource:
    """A `Source` over an `ArraySet`, resident on one device.

    Args:
        images: the set.
        config: `run.seed` and the `data` section are read.
        device: where the images live and the batches are made.
    """

    def __init__(self, images: ArraySet, config: Config, device: torch.device) -> None:
        train, held_out = divide_training_set(images.train, images.held_out, config.data)
        self.num_classes = images.num_classes
        channels, height, width = train.pixels.shape[1:]
        self.image_shape: tuple[int, ...] = (channels, height, width)
        self.num_train = len(train.labels)
        self.notes: tuple[str, ...] = ()
        self._seed = config.run.seed
        self._padding = config.data.crop_padding
        self._draw = (
            partial(draw_shifts, padding=self._padding, flip=config.data.flip)
            if config.data.augment
            else lambda random, num_images: no_shifts(num_images, self._padding)
        )
        self._device = device
        self._train = self._put(train)
        self._splits: dict[Split, tuple[Tensor, Tensor]] = {
            "held_out": self._put(held_out),
            "test": self._put(images.test),
        }
        self._mean = torch.tensor(images.mean, device=device).view(-1, 1, 1) * 255
        self._std = torch.tensor(images.std, device=device).view(-1, 1, 1) * 255

    @property
    def skipped_files(self) -> tuple[str, ...]:
        """None: the set was read whole."""
        return ()

    def num_images(self, split: Split) -> int:
        """How many images a split has; `held_out` may have none."""
        return len(self._splits[split][1])

    def check_files(self, shard: Shard) -> None:
        """Nothing to do: reading the set into memory has checked its files."""

    def train(self, member: int, replica: Shard, batch_size: int, first_step: int) -> Iterator[Batch]:
        """Training batches without end, as `Source.train` says."""
        feed = feed_training(self._seed, member, replica, batch_size, first_step, self.num_train, self._draw)
        return (self._augmented(positions, draws) for positions, draws in feed)

    def evaluate(self, split: Split, shard: Shard, batch_size: int) -> Iterator[Batch]:
        """Each image of this part once, as `Source.evaluate` says."""
        pixels, labels = self._splits[split]
        for positions in feed_evaluation(len(labels), shard, batch_size):
            here = slice(int(positions[0]), int(positions[-1]) + 1)
            yield Batch(self._normalised(pixels[here]), labels[here])

    def statistics(self, num_images: int, shard: Shard, batch_size: int) -> Iterator[Batch]:
        """This part of a random choice of training images, as `Source.statistics` says."""
        feed = feed_statistics(self._seed, num_images, shard, batch_size, self.num_train, self._draw)
        return (self._augmented(positions, draws) for positions, draws in feed)

    def _augmented(self, positions: Positions, draws: Draws) -> Batch:
        pixels, labels = self._train
        # One copy to the device: the positions and the shifts go together.
        numbers = send(torch.from_numpy(np.column_stack([positions, draws])), self._device)
        at, shifts = numbers[:, 0], numbers[:, 1:]
        return Batch(self._normalised(apply_shifts(pixels[at], shifts, self._padding)), labels[at])

    def _normalised(self, pixels: Tensor) -> Tensor:
        return (pixels.float() - self._mean) / self._std

    def _put(self, images: Images) -> tuple[Tensor, Tensor]:
        # torch.tensor copies: an array read from a file may be read-only memory, which torch must not own.
        return torch.tensor(images.pixels, device=self._device), torch.tensor(images.labels, device=self._device)
