"""Who is who: the arithmetic, and the communicators that follow from it."""

from __future__ import annotations

import pytest
from mpi4py import MPI

from wash_hpc.errors import WorldError
from wash_hpc.parallel.layout import Layout
from wash_hpc.parallel.world import World, start_mpi


def divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 6, 12])
def test_every_rank_is_one_replica_of_one_member_and_replicas_are_neighbours(size):
    for num_members in divisors(size):
        layouts = [Layout(rank, size, num_members) for rank in range(size)]
        assert {(x.member, x.replica) for x in layouts} == {
            (m, r) for m in range(num_members) for r in range(size // num_members)
        }
        for layout in layouts:
            ranks = layout.ranks_of_member(layout.member)
            assert ranks == list(range(ranks[0], ranks[0] + layout.num_replicas))
            assert ranks[layout.replica] == layout.ranks_of_replica(layout.replica)[layout.member] == layout.rank


@pytest.mark.parametrize(("size", "num_members"), [(3, 2), (4, 3), (1, 4), (4, 5)])
def test_ranks_that_cannot_be_shared_out_evenly_are_refused_with_the_key(size, num_members):
    with pytest.raises(WorldError, match=f"ensemble.members={num_members}"):
        Layout(0, size, num_members)


@pytest.mark.mpi(ranks=[1, 2, 3, 4], timeout=120)
def test_communicators_hold_the_replicas_of_a_member_and_one_replica_of_every_member(mpi_ranks, comm):
    everyone = start_mpi()
    for num_members in divisors(mpi_ranks):
        world = World.open(everyone, num_members)
        layout = world.layout
        assert world.member_comm.allgather(comm.rank) == layout.ranks_of_member(layout.member)
        assert world.exchange_comm.allgather(comm.rank) == layout.ranks_of_replica(layout.replica)
        assert (world.member_comm.rank, world.exchange_comm.rank) == (layout.replica, layout.member)
        assert MPI.Comm.Compare(world.comm, MPI.COMM_WORLD) == MPI.CONGRUENT
