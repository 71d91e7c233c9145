"""The exchange: one MPI_Alltoallv that carries out a plan on one member's values.

Values move as integers of their own width, so they arrive bit for bit and half-precision types need no MPI support.
Nothing but values is sent: both sides know the plan. Buffers are allocated once.
"""

from __future__ import annotations

import torch
from mpi4py import MPI
from torch import Tensor

from wash_hpc.shuffle.plan import Plan

_INTEGER = {2: (torch.int16, MPI.INT16_T), 4: (torch.int32, MPI.INT32_T), 8: (torch.int64, MPI.INT64_T)}


class Exchange:
    """Moves values between the members of one communicator.

    Args:
        comm: the exchange communicator; rank in it = member.
        values: [N] contiguous, this member's parameters, followed by its optimizer state where that moves too. The
            exchange changes them in place; they must stay where they are.
        expected_moved: mean number of values that a member sends in one step; sizes the buffers.
        device_buffers: hand CUDA memory to MPI. False: stage through pinned host memory. Ignored on a CPU.
    """

    def __init__(
        self, comm: MPI.Intracomm, values: Tensor, expected_moved: float, device_buffers: bool = False
    ) -> None:
        if values.dim() != 1 or not values.is_contiguous():
            raise ValueError(f"values must be flat and contiguous, not of shape {tuple(values.shape)}")
        self.comm = comm
        self.values = values
        integer, self._datatype = _INTEGER[values.element_size()]
        self._bits = values.detach().view(integer)
        self._staged = values.is_cuda and not device_buffers
        # Six standard deviations above the mean; a larger draw, one in a billion, allocates anew.
        self._allocate(min(values.numel(), int(expected_moved + 6 * expected_moved**0.5) + 16))

    def __call__(self, plan: Plan) -> int:
        """Carry out a plan. Collective over `comm`, with plans of the same draw on all ranks.

        Args:
            plan: this member's view of the draw.

        Returns:
            Bytes of payload that this member sent.
        """
        num_moved = plan.num_moved
        if num_moved > self._send.numel():
            self._allocate(num_moved)
        if self.comm.size > 1:
            self._pack(plan)
            self.comm.Alltoallv(
                [self._send_memory, plan.send_counts, plan.send_displacements, self._datatype],
                [self._recv_memory, plan.recv_counts, plan.recv_displacements, self._datatype],
            )
            self._unpack(plan)
        return num_moved * self._send.element_size()

    def _allocate(self, capacity: int) -> None:
        self._send, self._recv = self._bits.new_empty(capacity), self._bits.new_empty(capacity)
        if self._staged:
            self._host_send = torch.empty(capacity, dtype=self._bits.dtype, pin_memory=True)
            self._host_recv = torch.empty(capacity, dtype=self._bits.dtype, pin_memory=True)
        else:
            self._host_send, self._host_recv = self._send, self._recv
        self._send_memory = _as_mpi_memory(self._host_send)
        self._recv_memory = _as_mpi_memory(self._host_recv)

    def _pack(self, plan: Plan) -> None:
        num_moved = plan.num_moved
        positions = torch.from_numpy(plan.send_positions).to(self.values.device)
        torch.index_select(self._bits, 0, positions, out=self._send[:num_moved])
        if self._staged:
            self._host_send[:num_moved].copy_(self._send[:num_moved], non_blocking=True)
        if self.values.is_cuda:
            torch.cuda.current_stream().synchronize()  # MPI knows nothing of streams: it must find the buffer full

    def _unpack(self, plan: Plan) -> None:
        num_moved = plan.num_moved
        if self._staged:
            self._recv[:num_moved].copy_(self._host_recv[:num_moved], non_blocking=True)
        positions = torch.from_numpy(plan.recv_positions).to(self.values.device)
        self._bits.index_copy_(0, positions, self._recv[:num_moved])
        if self._staged:
            torch.cuda.current_stream().synchronize()  # the next exchange must find the host buffer read


def _as_mpi_memory(buffer: Tensor) -> object:
    """A buffer as mpi4py takes it: NumPy on the host, the tensor itself (CUDA array interface) on a device."""
    return buffer if buffer.is_cuda else buffer.numpy()
