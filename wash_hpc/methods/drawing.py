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


def warn_of_no_effect(method: MethodConfig, drawer: Drawer, num_steps: int) -> str:
    """A sentence where a run that is to shuffle will hardly do so, as by too small a p; empty where it will.

    A probability of zero and a single member are meant: they need no warning.

    Args:
        method: that section of the configuration.
        drawer: of `make_drawer`.
        num_steps: of the whole run.
    """
    if method.p == 0 or drawer.num_members == 1:
        return ""
    due = due_steps(method, num_steps)
    if not due:
        keys = (
            f"method.start={method.start}, stop={'null' if method.stop is None else method.stop}, every={method.every}"
        )
        return f"{keys}: no exchange is due in the {num_steps} steps of the run: the members train independently"
    if not any(drawer.topology.groups(step) for step in due[: drawer.topology.period]):
        keys = f"method.topology={method.topology}, node_ratio={method.node_ratio}"
        return f"{keys}: no two members meet in the {len(due)} exchanges of the run: they train independently"
    expected = drawer.expected_picked * len(due)
    if expected >= 1:
        return ""
    return (
        f"method.p={method.p}: {expected:.2g} values are expected to be picked in the whole run, {len(due)} exchanges: "
        "the members train independently, or nearly so; choose a larger p"
    )


def is_due(config: MethodConfig, step: int) -> bool:
    """Whether members exchange after the update number `step`, from 1: every `every` steps in (start, stop]."""
    stop = np.inf if config.stop is None else config.stop
    return config.start < step <= stop and (step - config.start) % config.every == 0


def due_steps(config: MethodConfig, num_steps: int) -> range:
    """Those of the updates 1 ... num_steps after which `is_due` holds."""
    last = num_steps if config.stop is None else min(config.stop, num_steps)
    return range(config.start + config.every, last + 1, config.every)
