"""When a method that draws is due, and what it draws from: from the configuration to a drawer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from wash_hpc.config import Config, MethodConfig
from wash_hpc.ensemble.flat import Flat, merge_layers
from wash_hpc.shuffle.draw import Drawer
from wash_hpc.shuffle.probability import layer_probabilities
from wash_hpc.shuffle.topology import Topology

if TYPE_CHECKING:
    from wash_hpc.parallel.world import World


def make_drawer(config: Config, flat: Flat, num_members: int, nodes: tuple[int, ...] = ()) -> Drawer:
    """The drawer that a configuration describes for a model's layers.

    Args:
        config: the run's configuration.
        flat: a member's parameters; only their layers are looked at.
        num_members: M.
        nodes: [M] the node of each member, for the topology `node`.
    """
    method = config.method
    layers = merge_layers(flat.layers, method.layer)
    return Drawer(
        seed=config.run.seed,
        topology=Topology(num_members, method.topology, method.every, nodes, method.node_ratio),
        layer_sizes=[layer.size for layer in layers],
        probabilities=layer_probabilities(method.schedule, method.p, len(layers)),
        permutation=method.permutation,
    )


def nodes_of_members(config: Config, world: World) -> tuple[int, ...]:
    """[M] the node of each member: by `method.node_size`, or else the host of its first replica.

    Collective over the world.
    """
    if config.method.topology != "node":
        return ()
    if config.method.node_size is not None:
        return tuple(member // config.method.node_size for member in range(world.layout.num_members))
    hosts = world.comm.allgather(world.host)
    return tuple(hosts[:: world.layout.num_replicas])


def is_due(config: MethodConfig, step: int) -> bool:
    """Whether members exchange after the update number `step`, from 1: every `every` steps in (start, stop]."""
    stop = np.inf if config.stop is None else config.stop
    return config.start < step <= stop and (step - config.start) % config.every == 0
