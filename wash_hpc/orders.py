"""What a run is asked from outside while it goes on: by signals, and by the files STOP and SAVE in its folder.

Owns how all ranks come to obey the same thing after the same step. What is done then is `checkpoints`' business.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wash_hpc.errors import STATUS_AGAIN, RunFolderError, StoppedError
from wash_hpc.parallel.world import World
from wash_hpc.signals import AGAIN, FOR_GOOD, Signals
from wash_hpc.storage.run_folder import SAVE, STOP

_REASONS = ("", STOP, *(number.name for number in AGAIN + FOR_GOOD))  # the later counts more where there are several
_SECONDS_BETWEEN = 1.0
_MOST_STEPS_BETWEEN = 1000


@dataclass(frozen=True)
class Order:
    """What all ranks do after a step.

    Attributes:
        save: write a checkpoint, and go on.
        stop: why the run is to stop: `STOP`, or a signal's name; empty: it is not.
        none_busy: all have been asked, and no rank was writing its part of a checkpoint.
    """

    save: bool = False
    stop: str = ""
    none_busy: bool = False

    @property
    def stop_status(self) -> int:
        """The exit status of a run that stops for this reason."""
        return STATUS_AGAIN if self.stop in {number.name for number in AGAIN} else StoppedError.status


class Orders:
    """Asks about once a second whether any rank has been told something.

    Signals reach ranks at different times, and each rank has its own clock; so the steps after which all ask are chosen
    from what all have been told: the seconds a step of the slowest rank. Members that do not meet otherwise wait for
    each other there. While a checkpoint is being written they ask sooner, after 1, 2, 4, 8 ... steps of it, so that it
    is complete soon after its files are there.

    Args:
        folder: the run's; the root looks for files in it.
        world: the ranks.
        signals: what this rank has been sent.
        first_step: steps already done.
    """

    def __init__(self, folder: Path, world: World, signals: Signals, first_step: int) -> None:
        self._folder = folder
        self._world = world
        self._signals = signals
        self._asked_at = first_step
        self._next = first_step + 1
        self._time = time.monotonic()
        self._writing_since = first_step

    def writing_since(self, step: int) -> None:
        """A checkpoint is being written since update number `step`; said by all ranks."""
        self._writing_since = step
        self._next = step + 1

    def after_step(self, step: int, is_busy: bool = False, at_once: bool = False) -> Order:
        """What to do after update number `step`, from 1; the same on all ranks. Collective over the world if due.

        Args:
            step: the update.
            is_busy: whether this rank is writing its part of a checkpoint.
            at_once: whether it is due in any case; equal on all ranks.
        """
        if step < self._next and not at_once:
            return Order()
        now = time.monotonic()
        save = self._has(SAVE)
        seconds_a_step = (now - self._time) / (step - self._asked_at)
        said = np.array([save, _REASONS.index(self._reason()), seconds_a_step, is_busy])
        said = self._world.highest(said)
        self._asked_at, self._time = step, now
        num_steps = int(np.clip(_SECONDS_BETWEEN / max(said[2], 1e-9), 1, _MOST_STEPS_BETWEEN))
        if said[3]:
            num_steps = min(num_steps, step - self._writing_since)
        self._next = step + num_steps
        return Order(bool(said[0]), _REASONS[int(said[1])], none_busy=not said[3])

    def saved(self) -> None:
        """The checkpoint that SAVE asks for is there: remove the file."""
        if self._world.is_root:
            try:
                (self._folder / SAVE).unlink(missing_ok=True)
            except OSError as error:
                raise RunFolderError(f"{self._folder / SAVE}: cannot be removed: {error.strerror}") from error

    def _reason(self) -> str:
        if self._signals.received is not None:
            return self._signals.received.name
        return STOP if self._has(STOP) else ""

    def _has(self, name: str) -> bool:
        """Whether the root sees such a file; a hiccup of the file system is no reason to stop a run."""
        try:
            return self._world.is_root and (self._folder / name).exists()
        except OSError:
            return False
