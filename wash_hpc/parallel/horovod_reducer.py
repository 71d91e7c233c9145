"""The reducer on Horovod, with one process set a scope: NCCL on GPUs, MPI on CPUs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import horovod
import horovod.torch as hvd
import torch
from torch import Tensor

from wash_hpc.parallel.reducer import Scope
from wash_hpc.parallel.world import World

_FUSION = "HOROVOD_FUSION_THRESHOLD"


class HorovodReducer:
    """See `Reducer`. A scope of one rank does nothing; a scope of all ranks is Horovod's global process set."""

    def __init__(self, world: World) -> None:
        layout = world.layout
        member_sets = [hvd.ProcessSet(layout.ranks_of_member(member)) for member in range(layout.num_members)]
        column_sets = [hvd.ProcessSet(layout.ranks_of_replica(replica)) for replica in range(layout.num_replicas)]
        # Horovod knows the set of all ranks already and refuses a second one; sets of one rank are never used.
        # All ranks must name all sets, in the same order.
        both_split = 1 < layout.num_members < layout.size
        with _fusing(layout.num_replicas <= 2 or any(world.comm.allgather(torch.cuda.is_available()))):
            hvd.init(process_sets=[*member_sets, *column_sets] if both_split else [])
        if not both_split:
            member_sets = [hvd.global_process_set] * layout.num_members
            column_sets = [hvd.global_process_set] * layout.num_replicas
        self._world = world
        self._sets = {
            Scope.MEMBER: (member_sets[layout.member], layout.ranks_of_member(layout.member)),
            Scope.MEMBERS: (column_sets[layout.replica], layout.ranks_of_replica(layout.replica)),
            Scope.WORLD: (hvd.global_process_set, list(range(layout.size))),
        }
        self._pending: list[int] = []

    def sum_(self, tensor: Tensor, scope: Scope) -> Tensor:
        """See `Reducer.sum_`."""
        return self._allreduce(tensor, scope, hvd.Sum)

    def mean_(self, tensor: Tensor, scope: Scope) -> Tensor:
        """See `Reducer.mean_`."""
        return self._allreduce(tensor, scope, hvd.Average)

    def broadcast_(self, tensor: Tensor, scope: Scope, root: int = 0) -> Tensor:
        """See `Reducer.broadcast_`."""
        process_set, ranks = self._sets[scope]
        if len(ranks) > 1 and tensor.numel() > 0:
            # Horovod counts the root in world ranks, whatever the process set.
            hvd.broadcast_(tensor, ranks[root], name=f"broadcast.{scope.value}", process_set=process_set)
        return tensor

    def start_mean_(self, tensor: Tensor, name: str) -> None:
        """See `Reducer.start_mean_`; Horovod reduces in its own thread while backward goes on."""
        process_set, ranks = self._sets[Scope.MEMBER]
        if len(ranks) > 1:
            self._pending.append(hvd.allreduce_async_(tensor, op=hvd.Average, name=name, process_set=process_set))

    def finish(self) -> None:
        """See `Reducer.finish`."""
        for handle in self._pending:
            hvd.synchronize(handle)
        self._pending.clear()

    def close(self) -> None:
        """Shut Horovod down."""
        self._world.barrier()  # a rank that shuts down early kills those which still reduce
        hvd.shutdown()

    def _allreduce(self, tensor: Tensor, scope: Scope, op: int) -> Tensor:
        process_set, ranks = self._sets[scope]
        if len(ranks) > 1 and tensor.numel() > 0:  # Horovod does not take what a model without statistics has
            # Horovod matches operations by name. Each ends before the next begins, so one name serves for all of a
            # kind, as a gradient's does at every step; new ones would fill its cache of names.
            name = f"{'sum' if op == hvd.Sum else 'mean'}.{scope.value}"
            hvd.allreduce_(tensor, op=op, name=name, process_set=process_set)
        return tensor


@contextmanager
def _fusing(wanted: bool) -> Iterator[None]:
    """Have Horovod begin with or without fusion, the same on all ranks; HOROVOD_FUSION_THRESHOLD of the user's wins.

    What is fused depends on timing, and with it the order of a sum of three replicas or more: a run would not repeat
    itself. Where there are GPUs it is left to Horovod, as a launch for each gradient would cost too much.
    """
    if wanted or _FUSION in os.environ:
        yield
        return
    os.environ[_FUSION] = "0"
    try:
        yield
    finally:
        del os.environ[_FUSION]


def describe_horovod() -> str:
    """What Horovod was built with."""
    built = {"MPI": hvd.mpi_built(), "NCCL": hvd.nccl_built(), "Gloo": hvd.gloo_built()}
    return f"Horovod {horovod.__version__}, built with {', '.join(name for name, there in built.items() if there)}"
