"""The method on real ranks: all take part in every collective; ranks that draw differently, and the sick, are named."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.support import CountingComm, method_context, tiny_config
from wash_hpc.ensemble.flat import Flat
from wash_hpc.errors import HealthError, WashError, WorldError
from wash_hpc.methods.wash import Wash
from wash_hpc.models import build_model
from wash_hpc.parallel.world import World, start_mpi

ANY = ["method.schedule=constant", "method.p=0.5"]
NAN = float("nan")


def make_wash(world: World, *overrides: str) -> tuple[Wash, Flat]:
    torch.manual_seed(world.comm.rank)
    flat = Flat(build_model("mlp", (3, 8, 8), 4, 1))
    return Wash(method_context(tiny_config(*ANY, *overrides), world, flat)), flat


@pytest.mark.mpi(ranks=[3], timeout=120)
def test_ranks_that_draw_differently_are_named_before_anything_is_exchanged(mpi_ranks, comm):
    world = World.open(start_mpi(), None)
    for odd_one in range(3):
        method, flat = make_wash(world, f"run.seed={11 if comm.rank == odd_one else 7}")
        before = flat.values.clone()
        with pytest.raises(WorldError, match=f"the draw of step 1 differs between ranks: rank {odd_one} has") as raised:
            method.after_step(1)
        assert raised.value.agreed
        assert torch.equal(flat.values, before)
        method.finish()


@pytest.mark.mpi(ranks=[2, 3], timeout=120)
def test_every_member_takes_part_in_every_collective_also_one_at_rest_or_in_quarantine(mpi_ranks, comm):
    world = World.open(start_mpi(), None)
    for overrides in (
        ["method.topology=ring"],
        ["method.topology=node", "method.node_size=2", "method.node_ratio=4"],
        ["method.quarantine=true"],
    ):
        counting = CountingComm(world.exchange_comm)
        method, flat = make_wash(replace(world, exchange_comm=counting), *overrides)
        for step in range(1, 7):
            if "method.quarantine=true" in overrides and step == 3 and comm.rank == 1:
                flat.values.fill_(NAN)
            method.after_step(step)
        assert len(set(comm.allgather(len(counting.calls)))) == 1
        assert len(counting.calls) == (3 if mpi_ranks == 2 and method.quarantined else 6)  # nobody left to meet
        assert bool(torch.isfinite(flat.values).all()) == (comm.rank not in method.quarantined)
        assert method.quarantined == ((1,) if "method.quarantine=true" in overrides else ())
        method.finish()


@pytest.mark.mpi(ranks=[3], timeout=120)
def test_the_last_healthy_member_goes_on_alone_and_when_all_are_sick_at_once_they_stop(mpi_ranks, comm):
    world = World.open(start_mpi(), None)
    for overlap in ("false", "true"):
        method, flat = make_wash(world, "method.quarantine=true", f"method.overlap={overlap}")
        for step in range(1, 8):
            if step == 2 * comm.rank:  # member 1 at step 2, member 2 at step 4
                flat.values.fill_(NAN)
            method.after_step(step)
        method.finish()
        assert method.quarantined == (1, 2)
        assert bool(torch.isfinite(flat.values).all()) == (comm.rank == 0)
        method, flat = make_wash(world, "method.quarantine=true", f"method.overlap={overlap}")
        flat.values.fill_(float("inf"))
        with pytest.raises(HealthError, match="step 1: members 0, 1, 2 sent values that are not finite") as raised:
            [method.after_step(step) for step in (1, 2)]
        assert raised.value.agreed
        method.finish()


@pytest.mark.mpi(ranks=[3], timeout=120)
def test_where_not_all_know_of_a_sick_member_those_who_do_must_end_the_job(mpi_ranks, comm):
    world = World.open(start_mpi(), None)
    method, flat = make_wash(world, "method.topology=ring")
    if comm.rank == 1:
        flat.values.fill_(NAN)
    if comm.rank == 0:
        method.after_step(1)  # rests: 1 and 2 are the pair of this exchange
    else:
        with pytest.raises(HealthError, match="step 1: member 1 sent values") as raised:
            method.after_step(1)
        assert not raised.value.agreed
    method.finish()


@pytest.mark.mpi(ranks=[2], timeout=120)
def test_overlap_is_refused_where_mpi_may_be_called_by_one_thread_only(mpi_ranks, comm, monkeypatch):
    from mpi4py import MPI

    from wash_hpc.parallel import overlap

    class Serial:
        THREAD_MULTIPLE = MPI.THREAD_MULTIPLE

        @staticmethod
        def Query_thread():
            return MPI.THREAD_SERIALIZED

    world = World.open(start_mpi(), None)
    monkeypatch.setattr(overlap, "MPI", Serial)
    with pytest.raises(WashError, match=r"method\.overlap=true: this MPI") as raised:
        make_wash(world, "method.overlap=true")
    assert raised.value.agreed
