"""Small real jobs that show whether the ranks here can communicate, for `wash-hpc doctor`."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from typing import cast

import torch
from mpi4py import MPI

from wash_hpc.errors import MissingDependencyError
from wash_hpc.parallel import device
from wash_hpc.parallel.bandwidth import Rounds, choose_pairs, describe_ways, measure_ways
from wash_hpc.parallel.placement import Seat, describe_hosts
from wash_hpc.parallel.reducer import Scope, reducer_class
from wash_hpc.parallel.world import Comm, World
from wash_hpc.slurm import current_job


def take_seats(comm: Comm) -> list[Seat]:
    """Where each rank is. Collective over `comm`, and the same on all ranks."""
    job = current_job()
    cores = frozenset(os.sched_getaffinity(0))
    seat = Seat(World.open(comm, None).host, platform.node(), cores, None if job is None else job.cpus_per_task)
    return comm.allgather(seat)


def try_mpi(seats: Sequence[Seat]) -> str:
    """What MPI there is and who takes part. Local."""
    library = MPI.Get_library_version().split(",")[0].split("\n")[0]
    levels = {MPI.THREAD_MULTIPLE: "multiple", MPI.THREAD_SERIALIZED: "serialized", MPI.THREAD_FUNNELED: "funneled"}
    num_hosts = len({seat.host for seat in seats})
    ranks = f"{_count(len(seats), 'rank')} on {_count(num_hosts, 'host')} ({describe_hosts(seats)})"
    return f"{library}, {ranks}, thread support {levels.get(MPI.Query_thread(), 'single')}"


def try_ways(comm: Comm, seats: Sequence[Seat], gpu: torch.device | None) -> tuple[str, list[str]]:
    """Messages between pairs of ranks, in host memory, and in that of GPUs where MPI says that it takes it.

    Collective over `comm`.

    Args:
        comm: the ranks.
        seats: of all ranks.
        gpu: this rank's, if it has one.

    Returns:
        A heading, and lines.
    """
    if comm.size == 1:
        return "one rank has nobody to talk to", []
    inside, across = choose_pairs([seat.host for seat in seats])
    lines = _measure(comm, seats, inside, across, torch.device("cpu"))
    if comm.allreduce(gpu is not None and device.says_cuda_aware(), MPI.LAND):
        lines += ["in GPU memory:", *_measure(comm, seats, inside, across, cast(torch.device, gpu))]
    return "a large and a small message between two ranks, one pair a host at a time, in host memory:", lines


def _measure(comm: Comm, seats: Sequence[Seat], inside: Rounds, across: Rounds, memory: torch.device) -> list[str]:
    ways = [way for rounds in (inside, across) for way in measure_ways(comm, rounds, memory)]
    return describe_ways(ways, seats)


def ask_for_device_buffers() -> str:
    """What the MPI library says of itself about GPU memory. Local.

    Only a trial shows the truth, and where it fails MPI ends the process; so the trial is `parallel.device_buffers=on`.
    """
    if device.says_cuda_aware():
        return "this MPI says that it takes GPU memory; parallel.device_buffers=auto tries and times it"
    return "this MPI does not say that it takes GPU memory; parallel.device_buffers=on tries it anyhow"


def try_exchange(comm: Comm) -> str:
    """A shuffle with all ranks as members, compared with the slow reference. Collective over `comm`.

    Raises:
        RuntimeError: values that came back are wrong.
    """
    if not device.try_exchange(comm, torch.device("cpu"), staged=False):
        raise RuntimeError("values that came back from Alltoallv are not those of the reference")
    seconds = device.measure_exchange(comm, torch.device("cpu"), staged=False, expected_moved=100_000)
    return f"a shuffle between {_count(comm.size, 'rank')} is exact; one of 400 kB takes {seconds * 1e3:.2f} ms"


def try_horovod(comm: Comm) -> str:
    """A sum over all ranks. Collective over `comm`.

    Raises:
        MissingDependencyError: Horovod is not installed.
        RuntimeError: the sum is wrong.
    """
    missing: MissingDependencyError | None = None
    try:
        make_reducer = reducer_class("horovod")
    except MissingDependencyError as error:
        missing = error
    lacking = [rank for rank, lacks in enumerate(comm.allgather(missing is not None)) if lacks]
    if lacking:  # on any rank: the others must not wait for it in a collective
        raise missing or RuntimeError(f"Horovod is not installed on rank {', '.join(map(str, lacking))}")
    from wash_hpc.parallel.horovod_reducer import describe_horovod

    reducer = make_reducer(World.open(comm, None))
    total = reducer.sum_(torch.full((3,), float(comm.rank)), Scope.WORLD)
    expected = comm.size * (comm.size - 1) / 2
    reducer.close()
    if not bool((total == expected).all()):
        raise RuntimeError(f"the sum of the ranks is {total.tolist()}, not {expected}")
    return f"{describe_horovod()}; a sum over {_count(comm.size, 'rank')} is exact"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"
