"""The only package that communicates. mpi4py and Horovod are imported here and nowhere else, and only when used."""

from __future__ import annotations

import atexit
import os
import sys
import time
from importlib import import_module
from typing import TYPE_CHECKING

from wash_hpc.errors import MissingDependencyError, WashError, WorldError
from wash_hpc.signals import Signals
from wash_hpc.slurm import current_job, find_lone_task
from wash_hpc.startup import start_clock

if TYPE_CHECKING:
    from mpi4py import MPI

SECONDS_FOR_TASK_0 = 10.0  # to say what all tasks know, before srun --kill-on-bad-exit ends it with them
INSTALL_MPI = "pip install 'wash_hpc[mpi]'"


def require_mpi() -> None:
    """Start MPI, or say what is missing. Collective over MPI_COMM_WORLD; without a launcher the world is one rank.

    Raises:
        MissingDependencyError: no mpi4py, or no MPI library that it can load.
    """
    start_clock.ended("imports")
    try:
        import_module("mpi4py.MPI")  # starts MPI
    except (ImportError, RuntimeError) as error:
        raise MissingDependencyError(f"MPI ({error})", INSTALL_MPI) from error
    start_clock.ended("MPI")


def wait_at_exit(signals: Signals) -> None:
    """Have the ranks wait for each other on Python's way out, while threads run that may end a process by force.

    Else they would wait in MPI_Finalize, in which mpi4py lets no thread run. Called before Horovod is imported, whose
    own way out then comes first.
    """
    require_mpi()
    from mpi4py import MPI

    def wait() -> None:
        signals.leave()
        MPI.COMM_WORLD.Barrier()

    signals.stay_until_exit()
    atexit.register(wait)


def require_ranks() -> None:
    """Start MPI for ranks that work together. Collective over MPI_COMM_WORLD.

    Raises:
        MissingDependencyError: as in `require_mpi`.
        WorldError: srun started several tasks and MPI takes each for a job of its own, so that all would write into
            one folder. Task 0 says so; the others, which it cannot reach, end with the same status.
    """
    require_mpi()
    from mpi4py import MPI

    alone = find_lone_task(os.environ, MPI.COMM_WORLD.size)
    if alone is None:
        return
    job = current_job()
    if job is not None and job.task > 0:
        time.sleep(SECONDS_FOR_TASK_0)
        sys.exit(2)
    raise WorldError(alone)


def start_mpi() -> MPI.Intracomm:
    """A communicator of all ranks. Collective over MPI_COMM_WORLD.

    Raises:
        MissingDependencyError: as in `require_mpi`.
    """
    require_mpi()
    from wash_hpc.parallel import world

    return world.start_mpi()


def end_command(error: WashError) -> int:
    """Say a user's mistake once, in a way that leaves no rank waiting; returns the exit status, without MPI."""
    if "mpi4py.MPI" in sys.modules:
        from wash_hpc.parallel.world import end_for

        end_for(error)
    sys.stderr.write(f"wash_hpc: error: {error}\n")
    return error.status
