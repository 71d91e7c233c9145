"""Means over members, for the methods that average: the same bits on all replicas, and never a sick member's values."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from wash_hpc.ensemble.flat import get_statistics
from wash_hpc.errors import HealthError
from wash_hpc.parallel.exchange import is_finite
from wash_hpc.parallel.reducer import Scope

if TYPE_CHECKING:
    from wash_hpc.methods import Context


def num_sent(num_values: int, num_members: int) -> int:
    """Scalars that a member sends in a ring allreduce of so many: 2 (N-1)/N d."""
    return round(2 * (num_members - 1) / num_members * num_values)


def mean_over_members(context: Context, tensor: Tensor) -> Tensor:
    """The mean of the members' tensors, as a new one. Collective over `exchange_comm` and `member_comm`.

    The replicas of a member would all have the same mean if each column summed in the same order. Libraries do not
    promise it, so replica 0's mean is given to the others.

    Raises:
        HealthError: it is not finite; on all ranks. Nothing of it has been taken over.
    """
    layout = context.world.layout
    mean = context.reducer.mean_(tensor.detach().clone(), Scope.MEMBERS)
    if layout.num_members > 1:
        context.reducer.broadcast_(mean, Scope.MEMBER)
    if mean.is_floating_point() and not is_finite(mean):
        healthy = context.world.comm.allgather((layout.member, is_finite(tensor.detach())))
        sick = sorted({member for member, is_well in healthy if not is_well})
        named = f"member{'s' * (len(sick) != 1)} {', '.join(map(str, sick))}"
        raise HealthError(
            f"{named}: values that are not finite were to be averaged; nobody has taken them over. Try a lower "
            "optimizer.lr, or continue from a checkpoint"
        )
    return mean


def statistics_of_member(context: Context) -> Tensor:
    """The mean of the replicas' statistics, as a new tensor. Collective over `member_comm`."""
    return context.reducer.mean_(get_statistics(context.model), Scope.MEMBER)


def pull(values: Tensor, goal: Tensor, share: float) -> None:
    """values <- (1 - share) values + share goal, in place."""
    values.mul_(1 - share).add_(goal, alpha=share)
