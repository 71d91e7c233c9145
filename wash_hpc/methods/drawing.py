"""What a method draws from at a step, and with which p: from the configuration to a drawer."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from wash_hpc.config import Config
from wash_hpc.ensemble.flat import Flat, merge_layers
from wash_hpc.method_kinds import SHUFFLES
from wash_hpc.methods.due import due_steps
from wash_hpc.optimizer import relative_learning_rate
from wash_hpc.shuffle.draw import Drawer
from wash_hpc.shuffle.probability import layer_probabilities
from wash_hpc.shuffle.topology import Topology

if TYPE_CHECKING:
    from wash_hpc.parallel.world import World


def make_drawer(config: Config, flat: Flat, num_members: int, nodes: tuple[int, ...] = (), number: int = 0) -> Drawer:
    """The drawer that a configuration describes for a model's layers.

    Args:
        config: the run's configuration.
        flat: a member's parameters; only their layers are looked at.
        num_members: M.
        nodes: [M] the node of each member, for the topology `node`.
        number: which of the run's methods draws.
    """
    method = config.method
    layers = merge_layers(flat.layers, method.layer)
    return Drawer(
        seed=config.run.seed,
        topology=Topology(num_members, method.topology, method.every, nodes, method.node_ratio),
        layer_sizes=[layer.size for layer in layers],
        probabilities=layer_probabilities(method.schedule, method.known_p, len(layers)),
        permutation=method.permutation,
        number=number,
    )


def with_chosen_p(config: Config, num_steps: int) -> Config:
    """The same with a number where `method.p` is auto.

    What decides whether members can be averaged is how often a parameter is shuffled in the whole run (see
    docs/results.md), so p is what makes that the least of SHUFFLES in the first layer; 1 where it cannot be so many.

    Args:
        config: of the run, with one method.
        num_steps: of the whole run.
    """
    if config.method.p is not None:
        return config
    most = most_shuffles(config, num_steps)
    p = SHUFFLES[0] / most if most > SHUFFLES[0] else 1.0
    return replace(config, method=replace(config.method, p=float(f"{p:.4g}")))


def most_shuffles(config: Config, num_steps: int) -> float:
    """How often a parameter of the first layer would be shuffled in the run with p = 1, by `method.p_schedule`."""
    return len(due_steps(config.method, num_steps)) * mean_p_factor(config, num_steps)


def describe_chosen_p(config: Config, num_steps: int) -> str:
    """What `method.p=auto` came to in a run of so many steps; `config` has one method, with the p that was chosen."""
    p = config.method.known_p
    shuffles = p * most_shuffles(config, num_steps)
    few = "; no p gives more in so few exchanges" if shuffles < 0.99 * SHUFFLES[0] else ""
    peak = "" if config.method.p_schedule == "constant" else " at its largest"
    return f"method.p=auto: {p:g}{peak}, by which a parameter of the first layer is shuffled {shuffles:.0f} times{few}"


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


def why_hardly_any(config: Config, drawer: Drawer, num_steps: int) -> str:
    """Why the exchanges that are due will hardly move a value, as by too small a p; empty where they will.

    Args:
        config: of the run.
        drawer: what is drawn from.
        num_steps: of the whole run.
    """
    method = config.method
    due = due_steps(method, num_steps)
    if not any(drawer.topology.groups(step) for step in due[: drawer.topology.period]):
        keys = f"method.topology={method.topology}, node_ratio={method.node_ratio}"
        return f"{keys}: no two members meet in the {len(due)} exchanges of the run"
    expected = drawer.expected_picked * mean_p_factor(config, num_steps) * len(due)
    if expected >= 1:
        return ""
    return (
        f"method.p={method.p}: {expected:.2g} values are expected to be picked in the whole run, {len(due)} exchanges "
        "(choose a larger p)"
    )


def p_factor(config: Config, step: int, num_steps: int) -> float:
    """What p is multiplied with after the update number `step`, from 1, by `method.p_schedule`; in [0, 1].

    `lr` is the learning rate of that update as a share of its peak, `cosine` and `linear` go from 1 to 0 over the run,
    whatever the window in which the method acts.
    """
    kind = config.method.p_schedule
    if kind == "lr":
        return relative_learning_rate(config.optimizer, step - 1, num_steps)
    done = step / num_steps
    return {"constant": 1.0, "linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}[kind]


def mean_p_factor(config: Config, num_steps: int) -> float:
    """The mean of `p_factor` over the steps that are due; 1 where none is."""
    due = due_steps(config.method, num_steps)
    if config.method.p_schedule == "constant" or not due:
        return 1.0
    return float(np.mean([p_factor(config, step, num_steps) for step in due]))
