"""Small real jobs that show whether the ranks here can communicate, for `wash-hpc doctor`."""

from __future__ import annotations

import ctypes
import platform

import numpy as np
import torch
from mpi4py import MPI

from wash_hpc.errors import MissingDependencyError
from wash_hpc.parallel.exchange import Exchange
from wash_hpc.parallel.reducer import Scope, reducer_class
from wash_hpc.parallel.world import Comm, World
from wash_hpc.seeds import Stream, generator
from wash_hpc.shuffle.draw import Drawer
from wash_hpc.shuffle.plan import make_plan
from wash_hpc.shuffle.reference import shuffle_members
from wash_hpc.slurm import current_job

_SIZE = 10_000


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
    try:
        takes = bool(ctypes.CDLL(MPI.__file__).MPIX_Query_cuda_support())
    except AttributeError:  # an extension that not every MPI has
        return "this MPI does not say whether it takes GPU memory; parallel.device_buffers=on tries it"
    if takes:
        return "this MPI says that it takes GPU memory; parallel.device_buffers=on tries it"
    return "this MPI takes host memory only; exchanges on a GPU go through pinned host memory"


def try_exchange(comm: Comm) -> str:
    """A shuffle with all ranks as members, compared with the slow reference. Collective over `comm`.

    Raises:
        RuntimeError: values that came back are wrong.
    """
    drawer = Drawer(0, comm.size, [_SIZE], np.array([0.05]))
    everyone = torch.from_numpy(generator(0, Stream.SYNTHETIC, 0).standard_normal((comm.size, _SIZE)))
    mine = everyone[comm.rank].clone()
    draw = drawer.draw(1)
    sent = Exchange(comm, mine, drawer.expected_picked)(make_plan(draw, comm.rank))
    if not torch.equal(mine, shuffle_members(everyone, draw)[comm.rank]):
        raise RuntimeError("values that came back from Alltoallv are not those of the reference")
    return f"a shuffle between {_count(comm.size, 'rank')} is exact; this rank sent {sent} bytes"


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
