"""Partitions: every position once in a number of steps, in an order that looks random. Pure, the same on every rank.

The order is a permutation of the positions that can be evaluated anywhere: a Feistel network, whose rounds make a
bijection out of any mixing function, on the smallest even number of bits that holds the positions, and walked again
where it leaves their range (cycle walking; Black and Rogaway, CT-RSA 2002). So a step costs O(picked) and nothing is
kept, where shuffling all positions would cost O(parameters) at once and as much memory.
"""

from __future__ import annotations

from math import ceil

import numpy as np
from numpy.typing import NDArray

from wash_hpc.seeds import Stream, generator

NUM_ROUNDS = 6
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, of no pattern: 2^64 over the golden ratio


class Partition:
    """Parts the positions [0, size) anew in every round of `num_parts` steps.

    Args:
        seed: the run's.
        size: number of positions, at least 1.
        p: share of them that a step takes, in (0, 1].
        number: which of the run's methods parts them: each has random numbers of its own.
    """

    def __init__(self, seed: int, size: int, p: float, number: int = 0) -> None:
        self.seed = seed
        self.number = number
        self.size = size
        self.num_parts = min(ceil(1 / p * (1 - 1e-9)), size)
        self.half_bits = max(1, (size - 1).bit_length() + 1 >> 1)

    def pick(self, number: int) -> NDArray[np.int64]:
        """The positions of the exchange number `number`, from 0: [K] int64, strictly increasing.

        K is size / num_parts, rounded down or up; the parts of one round are all positions, each once.
        """
        turn, part = divmod(number, self.num_parts)
        places = np.arange(
            self.size * part // self.num_parts, self.size * (part + 1) // self.num_parts, dtype=np.uint64
        )
        keys = self.keys(turn)
        positions = self._permute(places, keys)
        outside = np.flatnonzero(positions >= self.size)
        while len(outside):
            positions[outside] = self._permute(positions[outside], keys)
            outside = outside[positions[outside] >= self.size]
        return np.sort(positions.astype(np.int64))

    def keys(self, turn: int) -> NDArray[np.uint64]:
        """[NUM_ROUNDS] the keys of a round, a function of (seed, number, round)."""
        random = generator(self.seed, Stream.PARTITION, turn, self.number)
        return random.integers(2**64, size=NUM_ROUNDS, dtype=np.uint64)

    def _permute(self, places: NDArray[np.uint64], keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """A bijection of the numbers of 2 `half_bits` bits."""
        bits, mask = np.uint64(self.half_bits), np.uint64((1 << self.half_bits) - 1)
        left, right = places >> bits, places & mask
        for key in keys:
            mixed = (right + key) * MULTIPLIER  # wraps around at 2^64
            mixed = (mixed ^ (mixed >> np.uint64(32))) * MULTIPLIER
            left, right = right, left ^ ((mixed >> np.uint64(40)) & mask)
        return left << bits | right
