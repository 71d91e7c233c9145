"""What every data source offers, and the order in which images are seen. No reading of files here.

The order is a pure function of (seed, member, epoch), so a position in the data is a step and nothing needs saving.
Every member sees the whole training set; only the replicas of one member share out its batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Literal, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from wash_hpc.config import DataConfig
from wash_hpc.errors import ConfigError
from wash_hpc.seeds import Stream, generator

Split = Literal["held_out", "test"]
Positions = NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """Images and their classes, or windows of text and the next bytes, all on the source's device.

    Attributes:
        images: [B, C, H, W] float32, normalised; of text, [B, T] int64.
        labels: [B] int64, in [0, num_classes); of a mixed image, the class that has the larger share in it. Of text,
            [B, T], the byte behind each.
        shares: [B, num_classes] float32, the share of each class in an image; None where images are not mixed.
    """

    images: Tensor
    labels: Tensor
    shares: Tensor | None = None

    @property
    def targets(self) -> Tensor:
        """What `cross_entropy` compares predictions with: [N] labels, or [N, num_classes] shares of mixed images."""
        return self.labels.flatten() if self.shares is None else self.shares

    def split(self, num_parts: int) -> list[Batch]:
        """As many parts of equal size, one after the other, of the same memory; it must divide the batch."""
        size = len(self.labels) // num_parts
        parts = [None if tensor is None else tensor.split(size) for tensor in (self.images, self.labels, self.shares)]
        images, labels, shares = parts
        assert images is not None and labels is not None
        return [Batch(*part) for part in zip(images, labels, shares or [None] * num_parts, strict=True)]

    def clone(self) -> Batch:
        """The same in new memory."""
        shares = None if self.shares is None else self.shares.clone()
        return Batch(self.images.clone(), self.labels.clone(), shares)

    def copy_(self, other: Batch) -> None:
        """Take over the content of a batch of the same shapes, in this one's memory; does not wait for the device."""
        for own, others in ((self.images, other.images), (self.labels, other.labels), (self.shares, other.shares)):
            if own is not None and others is not None:
                own.copy_(others, non_blocking=True)


@dataclass(frozen=True)
class Shard:
    """One part of several of nearly equal size; the parts cover everything once."""

    part: int = 0
    num_parts: int = 1

    def of(self, num_items: int) -> range:
        """The items of this part, a contiguous range of [0, num_items)."""
        return range(num_items * self.part // self.num_parts, num_items * (self.part + 1) // self.num_parts)


class Source(Protocol):
    """A data set with its splits, on one device.

    Attributes:
        num_classes: number of classes.
        image_shape: (C, H, W) of one image of a batch; of text, (T,), the bytes of one window.
        num_train: training images, or windows of text, without those held out.
        notes: what a user should be told at the start.
    """

    num_classes: int
    image_shape: tuple[int, ...]
    num_train: int
    notes: tuple[str, ...]

    @property
    def skipped_files(self) -> Sequence[str]:
        """Names of the files that this object could not read or decode and left out so far, each once."""

    def num_images(self, split: Split) -> int:
        """How many images, or windows of text, a split has; `held_out` may have none."""

    def check_files(self, shard: Shard) -> None:
        """Look at this part of the files behind the set, as far as opening it has not; reads, changes nothing.

        Raises:
            DataError: a file that cannot be read or is no image.
        """

    def train(self, member: int, replica: Shard, batch_size: int, first_step: int) -> Iterator[Batch]:
        """Training batches without end, from `first_step` on (0 is the first step of the run).

        With `data.on_bad_file=skip` the place of an image that cannot be used is taken by the next of the replica's
        batch that can, with its label.

        Args:
            member: whose order.
            replica: this rank's share of each batch of its member.
            batch_size: images of the member's whole batch; this rank's part is `replica.of(batch_size)`.
            first_step: where to start; the stream from there equals that of a run that never stopped, bit for bit.
        """

    def evaluate(self, split: Split, shard: Shard, batch_size: int) -> Iterator[Batch]:
        """Each image of this part of a split once, in a fixed order, not augmented; the last batch may be smaller.

        Images that cannot be used are left out, here and in `statistics`, with `data.on_bad_file=skip`.
        """

    def statistics(self, num_images: int, shard: Shard, batch_size: int) -> Iterator[Batch]:
        """This part of `num_images` training images, the same random choice on all ranks, augmented as in training."""


def steps_per_epoch(num_train: int, batch_size: int) -> int:
    """Full batches in one pass; the rest of an epoch is dropped so that shapes are fixed.

    Raises:
        ConfigError: the training set is smaller than one batch.
    """
    if num_train < batch_size:
        raise ConfigError(f"data.batch_size={batch_size}: the training set has only {num_train} images")
    return num_train // batch_size


def batch_positions(seed: int, member: int, step: int, num_train: int, batch_size: int) -> Positions:
    """Which training images member `member` sees at `step`: [batch_size] int64 positions in the training set."""
    epoch, batch = divmod(step, steps_per_epoch(num_train, batch_size))
    return epoch_order(seed, member, epoch, num_train)[batch * batch_size : (batch + 1) * batch_size]


def epoch_order(seed: int, member: int, epoch: int, num_train: int) -> Positions:
    """The member's own permutation of the whole training set in one epoch: [num_train] int64."""
    return generator(seed, Stream.ORDER, member, epoch).permutation(num_train)


def iterate_positions(
    seed: int, member: int, first_step: int, num_train: int, batch_size: int
) -> Iterator[tuple[int, Positions]]:
    """`(step, batch_positions(step))` from `first_step` on without end; draws each epoch's order once."""
    per_epoch = steps_per_epoch(num_train, batch_size)
    first_epoch, first_batch = divmod(first_step, per_epoch)
    for epoch in count(first_epoch):
        order = epoch_order(seed, member, epoch, num_train)
        for batch in range(first_batch if epoch == first_epoch else 0, per_epoch):
            yield epoch * per_epoch + batch, order[batch * batch_size : (batch + 1) * batch_size]


def split_held_out(seed_of_split: int, num_images: int, share: float) -> tuple[Positions, Positions]:
    """Divide a training set into (kept, held out) positions, both sorted; the same for every run seed of one share."""
    order = generator(seed_of_split, Stream.SPLIT).permutation(num_images)
    num_held_out = round(num_images * share)
    return np.sort(order[num_held_out:]), np.sort(order[:num_held_out])


class Selectable(Protocol):
    """Images of which some can be taken."""

    def __len__(self) -> int:
        """N."""

    def at(self, positions: Positions) -> Self:
        """Those at these positions, in this order."""


Some = TypeVar("Some", bound=Selectable)


def divide_training_set(train: Some, held_out: Some | None, data: DataConfig) -> tuple[Some, Some]:
    """What is trained on, and what is held out.

    Args:
        train: all training images.
        held_out: where the set has such a split of its own.
        data: `held_out` and `train_share` are read.
    """
    if held_out is None:
        kept, away = split_held_out(0, len(train), data.held_out)
        train, held_out = train.at(kept), train.at(away)
    if data.train_share < 1:
        train = train.at(choose_trained(len(train), data.train_share))
    return train, held_out


def choose_trained(num_images: int, share: float) -> Positions:
    """Positions, sorted, of the `data.train_share` that is trained on; at least one.

    The same for every run seed, and within that of a larger share.
    """
    order = generator(0, Stream.SPLIT, 2).permutation(num_images)
    return np.sort(order[: max(1, round(num_images * share))])
