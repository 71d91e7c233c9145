"""Reductions: what is averaged or broadcast, over which ranks, and who does it.

`Reducer` is the small interface that Horovod and plain MPI both stand behind. The choice is the configuration's
(`parallel.reducer`); nothing falls back silently.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from wash_hpc.errors import MissingDependencyError

if TYPE_CHECKING:
    from wash_hpc.parallel.world import World

INSTALL_HOROVOD = "tools/install_horovod.sh"


class Scope(Enum):
    """The ranks over which a reduction runs."""

    MEMBER = "member"  # the replicas of this rank's member: `member_comm`
    MEMBERS = "members"  # one replica of every member: `exchange_comm`
    WORLD = "world"  # every rank: `comm`


class Reducer(Protocol):
    """Sums, means and broadcasts. Every call but `close` is collective over its scope, in the same order on all ranks.

    Tensors are contiguous, float32, float64 or int64, of equal shape on all ranks of the scope.
    """

    def sum_(self, tensor: Tensor, scope: Scope) -> Tensor:
        """Replace `tensor` by its sum over the scope; equal on all its ranks, bit for bit."""

    def mean_(self, tensor: Tensor, scope: Scope) -> Tensor:
        """Replace a floating-point `tensor` by its mean over the scope; equal on all its ranks, bit for bit."""

    def broadcast_(self, tensor: Tensor, scope: Scope, root: int = 0) -> Tensor:
        """Replace `tensor` by that of rank `root` of the scope (a replica, a member or a world rank)."""

    def start_mean_(self, tensor: Tensor, name: str) -> None:
        """Begin `mean_(tensor, Scope.MEMBER)`; the tensor must not be touched until `finish`.

        Args:
            tensor: replaced by its mean.
            name: the same on all ranks, used once between two calls of `finish`.
        """

    def finish(self) -> None:
        """Wait for all that `start_mean_` began."""

    def close(self) -> None:
        """End the reducer. Collective over the world; no call may follow."""


def reducer_class(kind: str) -> Callable[[World], Reducer]:
    """The reducer that the configuration names, still to be opened with the world. Local.

    Args:
        kind: `horovod` or `mpi`.

    Returns:
        What makes the reducer; calling it is collective over the world.

    Raises:
        MissingDependencyError: Horovod is asked for and cannot be imported.
    """
    if kind == "mpi":
        from wash_hpc.parallel.mpi_reducer import MPIReducer

        return MPIReducer
    try:
        from wash_hpc.parallel.horovod_reducer import HorovodReducer
    except ImportError as error:
        raise MissingDependencyError(f"Horovod ({error})", INSTALL_HOROVOD, "or set parallel.reducer=mpi") from error
    return HorovodReducer
