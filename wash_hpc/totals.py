"""Sums over ranks by member, and what a run has come to over all its starts."""

from __future__ import annotations

import time

import numpy as np
import torch
from numpy.typing import NDArray

from wash_hpc.methods import Method
from wash_hpc.parallel.reducer import Reducer, Scope
from wash_hpc.parallel.world import World
from wash_hpc.storage.checkpoint import Manifest

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


class Totals:
    """Of a run; it counts from the moment it is made, and adds what the starts before came to.

    Args:
        world: the ranks.
        reducer: sums over ranks.
        method: counts what this rank sends.
        start: the checkpoint from which the run goes on, or None.
    """

    def __init__(self, world: World, reducer: Reducer, method: Method, start: Manifest | None) -> None:
        self._world = world
        self._reducer = reducer
        self._method = method
        zeros = [0] * world.layout.num_members
        self._moved_before = np.array(start.values_moved if start else zeros, dtype=np.int64)
        self._bytes_before = np.array(start.bytes_sent if start else zeros, dtype=np.int64)
        self._seconds_before = start.wall_seconds if start else 0.0
        self._started = time.perf_counter()

    def wall_seconds(self) -> float:
        """Since the run began, evaluations included. Local."""
        return self._seconds_before + time.perf_counter() - self._started

    def moved_and_sent(self) -> tuple[Integers, Integers]:
        """[M] scalars moved and [M] bytes sent by each member, all its replicas together. Collective over the world."""
        sums = self.by_member([float(self._method.values_moved), float(self._method.bytes_sent)]).astype(np.int64)
        return self._moved_before + sums[:, 0], self._bytes_before + sums[:, 1]

    def by_member(self, numbers: list[float]) -> Floats:
        """[M, N], each member's N numbers summed over its replicas; equal on all ranks. Collective over the world."""
        table = torch.zeros(self._world.layout.num_members, len(numbers), dtype=torch.float64)
        table[self._world.layout.member] = torch.tensor(numbers, dtype=torch.float64)
        summed: Floats = self._reducer.sum_(table, Scope.WORLD).numpy()
        return summed
