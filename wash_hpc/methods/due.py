"""When a method acts: every so many steps, or epochs, in a window of the run. Pure, and the same on every rank."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from wash_hpc.config import SingleMethodConfig
from wash_hpc.method_kinds import kind_of


def is_due(config: SingleMethodConfig, step: int) -> bool:
    """Whether a method acts after the update number `step`, from 1: every `every` steps in (start, stop]."""
    stop = np.inf if config.stop is None else config.stop
    return config.start < step <= stop and (step - config.start) % config.every == 0


def due_steps(config: SingleMethodConfig, num_steps: int) -> range:
    """Those of the updates 1 ... num_steps after which `is_due` holds."""
    last = num_steps if config.stop is None else min(config.stop, num_steps)
    return range(config.start + config.every, last + 1, config.every)


def counted_in_steps(config: SingleMethodConfig, num_steps: int, steps_per_epoch: int) -> SingleMethodConfig:
    """The same for a method that counts in epochs (`papa_all`): `every` in steps, and never at the end of the run."""
    if not kind_of(config.name).in_epochs:
        return config
    last = num_steps - 1 if config.stop is None else min(config.stop, num_steps - 1)
    return replace(config, every=config.every * steps_per_epoch, stop=max(last, config.start))


def why_never_due(config: SingleMethodConfig, num_steps: int, steps_per_epoch: int) -> str:
    """Why a method that members meet by is due in no step of the run; empty where it is due.

    Args:
        config: of the method, as given.
        num_steps: of the whole run.
        steps_per_epoch: of a pass over the training set.
    """
    kind = kind_of(config.name)
    if "every" not in kind.options or due_steps(counted_in_steps(config, num_steps, steps_per_epoch), num_steps):
        return ""
    stop = "null" if config.stop is None else config.stop
    epochs = f" epochs of {steps_per_epoch} steps, not after the last step" if kind.in_epochs else ""
    return (
        f"method.name={config.name}, start={config.start}, stop={stop}, every={config.every}{epochs}: no exchange is "
        f"due in the {num_steps} steps of the run"
    )
