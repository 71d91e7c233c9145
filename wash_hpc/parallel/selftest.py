"""Small real jobs that show whether the ranks here can communicate, for `wash-hpc doctor`."""

from __future__ import annotations

import platform

import torch
from mpi4py import MPI

from wash_hpc.errors import MissingDependencyError
from wash_hpc.parallel import device
from wash_hpc.parallel.reducer import Scope, reducer_class
from wash_hpc.parallel.world import Comm, World
from wash_hpc.slurm import current_job


def try_mpi(comm: Comm) -> str:
    """What MPI there is and who takes part. Collective over `comm`.

    Raises:
        RuntimeError: srun started several tasks, and MPI takes each for a job of its own.
    """
    library = MPI.Get_library_version().split(",")[0].split("\n")[0]
    levels = {MPI.THREAD_MULTIPLE: "multiple", MPI.THREAD_SERIALIZED: "serialized", MPI.THREAD_FUNNELED: "funneled"}
    hosts = set(comm.allgather(platform.node()))
    job = current_job()
    if job is not None and job.task > 0 and comm.size == 1:
        raise RuntimeError(
            f"this is task {job.task} of srun, and {library} sees one rank: use another --mpi, or mpirun"
        )
    level = levels.get(MPI.Query_thread(), "single")
    return f"{library}, {_count(comm.size, 'rank')} on {_count(len(hosts), 'host')}, thread support {level}"


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
