"""Measuring a link: real exchanges of several sizes between the ranks of this job, each rank a member."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from statistics import median

import numpy as np
import torch
from mpi4py import MPI

from wash_hpc.draw_cost import scale_drawer
from wash_hpc.errors import ConfigError, WorldError
from wash_hpc.parallel.exchange import Exchange
from wash_hpc.parallel.link import Link, Timing, fit_link
from wash_hpc.parallel.world import Comm, World
from wash_hpc.shuffle.draw import Drawer
from wash_hpc.shuffle.plan import make_plan
from wash_hpc.shuffle.topology import Topology

_ROUNDS = 20
_WARM_UP = 3  # rounds that are not counted: the first exchange of two ranks connects them
_NUM_DRAWS = 4  # different ones, taken in turn, so that no cache has seen the positions just before
_LEAST_PICKED = 16.0
_MOST_PICKED = 500_000.0  # the largest size at least, so that bytes show above latency however small the run's p


@dataclass(frozen=True)
class Calibration:
    """A link and what it was fitted to.

    Attributes:
        link: the constants.
        num_ranks: that were measured.
        rounds: of each kind of exchange.
        timings: what was measured.
    """

    link: Link
    num_ranks: int
    rounds: int
    timings: list[Timing]


def calibrate(comm: Comm, drawer: Drawer, dtype: torch.dtype = torch.float32) -> Calibration:
    """Measure exchanges from nearly empty ones to four times the drawer's and beyond, and fit a link to them.

    All ranks as one group, and, where there are more than two, also in pairs (`ring`), so that messages and bytes are
    told apart by more than the size.

    Collective over `comm`, and the same on all ranks; all host memory.

    Args:
        comm: the ranks, each of which plays a member.
        drawer: of the run; its layers and their probabilities are scaled to each size.
        dtype: of the values.

    Raises:
        WorldError: there is one rank only.
        ConfigError: the run exchanges nothing.
        WashError: the timings make no sense.
    """
    if comm.size == 1:
        raise WorldError(
            "plan --calibrate measures exchanges between ranks and there is one: start it under mpirun, as in "
            "mpirun -n 4 wash-hpc plan CONFIG --calibrate"
        )
    if drawer.expected_picked == 0:
        raise ConfigError("method: nothing is ever shuffled, so there is no exchange to calibrate; expected p above 0")
    cores = use_own_cores(comm)
    usual, most = drawer.expected_picked, max(4 * drawer.expected_picked, _MOST_PICKED)
    sizes = [_LEAST_PICKED, *sorted({usual, most / 64, most / 16, most / 4, most})]
    topologies = [Topology(comm.size)] + ([Topology(comm.size, "ring")] if comm.size > 2 else [])
    timings = [
        measure_exchanges(comm, scale_drawer(drawer, size, topology), dtype)
        for topology in topologies
        for size in sizes
    ]
    link = fit_link(timings, comm.size, _measure_overhead(comm, dtype), cores)
    return Calibration(link, comm.size, _ROUNDS, timings)


def use_own_cores(comm: Comm) -> int | None:
    """Let torch compute with this rank's cores, as in training, and say how many cores there are.

    Collective over `comm`, and the same on all ranks.

    Returns:
        The cores of all hosts together that ranks may run on; None where they are no fewer than the ranks.
    """
    world = World.open(comm, None)
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(world.num_cores)
    by_host: dict[int, set[int]] = {}
    for host, cores in comm.allgather((world.host, os.sched_getaffinity(0))):
        by_host.setdefault(host, set()).update(cores)
    num_cores = sum(map(len, by_host.values()))
    return num_cores if num_cores < comm.size else None


def measure_exchanges(
    comm: Comm, drawer: Drawer, dtype: torch.dtype = torch.float32, num_rows: int = 1, rounds: int = _ROUNDS
) -> Timing:
    """Time exchanges of a drawer with ranks as members, a barrier before each. Collective over `comm`.

    Args:
        comm: as many ranks as the drawer has members.
        drawer: says what moves.
        dtype: of the values.
        num_rows: 1, or more where optimizer state moves too.
        rounds: that are counted.

    Returns:
        Messages of the rank that sends most, mean bytes, and the median over rounds of the slowest rank's seconds; the
        same on all ranks.
    """
    row_size = int(drawer.layer_sizes.sum())
    storage = torch.zeros(num_rows * row_size + 1, dtype=dtype)
    exchange = Exchange(comm, storage, drawer.most_expected_moved * num_rows)
    steps = [(number + 1) * drawer.topology.every for number in range(_NUM_DRAWS)]
    transfers = [exchange.prepare(make_plan(drawer.draw(step), comm.rank, num_rows, row_size)) for step in steps]
    seconds = []
    for number in range(_WARM_UP + rounds):
        comm.Barrier()
        begin = time.perf_counter()
        exchange(transfers[number % _NUM_DRAWS])
        seconds.append(time.perf_counter() - begin)
    slowest = np.array(seconds[_WARM_UP:])
    comm.Allreduce(MPI.IN_PLACE, slowest, MPI.MAX)
    num_bytes = comm.allreduce(sum(transfer.length for transfer in transfers)) / _NUM_DRAWS / comm.size * dtype.itemsize
    return Timing(int(drawer.topology.num_messages(steps[0]).max()), num_bytes, float(np.median(slowest)))


def _measure_overhead(comm: Comm, dtype: torch.dtype) -> float:
    """Seconds of an exchange that a rank makes with itself alone; the mean over ranks. Collective over `comm`."""
    exchange = Exchange(MPI.COMM_SELF, torch.zeros(2, dtype=dtype), 1.0)
    transfer = exchange.prepare(make_plan(Drawer(0, 1, [1], np.array([1.0])).draw(1), 0))
    seconds = []
    for _ in range(5 * _ROUNDS):
        begin = time.perf_counter()
        exchange(transfer)
        seconds.append(time.perf_counter() - begin)
    return float(comm.allreduce(median(seconds))) / comm.size
