"""The slow twins: what each method does to all members at once, held in one process. For tests and for reading.

Each is the method as its paper says it, without ranks: `twin(members, step)` after each step, members being the
`Member`s of one process, whose weights it changes. A run on real ranks must come to the same, bit for bit where values
only move, to rounding where they are averaged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from wash_hpc.config import Config
from wash_hpc.data.source import Shard, Source
from wash_hpc.ensemble.flat import get_statistics, set_statistics
from wash_hpc.ensemble.repair import mean_of_channels, measure_channels, repair
from wash_hpc.member import Member
from wash_hpc.methods import each_method
from wash_hpc.methods.drawing import make_drawer, p_factor
from wash_hpc.methods.due import is_due
from wash_hpc.optimizer import relative_learning_rate
from wash_hpc.shuffle.draw import Drawer
from wash_hpc.shuffle.partition import Partition
from wash_hpc.shuffle.reference import draw_slowly, partition_slowly, shuffle_members

Members = Sequence[Member]
Twin = Callable[[Members, int], None]


def make_twins(config: Config, members: Members, source: Source, num_steps: int, steps_per_epoch: int) -> list[Twin]:
    """A twin for each of a configuration's methods that does anything, to be called one after the other.

    Args:
        config: of the run.
        members: all of them, with their initial weights.
        source: the images, for REPAIR.
        num_steps: of the whole run.
        steps_per_epoch: of a pass over the training set.
    """
    twins = [
        _make_twin(one, members, source, num_steps, steps_per_epoch, number)
        for number, one in enumerate(each_method(config, num_steps))
    ]
    return [twin for twin in twins if twin is not None]


def _make_twin(
    config: Config, members: Members, source: Source, num_steps: int, steps_per_epoch: int, number: int
) -> Twin | None:
    method = config.method
    if method.name in {"independent", "data_parallel"} or (len(members) == 1 and method.name != "diloco"):
        return None
    every = method.every * steps_per_epoch
    due = set(range(every, num_steps, every))
    if method.name != "papa_all":
        due = {step for step in range(1, num_steps + 1) if is_due(method, step)}
    if method.name == "diloco":
        due.add(method.start)
    twins: dict[str, Callable[[], Twin]] = {
        "wash": lambda: _wash(config, members, num_steps, number),
        "papa": lambda: _papa(config, num_steps),
        "papa_all": lambda: _papa_all(config, source),
        "sparta": lambda: _sparta(config, members, num_steps, number),
        "local_sgd": lambda: _local_sgd,
        "diloco": lambda: _diloco(config, members),
    }
    twin = twins[method.name]()
    return lambda members, step: twin(members, step) if step in due else None


def mean_of(tensors: Sequence[Tensor]) -> Tensor:
    """Their sum, one after the other, divided by how many they are."""
    total = torch.zeros_like(tensors[0])
    for tensor in tensors:
        total = total + tensor
    return total / len(tensors)


def _wash(config: Config, members: Members, num_steps: int, number: int) -> Twin:
    drawer = make_drawer(config, members[0].flat, len(members), number=number)

    def shuffle(members: Members, step: int) -> None:
        draw = draw_slowly(drawer.scaled(p_factor(config, step, num_steps)), step)
        num_rows = len(members[0].flat.rows) if config.method.optimizer_state else 1
        for row in range(num_rows):
            shuffled = shuffle_members(torch.stack([member.flat.rows[row] for member in members]), draw)
            for member, values in zip(members, shuffled, strict=True):
                member.flat.rows[row].copy_(values)

    return shuffle


def _papa(config: Config, num_steps: int) -> Twin:
    def pull_together(members: Members, step: int) -> None:
        alpha = 1 - (1 - config.method.alpha) * relative_learning_rate(config.optimizer, step, num_steps)
        mean = mean_of([member.flat.values for member in members])
        mean_statistics = mean_of([get_statistics(member.model) for member in members])
        for member in members:
            member.flat.values.copy_(alpha * member.flat.values + (1 - alpha) * mean)
            set_statistics(member.model, alpha * get_statistics(member.model) + (1 - alpha) * mean_statistics)

    return pull_together


def _papa_all(config: Config, source: Source) -> Twin:
    def images() -> Iterator[Tensor]:
        evaluate = config.evaluate
        for batch in source.statistics(evaluate.statistics_images, Shard(), evaluate.batch_size):
            yield batch.images

    def merge(members: Members, step: int) -> None:
        channels = [measure_channels(member.model, images(), lambda sums: sums) for member in members]
        mean = mean_of([member.flat.values for member in members])
        statistics = mean_of([get_statistics(member.model) for member in members])
        for member in members:
            member.flat.values.copy_(mean)
            set_statistics(member.model, statistics)
            if config.method.repair:
                repair(member.model, mean_of_channels(channels), images, lambda sums: sums)
            member.model.train()

    return merge


def _sparta(config: Config, members: Members, num_steps: int, number: int) -> Twin:
    seed, size, method = config.run.seed, members[0].flat.values.numel(), config.method
    # One layer, whose probability is p: as Drawer's, one parameter at a time.
    drawer = Drawer(seed, len(members), [size], np.array([method.known_p]), number=number)

    def average_some(members: Members, step: int) -> None:
        if method.draw == "partitioned":
            partition = Partition(seed, size, method.known_p, number)
            positions = partition_slowly(partition, (step - method.start) // method.every - 1)
        else:
            positions = draw_slowly(drawer.scaled(p_factor(config, step, num_steps)), step).positions.tolist()
        for position in positions:
            mean = mean_of([member.flat.values[position] for member in members])
            for member in members:
                member.flat.values[position].copy_(mean)

    return average_some


def _local_sgd(members: Members, step: int) -> None:
    mean = mean_of([member.flat.values for member in members])
    for member in members:
        member.flat.values.copy_(mean)


def _diloco(config: Config, members: Members) -> Twin:
    """Outer steps by torch's own Nesterov SGD."""
    anchor = torch.nn.Parameter(mean_of([member.flat.values for member in members]))
    method = config.method
    outer = torch.optim.SGD(
        [anchor], lr=method.outer_lr, momentum=method.outer_momentum, nesterov=method.outer_momentum > 0
    )

    def step_outside(members: Members, step: int) -> None:
        mean = mean_of([member.flat.values for member in members])
        if step == method.start:
            anchor.detach().copy_(mean)
            return
        anchor.grad = anchor.detach() - mean
        outer.step()
        for member in members:
            member.flat.values.copy_(anchor.detach())

    return step_outside
