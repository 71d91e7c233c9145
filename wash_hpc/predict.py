"""`wash-hpc plan`: what a run will send, how long that takes and what memory a rank needs; nothing is started.

Owns the cost formulas of the method and of what it is compared with (all in scalars a member sends), and the sizes of
data sets that are not there.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import nn

from wash_hpc.config import Config, load_config
from wash_hpc.data import open_source
from wash_hpc.data.source import steps_per_epoch
from wash_hpc.ensemble.flat import Flat
from wash_hpc.errors import ConfigError, DataError, MissingDependencyError
from wash_hpc.member import num_state_rows
from wash_hpc.methods import require_method
from wash_hpc.methods.drawing import is_due, make_drawer
from wash_hpc.models import build_model
from wash_hpc.report.table import format_bytes, format_seconds
from wash_hpc.shuffle.draw import Drawer

_PAPA_EVERY = 10  # steps between two averages in PAPA's recipe (arXiv 2304.03094)


@dataclass(frozen=True)
class DataFacts:
    """What a prediction needs to know of a data set: its images for training, one image's (C, H, W), its classes."""

    num_train: int
    image_shape: tuple[int, int, int]
    num_classes: int
    assumed: bool


@dataclass(frozen=True)
class Prediction:
    """What a run will cost; bytes are payload sent by one member, means over the draws.

    Attributes:
        num_members: M.
        num_parameters: P.
        num_layers: layers of the schedule.
        num_steps: of the run.
        num_exchanges: in which members exchange.
        values_moved_per_exchange: scalars sent by a member.
        bytes_sent_per_exchange: the same as payload.
        bytes_sent_per_member: over the whole run.
        papa_bytes_per_member: PAPA's, averaging every 10 steps by a ring allreduce.
        data_parallel_bytes_per_member: averaging gradients at every step by a ring allreduce.
        exchange_seconds: of one exchange, (M - 1) x latency + bytes / bandwidth.
        exchange_seconds_of_run: of all.
        memory_bytes: of one rank: parameters, gradients, optimizer state, exchange buffers, and the copy that
            evaluation uses; without activations.
        data_assumed: the data set is not there; its published size was taken.
    """

    num_members: int
    num_parameters: int
    num_layers: int
    num_steps: int
    num_exchanges: int
    values_moved_per_exchange: float
    bytes_sent_per_exchange: float
    bytes_sent_per_member: float
    papa_bytes_per_member: float
    data_parallel_bytes_per_member: float
    exchange_seconds: float
    exchange_seconds_of_run: float
    memory_bytes: int
    data_assumed: bool


def predict(file: Path, overrides: list[str], members: int | None, link: tuple[float, float]) -> Prediction:
    """Predict a run from its configuration.

    Args:
        file: the configuration.
        overrides: `key=value` arguments.
        members: M, or None for `ensemble.members`, or 4.
        link: seconds of latency of a message, and bytes per second of one rank's link.

    Raises:
        WashError: the configuration is wrong.
    """
    config = load_config(file, overrides)
    require_method(config.method.name)
    num_members = (config.ensemble.members or 4) if members is None else members
    if num_members < 1 or link[0] < 0 or link[1] <= 0:
        raise ConfigError(
            "plan: expected --members of at least 1, --latency-us of 0 or more and --bandwidth-gb above 0"
        )
    facts = _data_facts(config)
    model = _shapes_of_model(config, facts)
    flat = Flat(model, num_state_rows(config.optimizer))
    num_steps = config.train.steps or config.train.epochs * steps_per_epoch(facts.num_train, config.data.batch_size)
    drawer = make_drawer(config, flat, num_members)
    item, size = flat.values.element_size(), flat.values.numel()
    num_rows = len(flat.rows) if config.method.optimizer_state else 1
    moved = _moved_per_exchange(config, drawer) * num_rows
    num_exchanges = sum(is_due(config.method, step + 1) for step in range(num_steps)) if moved else 0
    ring = 2 * (num_members - 1) / num_members * size * item
    seconds = (num_members - 1) * link[0] + moved * item / link[1] if moved else 0.0
    return Prediction(
        num_members=num_members,
        num_parameters=size,
        num_layers=len(drawer.layer_sizes),
        num_steps=num_steps,
        num_exchanges=num_exchanges,
        values_moved_per_exchange=moved,
        bytes_sent_per_exchange=moved * item,
        bytes_sent_per_member=moved * item * num_exchanges,
        papa_bytes_per_member=ring * (num_steps // _PAPA_EVERY),
        data_parallel_bytes_per_member=ring * num_steps,
        exchange_seconds=seconds,
        exchange_seconds_of_run=seconds * num_exchanges,
        memory_bytes=round((len(flat.rows) + 3) * size * item + 2 * moved * item),
        data_assumed=facts.assumed,
    )


def describe(prediction: Prediction, as_json: bool) -> str:
    """A prediction in lines, or as one JSON object."""
    if as_json:
        return json.dumps(asdict(prediction))
    it = prediction
    rows = [
        ("members", f"{it.num_members}"),
        ("parameters", f"{it.num_parameters:,} in {it.num_layers} layers"),
        ("steps", f"{it.num_steps:,}, {it.num_exchanges:,} of them with an exchange"),
        ("values moved", f"{it.values_moved_per_exchange:,.0f} by a member in an exchange"),
        ("sent", f"{format_bytes(it.bytes_sent_per_exchange)} by a member in an exchange"),
        ("", f"{format_bytes(it.bytes_sent_per_member)} by a member in the run"),
        ("  PAPA", f"{format_bytes(it.papa_bytes_per_member)} (an average every {_PAPA_EVERY} steps)"),
        ("  data-parallel", f"{format_bytes(it.data_parallel_bytes_per_member)} (gradients at every step)"),
        ("time", f"{it.exchange_seconds * 1e3:.3g} ms an exchange on the given link"),
        ("", f"{format_seconds(it.exchange_seconds_of_run)} in the run, computing not counted"),
        ("memory", f"{format_bytes(it.memory_bytes)} a rank, activations not counted"),
    ]
    if it.data_assumed:
        rows.append(("note", "the data set is not here; assumed is its published size (an image folder: ImageNet's)"))
    return "\n".join(f"{name:<16}{text}" for name, text in rows)


def _moved_per_exchange(config: Config, drawer: Drawer) -> float:
    return drawer.most_expected_moved if config.method.name == "wash" else 0.0


def _shapes_of_model(config: Config, facts: DataFacts) -> nn.Module:
    """The network without memory or weights, or with them where its making insists on them (torchvision's RegNets)."""
    name, width = config.model.name, config.model.width
    try:
        with torch.device("meta"):
            return build_model(name, facts.image_shape, facts.num_classes, width)
    except NotImplementedError:
        return build_model(name, facts.image_shape, facts.num_classes, width)


def _data_facts(config: Config) -> DataFacts:
    """The data set's facts, read if it is there."""
    size = config.data.image_size
    published = {
        "image_folder": DataFacts(1_281_167, (3, size, size), 1000, True),
        "cifar10": DataFacts(50_000, (3, 32, 32), 10, True),
        "cifar100": DataFacts(50_000, (3, 32, 32), 100, True),
        "fashion_mnist": DataFacts(60_000, (1, 28, 28), 10, True),
    }
    try:
        source = open_source(config, torch.device("cpu"))
    except (DataError, MissingDependencyError):
        if config.data.name in published:
            facts = published[config.data.name]
            return replace(facts, num_train=facts.num_train - round(facts.num_train * config.data.held_out))
        raise
    return DataFacts(source.num_train, source.image_shape, source.num_classes, False)
