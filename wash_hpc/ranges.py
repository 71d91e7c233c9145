"""Which values of the configuration make sense by themselves, whatever the world and the data are."""

from __future__ import annotations

import math
import unicodedata
from dataclasses import asdict
from typing import TYPE_CHECKING

from wash_hpc.errors import ConfigError
from wash_hpc.method_kinds import section_of

if TYPE_CHECKING:
    from wash_hpc.config import Config, OptimizerConfig, SingleMethodConfig

_MOST_CONTEXT = 4096  # a network attends from each byte of a window to all before it
_MOST_NAME_BYTES = 200  # a file system takes 255
_LARGEST = 1e30
_TEXTS = {"log.sinks"}  # lists of text; all others are of numbers
SINKS = ("tensorboard", "wandb")
MOST = {  # by key, what no machine has or needs; whole numbers of other keys go up to 2^53
    "run.seed": 2**63 - 1,
    "run.threads": 2**12,
    "ensemble.members": 2**16,
    "model.width": 2**14,
    "data.batch_size": 2**24,
    "data.workers": 2**10,
    "data.prefetch": 2**10,
    "data.decoder_size_hint": 2**16,
    "data.image_size": 2**12,
    "data.resize": 2**12,
    "data.crop_padding": 2**10,
    "data.num_images": 2**31,
    "data.num_classes": 2**16,
    "evaluate.batch_size": 2**24,
}

Rule = tuple[str, object, bool, str]
"""A key, its value, whether it may have this value, and what was expected."""


def check_ranges(config: Config) -> None:
    """Refuse values out of range, naming the key.

    Raises:
        ConfigError: the first value that is out of its range.
    """
    sections = asdict(config)
    sections |= {f"method.then[{number}]": method for number, method in enumerate(sections["method"]["then"])}
    for section, values in sections.items():
        for key, value in values.items():
            if key != "then":
                _check_plain_value(f"{section}.{key}", value)
    for key, value, holds, expected in rules_of(config):
        if not holds:
            raise ConfigError(f"{key}={value}: expected {expected}")


def rules_of(config: Config) -> list[Rule]:
    """What is expected of each key beside its type; docs/configuration.md is made of these sentences, too."""
    rules = [*_run_rules(config), *_data_rules(config), *_training_rules(config), *_combination_rules(config)]
    for number, method in enumerate(config.methods):
        rules += _method_rules(method, config.optimizer, section_of(number))
    return rules


def _check_plain_value(key: str, value: object) -> None:
    """Refuse what no key may have: numbers beyond all use, and text that would move a terminal's cursor."""
    items = value if isinstance(value, list) else [value]
    is_numbers = all(isinstance(item, (int, float)) for item in items)
    if isinstance(value, list) and key not in _TEXTS and not is_numbers:
        raise ConfigError(f"{key}={value}: expected a list of numbers")
    most = MOST.get(key, 2**53)
    for item in items:
        if isinstance(item, float) and not math.isfinite(item):
            raise ConfigError(f"{key}={value}: expected a finite number")
        if isinstance(item, float) and abs(item) > _LARGEST:
            raise ConfigError(f"{key}={value}: expected a number of at most {_LARGEST:g}, which single precision has")
        if isinstance(item, int) and item > most:
            raise ConfigError(f"{key}={value}: expected at most {most}")
        if isinstance(item, str) and any(unicodedata.category(character)[0] == "C" for character in item):
            raise ConfigError(f"{key}={item!a}: expected text without control characters")


def _run_rules(config: Config) -> list[Rule]:
    run = config.run
    return [
        ("run.name", run.name, _is_folder_name(run.name), f"a plain folder name of at most {_MOST_NAME_BYTES} bytes"),
        ("run.seed", run.seed, 0 <= run.seed < 2**63, "a whole number from 0 to 2^63 - 1"),
        ("run.threads", run.threads, run.threads >= 0, "0 or more"),
        ("ensemble.members", config.ensemble.members, _at_least(1, config.ensemble.members), "at least 1, or null"),
        ("model.width", config.model.width, config.model.width >= 1, "at least 1"),
        ("log.every_steps", config.log.every_steps, config.log.every_steps >= 1, "at least 1"),
        (
            "log.consensus_every_steps",
            config.log.consensus_every_steps,
            config.log.consensus_every_steps >= 0,
            "0 or more",
        ),
        (
            "log.sinks",
            config.log.sinks,
            all(name in SINKS for name in config.log.sinks) and len(set(config.log.sinks)) == len(config.log.sinks),
            f"a list of names among {', '.join(SINKS)}, each once",
        ),
        ("log.stall_seconds", config.log.stall_seconds, 0 <= config.log.stall_seconds <= 1e6, "0 to a million"),
        ("evaluate.every_epochs", config.evaluate.every_epochs, config.evaluate.every_epochs >= 0, "0 or more"),
        ("evaluate.batch_size", config.evaluate.batch_size, config.evaluate.batch_size >= 1, "at least 1"),
        (
            "evaluate.statistics_images",
            config.evaluate.statistics_images,
            config.evaluate.statistics_images >= 1,
            "at least 1",
        ),
        ("checkpoint.every_steps", config.checkpoint.every_steps, config.checkpoint.every_steps >= 0, "0 or more"),
        ("checkpoint.keep", config.checkpoint.keep, config.checkpoint.keep >= 1, "at least 1"),
        (
            "checkpoint.grace_seconds",
            config.checkpoint.grace_seconds,
            0 <= config.checkpoint.grace_seconds <= 1e6,
            "0 to a million",
        ),
    ]


def _data_rules(config: Config) -> list[Rule]:
    data = config.data
    low, high = [*data.crop_scale, 0.0, 0.0][:2]
    return [
        ("data.batch_size", data.batch_size, data.batch_size >= 1, "at least 1"),
        ("data.workers", data.workers, data.workers >= 1, "at least 1"),
        ("data.prefetch", data.prefetch, data.prefetch >= 1, "at least 1"),
        (
            "data.hw_decoder_share",
            data.hw_decoder_share,
            data.hw_decoder_share is None or 0 <= data.hw_decoder_share <= 1,
            "a share in [0, 1], or null",
        ),
        (
            "data.decoder_size_hint",
            data.decoder_size_hint,
            len(data.decoder_size_hint) == 2 and min(data.decoder_size_hint) >= 0,
            "a height and a width in pixels, each 0 or more",
        ),
        ("data.held_out", data.held_out, 0 <= data.held_out < 1, "a share in [0, 1)"),
        ("data.train_share", data.train_share, 0 < data.train_share <= 1, "a share in (0, 1]"),
        ("data.image_size", data.image_size, data.image_size >= 8, "at least 8 pixels"),
        ("data.resize", data.resize, data.resize >= data.image_size, "at least data.image_size"),
        ("data.crop_padding", data.crop_padding, data.crop_padding >= 0, "0 or more"),
        (
            "data.crop_scale",
            data.crop_scale,
            len(data.crop_scale) == 2 and 0 < low <= high <= 1,
            "two shares, 0 < low <= high <= 1",
        ),
        ("data.mean", data.mean, len(data.mean) == 3, "three numbers"),
        ("data.std", data.std, len(data.std) == 3 and min(data.std) > 0, "three positive numbers"),
        ("data.num_images", data.num_images, data.num_images >= 1, "at least 1"),
        ("data.num_classes", data.num_classes, data.num_classes >= 2, "at least 2"),
        ("data.context", data.context, 1 <= data.context <= _MOST_CONTEXT, f"from 1 to {_MOST_CONTEXT} bytes"),
    ]


def _training_rules(config: Config) -> list[Rule]:
    train, optimizer, average = config.train, config.optimizer, config.average
    return [
        ("train.epochs", train.epochs, train.epochs >= 1, "at least 1"),
        ("train.steps", train.steps, _at_least(1, train.steps), "at least 1, or null"),
        ("train.accumulate", train.accumulate, train.accumulate >= 1, "at least 1"),
        (
            "train.cuda_graph",
            train.cuda_graph,
            not (train.cuda_graph and train.precision == "fp16"),
            "false with train.precision=fp16, whose scale decides at every step whether there is an update; use bf16",
        ),
        *(
            (f"train.{key}", values, bool(values) and min(values) >= 0, "a number, 0 or more, or a list of such")
            for key, values in (("mixup", train.mixup), ("cutmix", train.cutmix))
        ),
        (
            "train.label_smoothing",
            train.label_smoothing,
            bool(train.label_smoothing) and all(0 <= value < 1 for value in train.label_smoothing),
            "a number in [0, 1), or a list of such",
        ),
        *(
            (f"train.{key}", values, config.data.name != "text" or not any(values), "0 with data.name=text")
            for key, values in (
                ("mixup", train.mixup),
                ("cutmix", train.cutmix),
                ("random_erasing", train.random_erasing),
            )
        ),
        (
            "train.random_erasing",
            train.random_erasing,
            bool(train.random_erasing) and all(0 <= value <= 1 for value in train.random_erasing),
            "a probability in [0, 1], or a list of such",
        ),
        ("optimizer.lr", optimizer.lr, optimizer.lr >= 0, "0 or more"),
        (
            "optimizer.min_lr",
            optimizer.min_lr,
            optimizer.min_lr >= 0 and (optimizer.schedule == "constant" or optimizer.min_lr <= optimizer.lr),
            "0 or more, and with a cosine at most optimizer.lr",
        ),
        ("optimizer.warmup_steps", optimizer.warmup_steps, optimizer.warmup_steps >= 0, "0 or more"),
        ("optimizer.momentum", optimizer.momentum, 0 <= optimizer.momentum < 1, "in [0, 1)"),
        (
            "optimizer.nesterov",
            optimizer.nesterov,
            not optimizer.nesterov or (optimizer.name == "sgd" and optimizer.momentum > 0),
            "false, or SGD with momentum",
        ),
        ("optimizer.weight_decay", optimizer.weight_decay, optimizer.weight_decay >= 0, "0 or more"),
        ("average.ema", average.ema, 0 <= average.ema < 1, "a decay in [0, 1)"),
        ("average.last", average.last, average.last == 0 or average.last >= 2, "0, or at least 2"),
        ("average.last_every", average.last_every, _at_least(1, average.last_every), "at least 1, or null"),
    ]


def _method_rules(method: SingleMethodConfig, optimizer: OptimizerConfig, where: str) -> list[Rule]:
    rules: list[Rule] = [
        (
            "p",
            "auto" if method.p is None else method.p,
            method.name == "wash" if method.p is None else 0 <= method.p <= 1,
            "a probability in [0, 1], or auto with method.name=wash",
        ),
        ("every", method.every, method.every >= 1, "at least 1, or 0 for the method's own"),
        ("start", method.start, method.start >= 0, "0 or more"),
        ("stop", method.stop, _at_least(method.start, method.stop), "method.start or more, or null"),
        ("node_size", method.node_size, _at_least(1, method.node_size), "at least 1, or null"),
        ("node_ratio", method.node_ratio, method.node_ratio >= 1, "at least 1"),
        (
            "quarantine",
            method.quarantine,
            not method.quarantine or method.topology == "global",
            "false where method.topology is not global, as not all members then know of a sick one",
        ),
        (
            "optimizer_state",
            method.optimizer_state,
            not (method.optimizer_state and optimizer.name == "sgd" and optimizer.momentum == 0),
            "false with optimizer.name=sgd and optimizer.momentum=0, which keeps no state that could be shuffled",
        ),
        (
            "overlap",
            method.overlap,
            not (method.overlap and method.optimizer_state and optimizer.name != "sgd"),
            "false with method.optimizer_state=true and Adam, whose second moment a difference could make negative",
        ),
        ("alpha", method.alpha, 0 <= method.alpha <= 1, "a share in [0, 1]"),
        (
            "p_schedule",
            method.p_schedule,
            method.p_schedule == "constant" or method.draw == "random",
            "constant with method.draw=partitioned, which takes each position equally often",
        ),
        ("draw", method.draw, method.draw == "random" or method.p != 0, "random with method.p=0"),
        ("outer_lr", method.outer_lr, method.outer_lr > 0, "above 0"),
        ("outer_momentum", method.outer_momentum, 0 <= method.outer_momentum < 1, "in [0, 1)"),
    ]
    return [(f"{where}.{key}", value, holds, expected) for key, value, holds, expected in rules]


def _combination_rules(config: Config) -> list[Rule]:
    names, members = [method.name for method in config.methods], config.ensemble.members
    return [
        (
            "ensemble.members",
            members,
            names[0] != "data_parallel" or members == 1,
            "1 or null with method.name=data_parallel, which trains one model on all ranks",
        ),
        (
            "method.then",
            names[1:],
            len(names) == 1 or "data_parallel" not in names,
            "no data_parallel, which has a single member, beside another method",
        ),
        (
            "method.quarantine",
            True,
            len(names) == 1 or not any(method.quarantine for method in config.methods),
            "false with method.then: other methods do not know of quarantined members",
        ),
        (
            "method.overlap",
            True,
            len(names) == 1 or not any(method.overlap for method in config.methods),
            "false with method.then: an exchange under way and another method's average must not meet",
        ),
    ]


def _is_folder_name(name: str) -> bool:
    is_short = len(name.encode()) <= _MOST_NAME_BYTES
    return bool(name) and name not in {".", ".."} and "/" not in name and not name.startswith("-") and is_short


def _at_least(least: int, value: int | None) -> bool:
    return value is None or value >= least
