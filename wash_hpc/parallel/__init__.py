"""The only package that communicates. mpi4py and Horovod are imported here and nowhere else, and only when used."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING

from wash_hpc.errors import MissingDependencyError, WashError

if TYPE_CHECKING:
    from mpi4py import MPI

INSTALL_MPI = "pip install 'wash_hpc[mpi]'"


def require_mpi() -> None:
    """Start MPI, or say what is missing. Collective over MPI_COMM_WORLD; without a launcher the world is one rank.

    Raises:
        MissingDependencyError: no mpi4py, or no MPI library that it can load.
    """
    try:
        import_module("mpi4py.MPI")  # starts MPI
    except (ImportError, RuntimeError) as error:
        raise MissingDependencyError(f"MPI ({error})", INSTALL_MPI) from error


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
