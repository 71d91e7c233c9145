"""Plan: one member's view of a draw, in the terms of MPI_Alltoallv. Pure; no MPI call is made here."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wash_hpc.shuffle.draw import Draw

Positions = NDArray[np.int64]
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Plan:
    """What one member sends and receives; values that stay where they are appear nowhere.

    Attributes:
        send_positions: [K_m] int64, ordered by the member that receives, then by row and position.
        recv_positions: [K_m] int64, ordered by the member that sends, then by row and position.
        send_counts: [M] int64, values for each member; 0 for oneself.
        recv_counts: [M] int64, values from each member; 0 from oneself.
        peers: the other members of its group, ascending, whether values move between them or not.
    """

    send_positions: Positions
    recv_positions: Positions
    send_counts: Counts
    recv_counts: Counts
    peers: list[int]

    @property
    def num_moved(self) -> int:
        """K_m, the number of values that this member sends, and receives."""
        return len(self.send_positions)

    @property
    def send_displacements(self) -> Counts:
        """[M] int64, where in the send buffer each member's values begin."""
        return np.cumsum(self.send_counts) - self.send_counts

    @property
    def recv_displacements(self) -> Counts:
        """[M] int64, where in the receive buffer each member's values begin."""
        return np.cumsum(self.recv_counts) - self.recv_counts


def make_plan(draw: Draw, member: int, num_rows: int = 1, row_size: int = 0) -> Plan:
    """What `member` has to send and to receive for a draw.

    Values and optimizer state live in the rows of one [num_rows, row_size] tensor, row 0 being the parameters. Whatever
    moves at a position moves in every row, so that WASH+Opt is the same draw planned over more rows.

    Args:
        draw: the same on all members.
        member: 0 <= member < M.
        num_rows: 1 for the parameters alone, more when optimizer state moves with them.
        row_size: P, the distance between two rows; only needed for more than one row.

    Returns:
        The plan over positions in the flattened rows. What a plans to send to b is what b plans to receive from a.
    """
    num_members = len(draw.source)
    peers: list[int] = next((group[group != member].tolist() for group in draw.groups if member in group), [])
    to_peer = {peer: _places(draw, draw.source[peer] == member) for peer in peers}
    from_peer = {peer: _places(draw, draw.source[member] == peer) for peer in peers}
    send_counts = np.zeros(num_members, dtype=np.int64)
    recv_counts = np.zeros(num_members, dtype=np.int64)
    for peer in peers:
        send_counts[peer] = len(to_peer[peer]) * num_rows
        recv_counts[peer] = len(from_peer[peer]) * num_rows
    return Plan(
        send_positions=_in_all_rows([to_peer[peer] for peer in peers], num_rows, row_size),
        recv_positions=_in_all_rows([from_peer[peer] for peer in peers], num_rows, row_size),
        send_counts=send_counts,
        recv_counts=recv_counts,
        peers=peers,
    )


def _places(draw: Draw, picked: NDArray[np.bool_]) -> Positions:
    """The drawn positions where `picked` [K] holds; by flatnonzero, which is five times faster than a boolean index."""
    return draw.positions.take(np.flatnonzero(picked))


def _in_all_rows(parts: list[Positions], num_rows: int, row_size: int) -> Positions:
    """Each part in the first row, followed by the same part in each other row, one part after the other."""
    if num_rows > 1:
        parts = [part + row * row_size for part in parts for row in range(num_rows)]
    return np.concatenate([*parts, np.empty(0, dtype=np.int64)])
