"""What the exchange is compared with: the least that it could cost, and the dense ways of doing the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wash_hpc.shuffle.draw import Draw, Drawer
from wash_hpc.shuffle.plan import make_plan


def draw_densely(drawer: Drawer, step: int) -> Draw:
    """The dense way: a Bernoulli variable for every parameter, a permutation by argsort for every picked one."""
    random = torch.Generator().manual_seed(step)
    layers = zip(drawer.layer_sizes, drawer.probabilities, strict=True)
    chosen = torch.cat([torch.bernoulli(torch.full((int(size),), float(p)), generator=random) for size, p in layers])
    positions = chosen.nonzero().flatten().numpy()
    keys = torch.rand(drawer.num_members, len(positions), generator=random)
    return Draw(positions, keys.argsort(dim=0).numpy().astype(np.uint16), drawer.topology.groups(step))


class Floor:
    """The least: plain calls on preallocated buffers, with the same plan, and no flags."""

    def __init__(self, comm: Any, values: Tensor, capacity: int) -> None:
        from wash_hpc.parallel.exchange import INTEGERS

        self.comm = comm
        integer, self.datatype = INTEGERS[values.element_size()]
        self.bits = values.view(integer)
        self.send, self.recv = self.bits.new_empty(capacity), self.bits.new_empty(capacity)
        self.host = [torch.empty(capacity, dtype=self.bits.dtype, pin_memory=values.is_cuda) for _ in range(2)]

    def prepare(self, draw: Draw) -> tuple[Any, ...]:
        """What the calls take, made beforehand."""
        plan = make_plan(draw, self.comm.rank)
        positions = [torch.from_numpy(each).to(self.bits.device) for each in (plan.send_positions, plan.recv_positions)]
        return (*positions, plan)

    def __call__(self, prepared: tuple[Any, ...]) -> None:
        """index_select, Alltoallv, index_copy_; from a GPU by way of pinned host memory."""
        send_positions, recv_positions, plan = prepared
        size, on_gpu = plan.num_moved, self.bits.is_cuda
        torch.index_select(self.bits, 0, send_positions, out=self.send[:size])
        send, recv = self.host if on_gpu else (self.send, self.recv)
        if on_gpu:
            send[:size].copy_(self.send[:size], non_blocking=True)
            torch.cuda.synchronize()
        self.comm.Alltoallv(
            [send.numpy(), plan.send_counts, plan.send_displacements, self.datatype],
            [recv.numpy(), plan.recv_counts, plan.recv_displacements, self.datatype],
        )
        if on_gpu:
            self.recv[:size].copy_(recv[:size], non_blocking=True)
        self.bits.index_copy_(0, recv_positions, self.recv[:size])


class MaskAverage:
    """For every tensor a dense mask, broadcast by rank 0, then the mean of what it picks, as public SPARTA has it."""

    def __init__(self, comm: Any, tensors: Sequence[Tensor], probabilities: NDArray[np.float64]) -> None:
        self.comm, self.tensors, self.probabilities = comm, tensors, probabilities

    def __call__(self) -> None:
        """Two collectives a tensor."""
        from mpi4py import MPI

        for tensor, p in zip(self.tensors, self.probabilities, strict=True):
            mask = torch.empty(len(tensor), dtype=torch.bool)
            if self.comm.rank == 0:
                mask = torch.rand(len(tensor)) < float(p)
            self.comm.Bcast(mask.view(torch.uint8).numpy())
            picked = tensor[mask]
            self.comm.Allreduce(MPI.IN_PLACE, picked.numpy())
            tensor[mask] = picked / self.comm.size
