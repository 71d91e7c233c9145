"""Messages between real pairs of ranks, for the doctor."""

from __future__ import annotations

import os
import platform
import time

import pytest
import torch

from wash_hpc.parallel.bandwidth import choose_pairs, measure_ways
from wash_hpc.parallel.selftest import take_seats


@pytest.mark.mpi(ranks=[1, 3], timeout=120)
def test_ranks_of_one_machine_sit_on_one_host_and_each_pair_is_measured_once(mpi_ranks, comm):
    seats = take_seats(comm)
    assert [seat.host for seat in seats] == [0] * mpi_ranks
    assert all(seat.name == platform.node() and seat.cores == os.sched_getaffinity(0) for seat in seats)
    inside, across = choose_pairs([seat.host for seat in seats])
    ways = measure_ways(comm, inside, torch.device("cpu"))
    assert measure_ways(comm, across, torch.device("cpu")) == []
    assert sorted(way.pair for way in ways) == [(a, b) for a in range(mpi_ranks) for b in range(a + 1, mpi_ranks)]
    assert all(way.latency > 0 and way.bandwidth > 1e6 for way in ways)
    assert comm.allgather(ways) == [ways] * comm.size


@pytest.mark.mpi(ranks=[4], timeout=120)
def test_pairs_of_different_hosts_talk_at_the_same_time(mpi_ranks, comm):
    inside, across = choose_pairs([0, 0, 2, 2])  # as if they were two hosts
    assert inside == [[(0, 1), (2, 3)]]
    assert {way.pair for way in measure_ways(comm, inside, torch.device("cpu"))} == {(0, 1), (2, 3)}
    assert {way.pair for way in measure_ways(comm, across, torch.device("cpu"))} == {(0, 2), (1, 3)}


@pytest.mark.mpi(ranks=[3], timeout=120)
def test_no_new_round_begins_when_the_time_is_over(mpi_ranks, comm, monkeypatch):
    monkeypatch.setattr("wash_hpc.parallel.bandwidth._MOST_SECONDS", 0.0)
    begin = time.perf_counter()
    ways = measure_ways(comm, [[(0, 1)]] * 1000, torch.device("cpu"))
    assert [way.pair for way in ways] == [(0, 1)]
    assert time.perf_counter() - begin < 60
