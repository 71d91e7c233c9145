"""Who is who, as arithmetic: W ranks = M members x R replicas. Pure; no communication here."""

from __future__ import annotations

from dataclasses import dataclass

from wash_hpc.errors import WorldError


@dataclass(frozen=True)
class Layout:
    """One rank's place. Replicas of one member are neighbours, so that they fill a node before they leave it.

    Attributes:
        rank: this rank, 0 <= rank < size.
        size: W, number of ranks.
        num_members: M, a divisor of W.
    """

    rank: int
    size: int
    num_members: int

    def __post_init__(self) -> None:
        if self.num_members < 1 or self.size % self.num_members:
            raise WorldError(
                f"ensemble.members={self.num_members}: {self.size} rank{'s' * (self.size != 1)} cannot be shared out "
                f"evenly; start a multiple of {self.num_members} ranks, as in mpirun -n {self.num_members}"
            )

    @property
    def num_replicas(self) -> int:
        """R, ranks that train the same member."""
        return self.size // self.num_members

    @property
    def member(self) -> int:
        """The member that this rank trains."""
        return self.rank // self.num_replicas

    @property
    def replica(self) -> int:
        """Which of its member's replicas this rank is."""
        return self.rank % self.num_replicas

    def ranks_of_member(self, member: int) -> list[int]:
        """World ranks of a member's replicas."""
        return [member * self.num_replicas + replica for replica in range(self.num_replicas)]

    def ranks_of_replica(self, replica: int) -> list[int]:
        """World ranks of one replica of every member, in the order of the members."""
        return [member * self.num_replicas + replica for member in range(self.num_members)]
