"""The reducer on plain mpi4py: the oracle of the Horovod one, and for sites where Horovod cannot be built.

Tensors on a device are staged through host memory.
"""

from __future__ import annotations

import torch
from mpi4py import MPI
from torch import Tensor

from wash_hpc.parallel.reducer import Scope
from wash_hpc.parallel.world import World

_DATATYPE = {torch.float32: MPI.FLOAT, torch.float64: MPI.DOUBLE, torch.int64: MPI.INT64_T}


class MPIReducer:
    """See `Reducer`; each call is one MPI collective over the scope's communicator."""

    def __init__(self, world: World) -> None:
        self._comms = {Scope.MEMBER: world.member_comm, Scope.MEMBERS: world.exchange_comm, Scope.WORLD: world.comm}
        self._pending: list[tuple[MPI.Request, Tensor, Tensor]] = []

    def sum_(self, tensor: Tensor, scope: Scope) -> Tensor:
        """See `Reducer.sum_`."""
        comm = self._comms[scope]
        if comm.size > 1:
            host = tensor.detach().cpu()
            comm.Allreduce(MPI.IN_PLACE, [host.numpy(), _DATATYPE[host.dtype]], MPI.SUM)
            tensor.copy_(host)
        return tensor

    def mean_(self, tensor: Tensor, scope: Scope) -> Tensor:
        """See `Reducer.mean_`."""
        size = self._comms[scope].size
        return self.sum_(tensor, scope).div_(size) if size > 1 else tensor

    def broadcast_(self, tensor: Tensor, scope: Scope, root: int = 0) -> Tensor:
        """See `Reducer.broadcast_`."""
        comm = self._comms[scope]
        if comm.size > 1:
            host = tensor.detach().cpu()
            comm.Bcast([host.numpy(), _DATATYPE[host.dtype]], root=root)
            tensor.copy_(host)
        return tensor

    def start_mean_(self, tensor: Tensor, name: str) -> None:
        """See `Reducer.start_mean_`; autograd meets the parameters of one model in the same order on all replicas."""
        comm = self._comms[Scope.MEMBER]
        if comm.size > 1:
            host = tensor.detach().cpu()
            request = comm.Iallreduce(MPI.IN_PLACE, [host.numpy(), _DATATYPE[host.dtype]], MPI.SUM)
            self._pending.append((request, tensor, host))

    def finish(self) -> None:
        """See `Reducer.finish`."""
        for request, tensor, host in self._pending:
            request.Wait()
            tensor.copy_(host.div_(self._comms[Scope.MEMBER].size))
        self._pending.clear()

    def close(self) -> None:
        """Nothing to end: the world owns the communicators."""
