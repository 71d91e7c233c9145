"""The one source of randomness: counter-based generators, each a pure function of (seed, stream, counters).

Nothing random is ever sent or saved: two ranks, or two starts of one run, that ask for the same (seed, stream,
counters) get the same numbers. Draws are made on the CPU, because a CUDA generator gives different numbers on
different GPUs for one seed.
"""

from __future__ import annotations

from enum import IntEnum, unique

import numpy as np


@unique
class Stream(IntEnum):
    """What the numbers are for; streams of one seed are independent of each other."""

    SHUFFLE = 0  # counters: step, 0 for the positions and 1 for the permutations, number of the method in the run
    WEIGHTS = 1  # counters: member
    ORDER = 2  # counters: member, epoch
    AUGMENT = 3  # counters: member, step
    TORCH = 4  # counters: member, replica, step
    SPLIT = 5  # none; 1 for files that are checked, 2 for a share that is trained on
    STATISTICS = 6  # none, or the batch
    SYNTHETIC = 7  # counters: split
    COMBINATION = 8  # none
    REGULARIZE = 9  # counters: member, step
    LANDSCAPE = 10  # counters: 0 for the images, 1 for the first vector of an iteration
    PARTITION = 11  # counters: round, number of the method in the run


def generator(seed: int, stream: Stream, *counters: int) -> np.random.Generator:
    """A Philox generator keyed by (seed, stream) and started at (counters).

    Args:
        seed: the run's seed, 0 <= seed < 2^63.
        stream: what the numbers are for.
        counters: at most three numbers >= 0, such as (member, epoch).

    Returns:
        A fresh generator; equal arguments give equal numbers on every rank and machine.
    """
    words = [0, *counters, 0, 0, 0][:4]  # the lowest word counts the numbers drawn
    return np.random.Generator(np.random.Philox(key=[seed, int(stream)], counter=words))


def torch_seed(seed: int, stream: Stream, *counters: int) -> int:
    """A seed for torch's own generators (initial weights, dropout), keyed as in `generator`."""
    return int(generator(seed, stream, *counters).integers(2**63))
