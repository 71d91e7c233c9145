"""The exchange: one MPI_Alltoallv that carries out a plan on one member's values.

Values move as integers of their own width, so they arrive bit for bit and half-precision types need no MPI support.
Both sides know the plan, so nothing is sent but the values and, in front of those for each peer, one more number of
the same width: whether the sender is sick. A member is sick when a value that it is to send is not finite; nobody
applies a shuffle in which a sick member took part, so its values never reach another. Buffers are allocated once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from mpi4py import MPI
from numpy.typing import NDArray
from torch import Tensor

from wash_hpc.shuffle.plan import Counts, Plan, Positions

INTEGERS = {2: (torch.int16, MPI.INT16_T), 4: (torch.int32, MPI.INT32_T), 8: (torch.int64, MPI.INT64_T)}
"""By bytes of a value, the integer as which it moves: torch's and MPI's."""

_SICK = 1


@dataclass(frozen=True)
class Transfer:
    """A plan made ready for MPI by `Exchange.prepare`: positions where the values are, and room for the flags.

    Attributes:
        num_moved: K_m, values sent, and received.
        send_positions: [K_m + G] int64, the plan's, with the flags' own place in front of those of each of G peers.
        recv_positions: [K_m + G] int64, likewise.
        send_counts: [M] what MPI_Alltoallv sends, flags included.
        send_displacements: [M] where each peer's part begins, with its flag.
        recv_counts: [M].
        recv_displacements: [M].
        send_flags: [G] int64, where in the send buffer the flags are.
        recv_flags: [G] int64, where in the receive buffer.
        peers: [G] the members that they come from.
    """

    num_moved: int
    send_positions: Tensor
    recv_positions: Tensor
    send_counts: Counts
    send_displacements: Counts
    recv_counts: Counts
    recv_displacements: Counts
    send_flags: Tensor
    recv_flags: Tensor
    peers: list[int]

    @property
    def length(self) -> int:
        """Elements of the buffers in use: values and flags."""
        return len(self.send_positions)


class Exchange:
    """Moves values between the members of one communicator.

    Args:
        comm: the exchange communicator; rank in it = member.
        storage: [N + 1] contiguous: this member's parameters, followed by its optimizer state where that moves too, and
            behind them one element of the exchange's own, zero. The exchange changes them in place; they must stay
            where they are.
        expected_moved: mean number of values that a member sends in one exchange; sizes the buffers.
        staged: hand MPI a copy in (pinned) host memory. False: hand it the values' own memory, a GPU's too.
    """

    def __init__(self, comm: MPI.Intracomm, storage: Tensor, expected_moved: float, staged: bool = False) -> None:
        if storage.dim() != 1 or not storage.is_contiguous():
            raise ValueError(f"values must be flat and contiguous, not of shape {tuple(storage.shape)}")
        self.comm = comm
        self.device = storage.device
        self.dtype = storage.dtype
        integer, self._datatype = INTEGERS[storage.element_size()]
        self._bits = storage.detach().view(integer)
        self._spare = storage.numel() - 1
        self._staged = staged
        self._packed: torch.cuda.Event | None = None
        # Six standard deviations above the mean; a larger draw, one in a billion, allocates anew.
        self._allocate(min(self._spare, int(expected_moved + 6 * expected_moved**0.5) + 16) + comm.size)

    def prepare(self, plan: Plan) -> Transfer:
        """Make a plan ready; to be called in the background, ahead of time. Local."""
        send, send_counts, send_displacements, send_flags = self._with_flags(
            plan.send_positions, plan.send_counts, plan.peers
        )
        recv, recv_counts, recv_displacements, recv_flags = self._with_flags(
            plan.recv_positions, plan.recv_counts, plan.peers
        )
        placed = self._on_device(send, recv, send_flags, recv_flags)
        return Transfer(
            plan.num_moved,
            placed[0],
            placed[1],
            send_counts,
            send_displacements,
            recv_counts,
            recv_displacements,
            placed[2],
            placed[3],
            plan.peers,
        )

    def __call__(self, transfer: Transfer) -> list[int]:
        """Carry out a plan. Collective over `comm`, with plans of the same draw on all ranks.

        Returns:
            The sick members among those that this one exchanged with, itself included. Unless there are none, nothing
            was changed.
        """
        self.pack(transfer)
        sick = self.communicate(transfer)
        if not sick:
            self.unpack(transfer)
        return sick

    def pack(self, transfer: Transfer) -> None:
        """Gather what is to be sent; from here on the values may change. Local."""
        if transfer.length > self.send.numel():
            self._allocate(transfer.length)
        torch.index_select(self._bits, 0, transfer.send_positions, out=self.send[: transfer.length])
        if self.device.type == "cuda":
            self._packed = torch.cuda.current_stream().record_event()

    def communicate(self, transfer: Transfer) -> list[int]:
        """Send and receive what is packed. Collective over `comm`; may run in a thread beside other work.

        Returns:
            The sick members, as from a call.
        """
        sick = []
        outgoing, incoming = self._wires[0][: transfer.length], self._wires[1][: transfer.length]
        if self._packed is not None:
            torch.cuda.current_stream().wait_event(self._packed)
        if self._staged:
            outgoing.copy_(self.send[: transfer.length], non_blocking=True)
        if self.device.type == "cuda":
            torch.cuda.current_stream().synchronize()  # MPI knows nothing of streams: it must find the buffer full
        if not is_finite(outgoing.view(self.dtype)):
            outgoing.index_fill_(0, transfer.send_flags.to(outgoing.device), _SICK)
            if outgoing.is_cuda:
                torch.cuda.current_stream().synchronize()  # as above, for the flags
            sick.append(self.comm.rank)
        self.comm.Alltoallv(
            [self._memory[0], transfer.send_counts, transfer.send_displacements, self._datatype],
            [self._memory[1], transfer.recv_counts, transfer.recv_displacements, self._datatype],
        )
        flags = incoming.index_select(0, transfer.recv_flags.to(incoming.device)).tolist()
        sick += [peer for peer, flag in zip(transfer.peers, flags, strict=True) if flag == _SICK]
        if self._staged:
            self.recv[: transfer.length].copy_(incoming, non_blocking=True)
        if self._staged and self.device.type == "cuda":
            torch.cuda.current_stream().synchronize()  # the next exchange must find the host buffer read
        return sorted(sick)

    def unpack(self, transfer: Transfer) -> None:
        """Put what was received in its place. Local."""
        self._bits.index_copy_(0, transfer.recv_positions, self.recv[: transfer.length])

    def gather_replaced(self, transfer: Transfer, out: Tensor) -> None:
        """Gather the values that `unpack` would replace, in the order of the receive buffer. Local.

        Args:
            transfer: the plan.
            out: [at least K_m + G], of the buffers' integer type.
        """
        torch.index_select(self._bits, 0, transfer.recv_positions, out=out[: transfer.length])

    def _allocate(self, capacity: int) -> None:
        self.send, self.recv = self._bits.new_empty(capacity), self._bits.new_empty(capacity)
        self._wires = (self.send, self.recv)
        if self._staged:
            pinned = self.device.type == "cuda"
            self._wires = (
                torch.empty(capacity, dtype=self._bits.dtype, pin_memory=pinned),
                torch.empty(capacity, dtype=self._bits.dtype, pin_memory=pinned),
            )
        # As mpi4py takes them: NumPy on the host, the tensor itself (CUDA array interface) on a device.
        self._memory = [wire if wire.is_cuda else wire.numpy() for wire in self._wires]

    def _with_flags(
        self, positions: Positions, counts: Counts, peers: list[int]
    ) -> tuple[Positions, Counts, Counts, NDArray[np.int64]]:
        """Positions, counts and displacements with one element more in front of each peer's part, and where those are.

        A flag is gathered from, and scattered to, the spare element behind the values, which is always zero: healthy.
        """
        counts = counts.copy()
        before = (np.cumsum(counts) - counts)[peers]
        positions = np.insert(positions, before, self._spare)
        counts[peers] += 1
        displacements = np.cumsum(counts) - counts
        return positions, counts, displacements, displacements[peers]

    def _on_device(self, *arrays: NDArray[np.int64]) -> list[Tensor]:
        tensors = [torch.from_numpy(array) for array in arrays]
        if self.device.type != "cuda":
            return tensors
        main = torch.cuda.default_stream(self.device)
        side = torch.cuda.Stream(self.device)
        with torch.cuda.device(self.device), torch.cuda.stream(side):
            placed = [tensor.pin_memory().to(self.device, non_blocking=True) for tensor in tensors]
            side.synchronize()
        for tensor in placed:
            tensor.record_stream(main)  # made in one stream and used in another: its memory is not to be reused early
        return placed


def is_finite(values: Tensor) -> bool:
    """Whether all are; in one pass without a temporary, as a NaN or an infinity is the least or the greatest."""
    if values.numel() == 0:
        return True
    low, high = torch.aminmax(values)
    return math.isfinite(low.item()) and math.isfinite(high.item())
