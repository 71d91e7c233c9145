"""A whole run in one process, all members one after the other, coupled by slow twins: what real ranks must equal."""

from __future__ import annotations

import torch

from tests.support import AloneReducer
from wash_hpc.config import Config
from wash_hpc.data import open_source
from wash_hpc.data.regularize import regularize
from wash_hpc.data.source import Shard, steps_per_epoch
from wash_hpc.member import Member
from wash_hpc.methods.reference import make_twins
from wash_hpc.train import count_steps, make_initial_model

CPU = torch.device("cpu")


def train_serially(config: Config, num_members: int) -> list[Member]:
    """All members of a run, trained."""
    source = open_source(config, CPU)
    num_steps = count_steps(config, source)
    per_epoch = steps_per_epoch(source.num_train, config.data.batch_size)
    members, streams = [], []
    for number in range(num_members):
        model = make_initial_model(config, source, number, CPU)
        members.append(Member(model, config, number, 0, num_steps, AloneReducer()))
        batches = source.train(number, Shard(), config.data.batch_size, 0)
        streams.append(regularize(batches, config, number, Shard(), 0, source.num_classes))
    twins = make_twins(config, members, source, num_steps, per_epoch)
    for step in range(num_steps):
        for member, stream in zip(members, streams, strict=True):
            member.step(next(stream), step)
        for twin in twins:
            twin(members, step + 1)
    return members
