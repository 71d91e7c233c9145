"""Partitions: every position once in a round, another order in the next, equal to one place at a time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wash_hpc.shuffle.partition import Partition
from wash_hpc.shuffle.reference import partition_slowly


@given(st.integers(1, 3000), st.floats(0.001, 1.0), st.integers(0, 2**62), st.integers(0, 3))
def test_the_parts_of_a_round_are_all_positions_each_once(size, p, seed, turn):
    partition = Partition(seed, size, p)
    parts = [partition.pick(turn * partition.num_parts + part) for part in range(partition.num_parts)]
    assert sorted(np.concatenate(parts).tolist()) == list(range(size))
    assert all(np.all(np.diff(part) > 0) for part in parts)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("size", [1, 2, 3, 255, 256, 257, 5000])
@pytest.mark.parametrize("p", [0.013, 0.3, 1.0])
def test_a_part_is_what_one_place_at_a_time_gives(size, p):
    partition = Partition(7, size, p)
    for number in range(2 * partition.num_parts + 1):
        assert partition.pick(number).tolist() == partition_slowly(partition, number)


def test_p_gives_the_number_of_parts_and_never_more_than_there_are_positions():
    assert [Partition(0, 1000, p).num_parts for p in (1.0, 0.5, 0.3, 0.05, 1e-9)] == [1, 2, 4, 20, 1000]


def test_rounds_and_seeds_differ_and_parts_are_spread_evenly_over_all_positions():
    size = 100_000
    first, second, other, of_another_method = (
        Partition(1, size, 0.01).pick(0),
        Partition(1, size, 0.01).pick(100),
        Partition(2, size, 0.01).pick(0),
        Partition(1, size, 0.01, number=1).pick(0),
    )
    for part in (second, other, of_another_method):
        assert len(np.intersect1d(first, part)) < 40  # ten are expected
    for part in (first, second, other):
        counts = np.histogram(part, bins=20, range=(0, size))[0]  # 50 are expected in each
        assert ((counts - 50) ** 2 / 50).sum() < 50  # chi-square of 19 degrees of freedom: one in 10,000
        assert 0.4 < np.mean(np.diff(part) > 70) < 0.6  # gaps as of a random choice: exp(-0.7) of them are longer
