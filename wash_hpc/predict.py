"""`wash-hpc plan`: what a run will send, how long that takes and what memory a rank needs.

Owns the cost formulas of the method and of what it is compared with, all in scalars a member sends. Nothing is started,
unless the link between the ranks is calibrated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from wash_hpc.config import Config, load_config
from wash_hpc.data.source import steps_per_epoch
from wash_hpc.data_facts import DataFacts, data_facts
from wash_hpc.draw_cost import DrawCost, measure_alternatives, measure_draw, scale_drawer
from wash_hpc.ensemble.flat import Flat, get_statistics, merge_layers
from wash_hpc.ensemble.repair import num_hidden_channels
from wash_hpc.errors import ConfigError
from wash_hpc.memory import Activations, StepMemory, bytes_kept, count_activations, gpus_in_question, step_memory
from wash_hpc.method_cost import LayerShare, MethodCost, Sizes, predict_method, share_out
from wash_hpc.methods import each_method, require_methods
from wash_hpc.methods.drawing import describe_chosen_p, make_drawer
from wash_hpc.methods.due import counted_in_steps
from wash_hpc.models import build_model
from wash_hpc.optimizer import num_state_rows
from wash_hpc.parallel.link import Link
from wash_hpc.shuffle.draw import Drawer
from wash_hpc.shuffle.topology import Topology
from wash_hpc.traffic import Batching, Traffic, advise_batching, predict_traffic

if TYPE_CHECKING:
    from wash_hpc.parallel.calibrate import Calibration
    from wash_hpc.parallel.world import Comm

PAPA_EVERY = 10  # steps between two averages in PAPA's recipe (arXiv 2304.03094)
_MOST_MEMBERS = 2**16  # a draw numbers them in 16 bits


@dataclass(frozen=True)
class Facts:
    """What a run is, as far as a prediction needs it; can be sent to other ranks.

    Attributes:
        config: of the run.
        drawers: of each method, used where it is WASH.
        layer_names: of the first method's schedule.
        sizes: of the model and the run.
        dtype: of the parameters.
        activations: of a rank's step, ranks being members, or with data_parallel the parts of one.
        data_assumed: the data set is not there; its published size was taken.
    """

    config: Config
    drawers: list[Drawer]
    layer_names: list[str]
    sizes: Sizes
    dtype: torch.dtype
    activations: Activations
    data_assumed: bool

    @property
    def drawer(self) -> Drawer:
        """Of the first method."""
        return self.drawers[0]

    @property
    def num_rows(self) -> int:
        """Rows of the flat vector that the first method moves."""
        return self.sizes.num_rows_moved(self.config.method)

    @property
    def exchanges(self) -> bool:
        """Whether members shuffle anything, ever."""
        return self.config.method.name == "wash" and self.drawer.expected_picked > 0


@dataclass(frozen=True)
class Prediction:
    """What a run will cost. Means are over members, draws, and exchanges of a topology's period.

    What is said of one exchange, or of a step, is of the first method.

    Attributes:
        methods: each method's part.
        num_members: M.
        num_parameters: P.
        num_layers: layers of the schedule.
        layers: each of them, from the first; none where the first method is not WASH.
        num_steps: of the run.
        num_exchanges: times that a method acts.
        values_moved_per_exchange: scalars sent by a member.
        bytes_sent_per_exchange: the same as payload.
        bytes_sent_per_member: payload over the whole run.
        messages_per_exchange: sent by a member.
        messages_per_step: the same, a step while members exchange: messages_per_exchange / method.every.
        wire_bytes_per_exchange: payload, and the flag of one value beside it in each message.
        wire_bytes_per_step: the same, a step.
        papa_bytes_per_member: PAPA's, averaging every 10 steps by a ring allreduce.
        data_parallel_bytes_per_member: averaging gradients at every step by a ring allreduce.
        link: with which seconds are predicted.
        exchange_seconds: of one exchange, on the member that takes longest.
        exchange_seconds_per_step: the same, a step.
        exchange_seconds_of_run: of all.
        latency_share: of an exchange's seconds, the share that its values do not explain.
        batching: rarer, larger exchanges, where they are latency-bound.
        ring_seconds: of one exchange of neighbours alone, where batching does not relieve it of its latency.
        draw: cost of a draw and its plan, made in the background.
        faster_draws: the same with other settings, where the draw is slow.
        memory_bytes: of one rank: parameters, gradients, optimizer state, exchange buffers, the draw and its plan, and
            the copy that evaluation uses, `average.*` and what DiLoCo keeps; without activations.
        step_memory: with activations, and how many ranks a GPU takes.
        data_assumed: the data set is not there; its published size was taken.
        chosen_p: what `method.p=auto` comes to, a sentence for each method that has it.
    """

    methods: list[MethodCost]
    num_members: int
    num_parameters: int
    num_layers: int
    layers: list[LayerShare]
    num_steps: int
    num_exchanges: int
    values_moved_per_exchange: float
    bytes_sent_per_exchange: float
    bytes_sent_per_member: float
    messages_per_exchange: float
    messages_per_step: float
    wire_bytes_per_exchange: float
    wire_bytes_per_step: float
    papa_bytes_per_member: float
    data_parallel_bytes_per_member: float
    link: Link
    exchange_seconds: float
    exchange_seconds_per_step: float
    exchange_seconds_of_run: float
    latency_share: float
    batching: Batching | None
    ring_seconds: float | None
    draw: DrawCost
    faster_draws: dict[str, DrawCost]
    memory_bytes: int
    step_memory: StepMemory
    data_assumed: bool
    chosen_p: list[str]


def read_facts(file: Path, overrides: list[str], members: int | None, usual_members: int = 4) -> Facts:
    """Find out what there is to predict. Reads the data set if it is there; no MPI.

    Args:
        file: the configuration.
        overrides: `key=value` arguments.
        members: M, or None for `ensemble.members`, or `usual_members`.
        usual_members: see `members`.

    Raises:
        WashError: the configuration is wrong.
    """
    config = load_config(file, overrides)
    require_methods(config)
    of_config = None if config.method.name == "data_parallel" else config.ensemble.members  # there, ranks are meant
    num_members = (of_config or usual_members) if members is None else members
    if not 1 <= num_members <= _MOST_MEMBERS:
        raise ConfigError(f"plan: expected --members from 1 to {_MOST_MEMBERS}, not {num_members}")
    facts = data_facts(config)
    model = _shapes_of_model(config, facts)
    flat = Flat(model, num_state_rows(config.optimizer))
    per_epoch = steps_per_epoch(facts.num_train, config.data.batch_size)
    num_parts = config.train.accumulate * (num_members if config.method.name == "data_parallel" else 1)
    num_images = -(-config.data.batch_size // num_parts)
    num_steps = config.train.steps or config.train.epochs * per_epoch
    methods = each_method(config, num_steps)
    return Facts(
        config=config,
        drawers=[make_drawer(one, flat, num_members, _nodes(one, num_members)) for one in methods],
        layer_names=[layer.name for layer in merge_layers(flat.layers, config.method.layer)],
        sizes=Sizes(
            num_parameters=flat.values.numel(),
            num_statistics=get_statistics(model).numel(),
            num_channels=num_hidden_channels(model),
            num_rows_kept=len(flat.rows),
            item_size=flat.values.element_size(),
            num_steps=num_steps,
            steps_per_epoch=per_epoch,
        ),
        dtype=flat.values.dtype,
        activations=count_activations(model, facts.image_shape, num_images, config.train.precision),
        data_assumed=facts.assumed,
    )


def calibrate_link(comm: Comm, facts: Facts) -> Calibration:
    """Measure the link between the ranks of this job by exchanges like the run's. Collective over `comm`.

    Raises:
        WashError: on all ranks, where there is nothing to measure.
    """
    from wash_hpc.parallel.calibrate import calibrate
    from wash_hpc.parallel.world import agreed

    with agreed(comm):
        if not facts.exchanges:
            method = facts.config.method
            raise ConfigError(
                f"method.name={method.name} method.p={method.p}: nothing is ever exchanged, or to be calibrated"
            )
    return calibrate(comm, facts.drawer, facts.dtype)


def predict(facts: Facts, link: Link) -> Prediction:
    """Predict a run.

    Args:
        facts: of the run.
        link: of one rank; ranks are members.

    Raises:
        ConfigError: the link has impossible constants.
    """
    _check_link(link)
    method, drawer, sizes = facts.config.method, facts.drawer, facts.sizes
    item, size = sizes.item_size, sizes.num_parameters
    methods = each_method(facts.config, sizes.num_steps)
    costs = [predict_method(one, drawer, sizes, link) for one, drawer in zip(methods, facts.drawers, strict=True)]
    first, traffic = costs[0], costs[0].traffic
    shuffles = first.name == "wash" and first.num_exchanges > 0
    batching = (
        advise_batching(traffic, method.every, methods[0].method.known_p, first.num_exchanges) if shuffles else None
    )
    draw = measure_draw(drawer, facts.num_rows) if shuffles else DrawCost()
    ring = 2 * (drawer.num_members - 1) / drawer.num_members * size * item
    kept = bytes_kept(facts.config, sizes, costs, facts.drawers)
    every = counted_in_steps(method, sizes.num_steps, sizes.steps_per_epoch).every
    return Prediction(
        methods=costs,
        num_members=drawer.num_members,
        num_parameters=size,
        num_layers=len(drawer.layer_sizes),
        layers=share_out(traffic, drawer, facts.layer_names) if first.name == "wash" else [],
        num_steps=sizes.num_steps,
        num_exchanges=sum(cost.num_exchanges for cost in costs),
        values_moved_per_exchange=traffic.values,
        bytes_sent_per_exchange=traffic.values * item,
        bytes_sent_per_member=sum(cost.values_sent for cost in costs) * item,
        messages_per_exchange=traffic.messages,
        messages_per_step=traffic.messages / every,
        wire_bytes_per_exchange=traffic.num_bytes,
        wire_bytes_per_step=traffic.num_bytes / every,
        papa_bytes_per_member=ring * (sizes.num_steps // PAPA_EVERY),
        data_parallel_bytes_per_member=ring * sizes.num_steps,
        link=link,
        exchange_seconds=traffic.seconds,
        exchange_seconds_per_step=traffic.seconds / every,
        exchange_seconds_of_run=sum(cost.traffic.seconds * cost.num_exchanges for cost in costs),
        latency_share=traffic.latency_share,
        batching=batching,
        ring_seconds=_ring_seconds(facts, link, traffic, batching) if shuffles else None,
        draw=draw,
        faster_draws=measure_alternatives(drawer, facts.num_rows) if draw.is_slow else {},
        memory_bytes=kept,
        step_memory=step_memory(kept, facts.activations, gpus_in_question()),
        data_assumed=facts.data_assumed,
        chosen_p=[
            describe_chosen_p(one, sizes.num_steps)
            for given, one in zip(facts.config.methods, methods, strict=True)
            if given.p is None
        ],
    )


def _ring_seconds(facts: Facts, link: Link, traffic: Traffic, batching: Batching | None) -> float | None:
    """Of an exchange of neighbours, where that would send fewer messages and these are still too many."""
    relieved = batching is not None and batching.is_enough
    if not traffic.is_latency_bound or relieved or traffic.messages <= 1:
        return None
    ring = Topology(facts.drawer.num_members, "ring", facts.config.method.every)
    drawer = scale_drawer(facts.drawer, facts.drawer.expected_picked, ring)
    return predict_traffic(drawer, facts.num_rows, facts.sizes.item_size, link).seconds


def _nodes(config: Config, num_members: int) -> tuple[int, ...]:
    """[M] the node of each member, as a run would have it with `method.node_size`."""
    if config.method.topology != "node":
        return ()
    if config.method.node_size is None:
        raise ConfigError(
            "method.node_size=null: a prediction knows no hosts; give the members a node, as in method.node_size=4"
        )
    return tuple(member // config.method.node_size for member in range(num_members))


def _check_link(link: Link) -> None:
    given = (link.latency, link.bandwidth, link.overhead)
    possible = (
        link.latency >= 0 and link.bandwidth > 0 and link.overhead >= 0 and (link.cores is None or link.cores > 0)
    )
    if not possible or not all(map(math.isfinite, given)):
        raise ConfigError(
            "plan: expected --latency-us and --overhead-us of 0 or more, --bandwidth-gb above 0, and --cores of at "
            "least 1"
        )


def _shapes_of_model(config: Config, facts: DataFacts) -> nn.Module:
    """The network without memory or weights, or with them where its making insists on them (torchvision's RegNets)."""
    name, width = config.model.name, config.model.width
    try:
        with torch.device("meta"):
            return build_model(name, facts.image_shape, facts.num_classes, width)
    except NotImplementedError:
        return build_model(name, facts.image_shape, facts.num_classes, width)
