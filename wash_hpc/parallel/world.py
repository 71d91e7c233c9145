"""The ranks of a run: their communicators, how they agree, and how they all stop when one fails.

Owns mpi4py's communicators. What is exchanged over them is the business of `exchange` and the reducers.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import NoReturn, TypeVar, cast

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from wash_hpc.errors import ConfigError, StoppedError, WashError, WorldError
from wash_hpc.parallel.layout import Layout
from wash_hpc.parallel.placement import list_first

T = TypeVar("T")
Comm = MPI.Intracomm


@dataclass(frozen=True)
class World:
    """All ranks, and this rank's two smaller circles.

    Attributes:
        comm: all W ranks.
        member_comm: the R ranks of this rank's member; rank in it = replica.
        exchange_comm: this rank's replica of all M members; rank in it = member.
        layout: this rank's place.
        host: this rank's host, as the lowest rank on it.
        local_rank: this rank's number among the ranks of its host.
        num_cores: cores that this rank may count on: those it may run on, divided by the ranks that share them.
    """

    comm: Comm
    member_comm: Comm
    exchange_comm: Comm
    layout: Layout
    host: int
    local_rank: int
    num_cores: int

    @classmethod
    def open(cls, comm: Comm, num_members: int | None) -> World:
        """Share out the ranks of `comm`. Collective over it.

        Args:
            comm: all ranks.
            num_members: M, equal on all ranks, or None for one member a rank.

        Raises:
            WorldError: on all ranks, where the ranks are not a multiple of the members.
        """
        layout = Layout(comm.rank, comm.size, comm.size if num_members is None else num_members)
        local = comm.Split_type(MPI.COMM_TYPE_SHARED)
        cores = os.sched_getaffinity(0)
        return cls(
            comm=comm,
            member_comm=cast(Comm, comm.Split(layout.member, layout.replica)),
            exchange_comm=cast(Comm, comm.Split(layout.replica, layout.member)),
            layout=layout,
            host=local.bcast(comm.rank),
            local_rank=local.rank,
            num_cores=max(1, len(cores) // local.allgather(cores).count(cores)),
        )

    @property
    def is_root(self) -> bool:
        """Whether this rank writes the shared files."""
        return self.comm.rank == 0

    def require_same(self, value: object, what: str) -> None:
        """Check that `value` is equal on all ranks. Collective over `comm`.

        Raises:
            WorldError: on all ranks, naming those that differ from the majority.
        """
        values = self.comm.allgather(value)
        usual = max(values, key=values.count)
        different = [rank for rank, other in enumerate(values) if other != usual]
        if different:
            ranks = ", ".join(map(str, different))
            raise _agreed(
                WorldError(f"{what} differs between ranks: rank {ranks} has {values[different[0]]!r}, not {usual!r}")
            )

    def highest(self, numbers: NDArray[np.float64]) -> NDArray[np.float64]:
        """The highest of each of N numbers over all ranks, [N]. Collective over `comm`."""
        found = np.empty_like(numbers)
        self.comm.Allreduce(numbers, found, MPI.MAX)
        return found

    def barrier(self) -> None:
        """Wait for every rank. Collective over `comm`."""
        self.comm.Barrier()


def mpi_library() -> str:
    """The MPI library that this process has loaded, as it calls itself, such as `Open MPI v5.0.11`."""
    return MPI.Get_library_version().replace("\0", "").partition(",")[0].splitlines()[0].strip()


def start_mpi() -> Comm:
    """A communicator of all ranks: a duplicate of MPI_COMM_WORLD, so that nobody else's messages meet ours. Collective.

    From now on an uncaught error on any rank ends the whole job.
    """
    comm = MPI.COMM_WORLD.Dup()
    abort_on_uncaught_error(f"rank {comm.rank} of {comm.size}", comm.rank)
    return comm


def abort_on_uncaught_error(who: str, rank: int) -> None:
    """From now on an uncaught error ends the whole job, and is printed once. Local.

    A rank that raises outside MPI would leave the others waiting for ever. It prints its traceback and aborts
    MPI_COMM_WORLD, which ends every rank with a non-zero status. Errors that all ranks have at once are printed once:
    a rank waits a little longer the higher it is, and the first to abort ends the rest.

    Args:
        who: this rank, in the words of the message.
        rank: its number in the world.
    """

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        _let_lower_ranks_speak_first(rank)
        text = "".join(traceback.format_exception(kind, error, trace))
        sys.stderr.write(f"wash_hpc: {who} failed; stopping all ranks\n{text}")
        sys.stderr.flush()
        MPI.COMM_WORLD.Abort(1)

    sys.excepthook = hook


@contextmanager
def agreed(comm: Comm) -> Iterator[None]:
    """A block in which a user's mistake seen by one rank stops them all. Collective over `comm`.

    Raises:
        WashError: on every rank the same, that of the lowest rank which had one; where only some ranks had it, the
            sentence says which, and where only some hosts had it, on which hosts.
    """
    mistake: WashError | None = None
    try:
        yield
    except WashError as error:
        mistake = error
    said = comm.allgather(mistake)
    affected = [rank for rank, error in enumerate(said) if error is not None]
    if affected:
        first = cast(WashError, said[affected[0]])
        raise _agreed(_with(first, who_said(affected, comm.allgather(socket.gethostname())))) from mistake


def who_said(ranks: Sequence[int], hosts: Sequence[str]) -> str:
    """The end of a sentence that some ranks said, such as ` (said rank 2, 3 of 4, on node2)`.

    Args:
        ranks: which, in ascending order.
        hosts: the name of every rank's host.

    Returns:
        Nothing where all ranks said it; no hosts where each host had a rank that said it.
    """
    if len(ranks) == len(hosts):
        return ""
    names = list(dict.fromkeys(hosts[rank] for rank in ranks))
    where = "" if set(names) == set(hosts) else f", on {list_first(names)}"
    return f" (said rank {list_first(ranks)} of {len(hosts)}{where})"


def on_root(comm: Comm, make: Callable[[], T], says_host: bool = False) -> T:
    """Run `make` on rank 0 and give its result, or its `WashError`, to all. Collective over `comm`.

    Args:
        comm: all ranks.
        make: what the root does for all, such as reading a file.
        says_host: a mistake may be one of the root's host alone: where there are several, the sentence names it.
    """
    result: T | None = None
    mistake: WashError | None = None
    if comm.rank == 0:
        try:
            result = make()
        except WashError as error:
            mistake = error
    result, mistake = comm.bcast((result, mistake))
    if mistake is not None:
        is_everywhere = isinstance(mistake, ConfigError)
        hosts = comm.allgather(socket.gethostname()) if says_host and not is_everywhere else []
        raise _agreed(_with(mistake, who_said([0], hosts) if len(set(hosts)) > 1 else ""))
    return cast(T, result)


def end_for(error: WashError) -> NoReturn:
    """Say a user's mistake, or why a run has stopped, and end this process with the error's status.

    A mistake on which all ranks agree is said once, by the root. One that some ranks met and others do not know of,
    such as a disk that is full for the root, is said by the lowest of them, which ends the whole job: the others would
    wait for ever.
    """
    comm = MPI.COMM_WORLD
    if not error.agreed:
        _let_lower_ranks_speak_first(comm.rank)
    if comm.rank == 0 or not error.agreed:
        sys.stderr.write(f"wash_hpc: {'' if isinstance(error, StoppedError) else 'error: '}{error}\n")
        sys.stderr.flush()
    if comm.size > 1:
        if not error.agreed:
            comm.Abort(error.status)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # srun --kill-on-bad-exit sends it to those a moment later
    sys.exit(error.status)


def _let_lower_ranks_speak_first(rank: int) -> None:
    """Wait a little longer the higher the rank: the first to abort ends the rest, so an error is printed once."""
    time.sleep(min(rank, 8) * 0.5)


def _with(error: WashError, addition: str) -> WashError:
    """The same mistake, its sentence with something behind it."""
    error.args = (f"{error}{addition}",)
    return error


def _agreed(error: WashError) -> WashError:
    error.agreed = True
    return error
