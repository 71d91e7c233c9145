"""Averages of one member over its own steps: cheap rivals of a soup, which need neither other members nor a message.

An exponential moving average of the weights, and the mean of the last k snapshots of them (arXiv 2209.14981). Local;
each replica of a member keeps the same. Parameters only: the statistics that go with an average are measured when it is
judged.
"""

from __future__ import annotations

import torch
from torch import Tensor

from wash_hpc.config import AverageConfig
from wash_hpc.errors import ConfigError, RunFolderError


class Averages:
    """Follows a member's parameters. Costs nothing where no average is asked for.

    Args:
        config: which averages.
        values: [P] the member's parameters, read after each step and never changed.
        num_steps: of the whole run.
        steps_per_epoch: between two snapshots, unless the configuration says otherwise.

    Raises:
        ConfigError: the run is too short for the snapshots.
    """

    def __init__(self, config: AverageConfig, values: Tensor, num_steps: int, steps_per_epoch: int) -> None:
        self._decay = config.ema
        self._values = values.detach()
        self._due = snapshot_steps(config, num_steps, steps_per_epoch)
        self._num_summed = 0
        self._ema = torch.zeros_like(self._values) if config.ema else None
        self._sum = torch.zeros_like(self._values, dtype=torch.float64) if config.last else None

    def after_step(self, step: int) -> None:
        """Take in the weights as they are after update number `step`, from 1; local."""
        if self._ema is not None:
            # The first weights are the average of themselves: it does not remember where training began.
            self._ema.lerp_(self._values, 1.0 - self._decay if step > 1 else 1.0)
        if self._sum is not None and step in self._due:
            self._sum += self._values
            self._num_summed += 1

    def results(self) -> dict[str, Tensor]:
        """The averages that were asked for, after the last step: `ema` and `last`, [P], of the parameters' dtype."""
        found = {} if self._ema is None else {"ema": self._ema}
        if self._sum is not None:
            found["last"] = (self._sum / self._num_summed).to(self._values.dtype)
        return found

    def state(self) -> dict[str, Tensor]:
        """All that a restart needs; not copies."""
        found = {} if self._ema is None else {"ema": self._ema}
        if self._num_summed and self._sum is not None:
            steps = list(self._due)[: self._num_summed]
            found |= {"last_sum": self._sum, "last_steps": torch.tensor(steps)}
        return found

    def load_state(self, state: dict[str, Tensor], step: int) -> None:
        """Put back what `state` gave after update number `step`; averages that are no longer asked for are dropped.

        Raises:
            RunFolderError: an average is asked for that the earlier part of the run has not kept.
        """
        if self._ema is not None:
            if "ema" not in state:
                raise RunFolderError(f"average.ema={self._decay}: the checkpoint of step {step} holds no such average")
            self._ema.copy_(state["ema"])
        if self._sum is None:
            return
        held = state["last_steps"].tolist() if "last_steps" in state else []
        wanted = [due for due in self._due if due <= step]
        if wanted and held != wanted:
            raise RunFolderError(
                f"average.last, average.last_every: snapshots of steps {_list(wanted)} are to be averaged, and the "
                f"checkpoint of step {step} holds {_list(held) or 'none'}"
            )
        if wanted:  # a run that is continued to a later end has its snapshots later, all of them yet to come
            self._sum.copy_(state["last_sum"])
            self._num_summed = len(held)


def snapshot_steps(config: AverageConfig, num_steps: int, steps_per_epoch: int) -> range:
    """After which updates, counted from 1, snapshots are taken: the last of the run, and backwards from it.

    Raises:
        ConfigError: the run is too short for them.
    """
    every = config.last_every or steps_per_epoch
    first = num_steps - (config.last - 1) * every
    if config.last and first < 1:
        raise ConfigError(
            f"average.last={config.last}, average.last_every={every}: the run has only {num_steps} steps, "
            f"expected at least {(config.last - 1) * every + 1} (train.steps, train.epochs)"
        )
    return range(first, num_steps + 1, every) if config.last else range(0)


def _list(steps: list[int]) -> str:
    return ", ".join(map(str, steps))
