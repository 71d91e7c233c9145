"""Which images go into which batch of which rank, and the random numbers that augment them. No images here.

Shared by all sources. Random numbers are drawn for a member's whole batch and the replica's part is taken from them,
so that R replicas together see exactly what one replica would see.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wash_hpc.data.source import Positions, Shard, iterate_positions, steps_per_epoch
from wash_hpc.seeds import Stream, generator

Draws = NDArray[Any]
"""Random numbers of a batch; the first axis is the image, the rest is the source's own."""

Draw = Callable[[np.random.Generator, int], Draws]
"""`draw(random, num_images)` gives the draws of so many images."""


def feed_training(
    seed: int, member: int, replica: Shard, batch_size: int, first_step: int, num_train: int, draw: Draw
) -> Iterator[tuple[Positions, Draws]]:
    """This replica's part of each batch of its member, from `first_step` on without end.

    Args:
        seed: the run's seed.
        member: whose order.
        replica: the part of each batch.
        batch_size: images of the member's whole batch, B.
        first_step: 0 is the first step of the run.
        num_train: training images.
        draw: gives the random numbers of B images.

    Returns:
        Positions in the training set, [B of this part] int64, and their draws, [B of this part, ...], at each step.

    Raises:
        ConfigError: the training set is smaller than one batch.
    """
    steps_per_epoch(num_train, batch_size)  # refuses here, and not in a thread at the first batch
    mine = slice(replica.of(batch_size).start, replica.of(batch_size).stop)
    return (
        (positions[mine], draw(generator(seed, Stream.AUGMENT, member, step), batch_size)[mine])
        for step, positions in iterate_positions(seed, member, first_step, num_train, batch_size)
    )


def feed_statistics(
    seed: int, num_images: int, shard: Shard, batch_size: int, num_train: int, draw: Draw
) -> Iterator[tuple[Positions, Draws]]:
    """This part of a random choice of training images, the same choice and draws however many parts there are.

    Args:
        seed: the run's seed.
        num_images: how many are chosen, over all parts; all there are where the set has fewer.
        shard: the part.
        batch_size: images of one batch of this part; the last may be smaller.
        num_train: training images.
        draw: gives the random numbers of the chosen images.

    Yields:
        Positions in the training set, [B] int64, and their draws, [B, ...].
    """
    random = generator(seed, Stream.STATISTICS)
    chosen: Positions = random.permutation(num_train)[:num_images]
    draws = draw(random, len(chosen))
    for batch in feed_evaluation(len(chosen), shard, batch_size):
        yield chosen[batch], draws[batch]


def feed_evaluation(num_images: int, shard: Shard, batch_size: int) -> Iterator[Positions]:
    """Each image of this part once, in order: [B] int64 positions in [0, num_images); the last batch may be smaller."""
    mine = shard.of(num_images)
    for start in range(mine.start, mine.stop, batch_size):
        yield np.arange(start, min(start + batch_size, mine.stop))
