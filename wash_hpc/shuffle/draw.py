"""Draw: which positions are shuffled at a step, and by which permutations. Pure, and the same on every rank.

A draw is a function of seed, step and the method's place in the run, so nothing about it is ever sent or saved. Its
cost is proportional to the number of positions picked, never to the number of parameters: instead of tossing a coin for
every parameter we walk from one picked position to the next.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import permutations
from math import factorial
from typing import Literal
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from wash_hpc.seeds import Stream, generator
from wash_hpc.shuffle.topology import Members, Topology

Permutation = Literal["uniform", "cyclic"]


_TABLE_UP_TO = 8  # members of a group whose 8! = 40,320 permutations fit into a table and a processor's cache


@dataclass(frozen=True)
class Draw:
    """The random outcome of one step.

    Attributes:
        positions: [K] int64, strictly increasing, places in the flat parameter vector.
        source: [M, K] uint16; member m takes the value that member `source[m, k]` has at `positions[k]`.
            Every column is a permutation of the members.
        groups: who may take whose values: members, ascending; a member of no group keeps its own.
    """

    positions: NDArray[np.int64]
    source: NDArray[np.uint16]
    groups: list[Members]

    @property
    def digest(self) -> int:
        """A checksum of the whole draw, equal on two ranks that drew the same."""
        return crc32(self.source.tobytes(), crc32(self.positions.tobytes()))


class Drawer:
    """Makes the draw of any step.

    Picking each parameter of layer l independently with probability p_l is the same as throwing the points of a
    Poisson process of intensity h_l = -log(1 - p_l) on every parameter's unit interval and picking those that were
    hit, since P(no hit) = exp(-h_l) = 1 - p_l. The points are reached one after the other by exponential gaps, over
    all layers in one pass. Layers with p_l = 1 are picked whole.

    Args:
        seed: the run's seed.
        topology: the members, and which of them meet at a step; a number M stands for all of M members, always.
        layer_sizes: [L] number of parameters of each layer, in storage order.
        probabilities: [L] probability of each layer, in [0, 1].
        permutation: `uniform` over all permutations of a group, or `cyclic`: a rotation of the group by at least one
            place, so that every picked value moves.
        number: which of the run's methods draws: each has random numbers of its own.
    """

    def __init__(
        self,
        seed: int,
        topology: Topology | int,
        layer_sizes: Sequence[int],
        probabilities: NDArray[np.float64],
        permutation: Permutation = "uniform",
        number: int = 0,
    ) -> None:
        self.seed = seed
        self.number = number
        self.topology = Topology(topology) if isinstance(topology, int) else topology
        self.permutation: Permutation = permutation
        self.layer_sizes = np.asarray(layer_sizes, dtype=np.int64)
        self.layer_starts = np.cumsum(self.layer_sizes) - self.layer_sizes
        self.probabilities = np.asarray(probabilities, dtype=np.float64)
        certain = self.probabilities >= 1.0
        self.intensities = -np.log1p(-np.where(certain, 0.0, self.probabilities))
        self.layer_ends = np.cumsum(self.intensities * self.layer_sizes)  # in units of the process's own clock
        # From that clock to positions: the point t lies in the parameter floor(t * scale + shift).
        self.scales = 1.0 / np.where(self.intensities > 0, self.intensities, 1.0)
        self.shifts = self.layer_starts - (self.layer_ends - self.intensities * self.layer_sizes) * self.scales
        whole = [
            np.arange(a, a + n) for a, n in zip(self.layer_starts[certain], self.layer_sizes[certain], strict=True)
        ]
        self.certain_positions = np.concatenate([*whole, np.empty(0, dtype=np.int64)])

    @property
    def num_members(self) -> int:
        """M."""
        return self.topology.num_members

    @property
    def expected_picked(self) -> float:
        """Mean number of positions picked in a step: sum over layers of p_l d_l."""
        return float(self.probabilities @ self.layer_sizes)

    @property
    def most_expected_moved(self) -> float:
        """Mean number of values that a member sends in a step, of the step and the member that send most."""
        steps = [step for step, _ in self.topology.different_exchanges()]
        return self.expected_picked * float(max(self._moved_share(step).max() for step in steps))

    def scaled(self, factor: float) -> Drawer:
        """A drawer of the same seed, layers and topology, every probability times `factor`, in [0, 1]."""
        if factor == 1.0:
            return self
        probabilities = self.probabilities * factor
        return Drawer(self.seed, self.topology, self.layer_sizes.tolist(), probabilities, self.permutation, self.number)

    def pick(self, step: int) -> NDArray[np.int64]:
        """The positions of a step alone: [K] int64, strictly increasing, a function of (seed, number, step)."""
        return self._pick(generator(self.seed, Stream.SHUFFLE, step, 0, self.number))

    def _moved_share(self, step: int) -> NDArray[np.float64]:
        return self.topology.moved_share(step, self.permutation == "cyclic")

    def draw(self, step: int, absent: Collection[int] = ()) -> Draw:
        """The draw of a step, a function of (seed, number, step) alone as long as all members take part.

        Args:
            step: number of the update, from 1.
            absent: members that take no part; equal on all ranks.
        """
        positions = self.pick(step)
        groups = self.topology.groups(step, absent)
        random = generator(self.seed, Stream.SHUFFLE, step, 1, self.number)
        return Draw(positions, self._permute(len(positions), groups, random), groups)

    def _pick(self, random: np.random.Generator) -> NDArray[np.int64]:
        points = _poisson_points(random, self.layer_ends[-1])
        ends = np.searchsorted(points, self.layer_ends)
        counts = np.diff(ends, prepend=0)
        points *= np.repeat(self.scales, counts)
        points += np.repeat(self.shifts, counts)
        positions = points.astype(np.int64)
        # The first and the last point of a layer may round into its neighbour.
        hit = np.flatnonzero(counts)
        first, last = ends[hit] - counts[hit], ends[hit] - 1
        positions[first] = np.maximum(positions[first], self.layer_starts[hit])
        positions[last] = np.minimum(positions[last], self.layer_starts[hit] + self.layer_sizes[hit] - 1)
        is_new = np.ones(len(positions), dtype=np.bool_)
        np.not_equal(positions[1:], positions[:-1], out=is_new[1:])
        positions = positions.take(np.flatnonzero(is_new))  # hit twice is picked once
        if len(self.certain_positions):
            positions = np.sort(np.concatenate([positions, self.certain_positions]))
        return positions

    def _permute(self, num_picked: int, groups: list[Members], random: np.random.Generator) -> NDArray[np.uint16]:
        source = np.empty((self.num_members, num_picked), dtype=np.uint16)
        if sum(map(len, groups)) < self.num_members:
            source[:] = np.arange(self.num_members, dtype=np.uint16)[:, None]
        for group in groups:
            source[group] = self._permute_group(group.astype(np.uint16), num_picked, random)
        return source

    def _permute_group(
        self, group: NDArray[np.uint16], num_picked: int, random: np.random.Generator
    ) -> NDArray[np.uint16]:
        """[g, K] for each member of the group, whose value it takes; every column a permutation of the group."""
        size = len(group)
        table: NDArray[np.uint16]
        if self.permutation == "cyclic":
            shift = random.integers(1, size, size=num_picked, dtype=np.uint16)
            if size <= _TABLE_UP_TO:
                table = group[(np.arange(size)[:, None] + np.arange(size)) % size]
                return table.take(shift, axis=1)
            return np.stack([group[(shift.astype(np.int64) + place) % size] for place in range(size)])
        if size <= _TABLE_UP_TO:
            which = random.integers(factorial(size), size=num_picked, dtype=np.int64)
            table = group[_permutations(size)]
            return table.take(which, axis=1)
        source = np.repeat(group[:, None], num_picked, axis=1)
        column = np.arange(num_picked)
        for last in range(size - 1, 0, -1):  # Fisher-Yates, all columns at once
            other = random.integers(last + 1, size=num_picked, dtype=np.uint16)
            taken = source[other, column]
            source[other, column] = source[last]
            source[last] = taken
        return source


@cache
def _permutations(size: int) -> NDArray[np.int64]:
    """[g, g!] all permutations of g places as columns, in lexicographic order."""
    return np.ascontiguousarray(np.array(list(permutations(range(size)))).T)


def _poisson_points(random: np.random.Generator, end: float) -> NDArray[np.float64]:
    """The points of a Poisson process of intensity 1 on [0, end), in order."""
    num_gaps = int(end + 6.0 * np.sqrt(end)) + 16  # enough in all but one draw of a billion
    points = np.cumsum(random.standard_exponential(num_gaps))
    while points[-1] < end:
        gaps = random.standard_exponential(num_gaps)
        gaps[0] += points[-1]
        points = np.concatenate([points, np.cumsum(gaps)])
    return points[: np.searchsorted(points, end)]
