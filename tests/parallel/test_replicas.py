"""Replicas of one member stay equal, bit for bit, whoever reduces; and see the statistics of all of them."""

from __future__ import annotations

from itertools import islice

import pytest
import torch

from tests.support import method_context, tiny_config
from wash_hpc.config import Config
from wash_hpc.data import open_source
from wash_hpc.data.regularize import regularize
from wash_hpc.data.source import Shard
from wash_hpc.ensemble.flat import get_statistics
from wash_hpc.member import Member
from wash_hpc.methods import make_method
from wash_hpc.parallel.reducer import Reducer, reducer_class
from wash_hpc.parallel.world import World, start_mpi
from wash_hpc.train import make_initial_model

NUM_STEPS = 12


@pytest.mark.mpi(ranks=[1, 2, 3, 4], timeout=180)
def test_replicas_of_a_member_stay_equal_bit_for_bit(mpi_ranks):
    world = World.open(start_mpi(), 2 if mpi_ranks == 4 else 1)
    for kind in ("mpi", "horovod"):
        train_with_and_without_overlap(world, kind)


def train_with_and_without_overlap(world: World, kind: str) -> None:
    reducer = reducer_class(kind)(world)
    for overlap, channels_last, parts in (("false", "true", 2), ("true", "false", 1)):
        config = tiny_config(
            "data.batch_size=24",
            "model.width=8",
            f"train.channels_last={channels_last}",
            f"train.accumulate={parts}",
            "method.optimizer_state=true",
            f"method.overlap={overlap}",
            "train.mixup=0.5",
            "train.label_smoothing=0.1",
            "train.random_erasing=0.5",
        )
        train_and_compare_replicas(config, world, reducer)
    reducer.close()


def train_and_compare_replicas(config: Config, world: World, reducer: Reducer) -> None:
    layout, comm = world.layout, world.comm
    source = open_source(config, torch.device("cpu"))
    # Weights that differ between replicas at first: the broadcast inside a member has to make them equal.
    model = make_initial_model(config, source, layout.rank, torch.device("cpu"))
    member = Member(model, config, layout.member, layout.replica, NUM_STEPS, reducer)
    method = make_method(method_context(config, world, member.flat, reducer, model, source))
    replica = Shard(layout.replica, layout.num_replicas)
    batches = source.train(layout.member, replica, 24, 0)
    batches = regularize(batches, config, layout.member, replica, 0, source.num_classes)
    for step, batch in enumerate(islice(batches, NUM_STEPS)):
        assert len(batch.labels) == 24 // layout.num_replicas
        member.step(batch, step)
        method.after_step(step + 1)
        if step == NUM_STEPS - 1:
            method.finish()
        digests = comm.allgather((layout.member, member.flat.rows.numpy().tobytes()))
        assert all(raw == digests[layout.rank][1] for number, raw in digests if number == layout.member)
    if layout.num_members > 1:
        assert len({raw for _, raw in digests}) == layout.num_members
        assert method.bytes_sent > 0
    before = comm.allgather((layout.member, get_statistics(model)))
    member.average_statistics()
    mean = torch.stack([statistics for number, statistics in before if number == layout.member]).mean(dim=0)
    assert torch.allclose(get_statistics(model), mean, rtol=1e-5, atol=1e-6)
