"""By what MPI's ranks are connected, as MPI itself says it: Open MPI does, on standard output, while it starts."""

from __future__ import annotations

import ctypes
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from wash_hpc.parallel import start_mpi

if TYPE_CHECKING:
    from wash_hpc.parallel.world import Comm

_SWITCH = "OMPI_MCA_ompi_display_comm"
_FABRIC = Path("/sys/class/infiniband")


def start_and_listen() -> tuple[Comm, str]:
    """Start MPI, if it has not been started, and take down what it says. Collective over MPI_COMM_WORLD.

    Returns:
        A communicator of all ranks; and Open MPI's words on the root. They are empty elsewhere, of another MPI, and
        where the user has asked for them already and sees them.

    Raises:
        MissingDependencyError: as from `start_mpi`.
    """
    if _SWITCH in os.environ:
        return start_mpi(), ""
    os.environ[_SWITCH] = "mpi_init"
    try:
        with tempfile.TemporaryFile() as said:
            with _standard_output_in(said):
                comm = start_mpi()
            said.seek(0)
            return comm, said.read().decode(errors="replace")
    finally:
        del os.environ[_SWITCH]


def read_connections(said: str) -> dict[str, str]:
    """The summary in Open MPI's words: by what ranks are connected `on-host` and `off-host`, where there are others."""
    lines = [
        line.strip().partition(":") for line in said.splitlines() if line.strip().startswith(("on-host:", "off-host:"))
    ]
    ways = {where: way.strip().removeprefix("all connections are ") for where, _, way in lines}
    return {where: way for where, way in ways.items() if way not in {"n/a", "self"}}


def find_fabric() -> list[str]:
    """Names of this host's InfiniBand and RoCE devices."""
    return sorted(entry.name for entry in _FABRIC.iterdir()) if _FABRIC.is_dir() else []


def describe_connections(connections: dict[str, str], fabric: list[str]) -> tuple[str, list[str]]:
    """What the doctor says of them, and warns of.

    Args:
        connections: from `read_connections`.
        fabric: from `find_fabric`.

    Returns:
        `sm in a host, tcp across`, or empty where nothing is known; and sentences.
    """
    names = {"on-host": "in a host", "off-host": "across"}
    text = ", ".join(f"{connections[where]} {name}" for where, name in names.items() if where in connections)
    if connections.get("off-host") == "tcp" and fabric:
        return text, [f"there is {', '.join(fabric)}, and MPI goes by tcp across hosts"]
    return text, []


@contextmanager
def _standard_output_in(file: IO[bytes]) -> Iterator[None]:
    """What C code of this process prints meanwhile goes into a file."""
    sys.stdout.flush()
    saved = os.dup(1)
    os.dup2(file.fileno(), 1)
    try:
        yield
    finally:
        ctypes.CDLL(None).fflush(None)  # what the C library still holds must not come later, where it does not belong
        os.dup2(saved, 1)
        os.close(saved)
