"""When a method that draws is due, and what it draws from: from the configuration to a drawer. No communication."""

from __future__ import annotations

import numpy as np

from wash_hpc.config import Config, MethodConfig
from wash_hpc.ensemble.flat import Flat, merge_layers
from wash_hpc.shuffle.draw import Drawer
from wash_hpc.shuffle.probability import layer_probabilities


def make_drawer(config: Config, flat: Flat, num_members: int) -> Drawer:
    """The drawer that a configuration describes for a model's layers."""
    layers = merge_layers(flat.layers, config.method.layer)
    return Drawer(
        seed=config.run.seed,
        num_members=num_members,
        layer_sizes=[layer.size for layer in layers],
        probabilities=layer_probabilities(config.method.schedule, config.method.p, len(layers)),
        permutation=config.method.permutation,
    )


def expected_moved(drawer: Drawer) -> float:
    """Mean number of scalars that a member sends in one exchange of its parameters."""
    if drawer.permutation == "cyclic":
        return drawer.expected_picked * (drawer.num_members > 1)
    return drawer.expected_picked * (drawer.num_members - 1) / drawer.num_members


def is_due(config: MethodConfig, step: int) -> bool:
    """Whether members exchange after the update number `step`, from 1: every `every` steps in (start, stop]."""
    stop = np.inf if config.stop is None else config.stop
    return config.start < step <= stop and (step - config.start) % config.every == 0
