"""Which rank holds up a run in which no step ends. No MPI: it may be MPI that hangs.

Nothing is written while steps end. A rank whose step lasts puts a *sign* into the folder `stalled` of the run, an empty
file whose name says rank, steps done and the part of the step that it is in, and gives it a new name now and then. So
do all, because ranks wait for each other. The lowest rank that still does so then reads them all and says who is late:
ranks whose sign is missing or old, which are stopped, hung or gone; else, of those that have done the fewest steps, the
ones that are at work of their own.
"""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from wash_hpc.clock import Stopwatch
from wash_hpc.parallel.placement import list_first
from wash_hpc.storage.run_folder import STALLED

_OWN_WORK = ("data", "compute")  # in the other parts ranks wait for each other
_BETWEEN = "between"  # two steps: the log, evaluations, checkpoints
_MOST_SECONDS_BETWEEN_LOOKS = 1.0


@dataclass(frozen=True)
class Sign:
    """Where a rank is.

    Attributes:
        rank: which.
        step: updates it has done.
        part: of the step after these; or `between`.
        number: of signs given before.
    """

    rank: int
    step: int
    part: str
    number: int = 0

    @property
    def name(self) -> str:
        """Of its file."""
        return f"{self.rank}-{self.step}-{self.part}-{self.number}"

    @classmethod
    def read(cls, name: str) -> Sign:
        """The sign of a file of this name."""
        rank, step, part, number = name.split("-")
        return cls(int(rank), int(step), part, int(number))

    def __str__(self) -> str:
        return f"{self.part} of step {self.step + 1}" if self.part != _BETWEEN else f"between steps, after {self.step}"


def find_late(signs: Sequence[Sign], names: Sequence[str]) -> str:
    """Who is late, as the end of a sentence; empty where that cannot be told from an evaluation that takes its time.

    Args:
        signs: at least one, of a rank at most one.
        names: of all ranks.
    """
    given = {sign.rank for sign in signs}
    silent = [name for rank, name in enumerate(names) if rank not in given]
    if silent:
        others = ", ".join(f"{number} in {where}" for where, number in Counter(map(str, signs)).items())
        return f"{list_first(silent)} gives no sign of life: stopped, hung, or its host is lost? Others: {others}"
    fewest = min(sign.step for sign in signs)
    slowest = [sign for sign in signs if sign.step == fewest]
    late = [sign for sign in slowest if sign.part in _OWN_WORK]
    if not late and len(slowest) < len(signs):
        late = slowest
    if late:
        who = "all ranks are" if len(late) == len(names) else f"{list_first([names[sign.rank] for sign in late])} is"
        where = ", ".join(dict.fromkeys(map(str, late)))
        return f"{who} in {where}" + ("" if len(late) == len(names) else "; the others wait")
    if all(sign.part == _BETWEEN for sign in signs):
        return ""
    return f"all ranks wait for each other in {', '.join(dict.fromkeys(map(str, slowest)))}: is the network lost?"


class StallWatch:
    """Says on standard error that no step ends, who is late, and when it goes on. Local; a context manager.

    Args:
        folder: the run's, which all ranks see.
        rank: this one.
        names: of all ranks, as they are to be named.
        clock: the loop's; says in which part of a step this rank is.
        seconds: without the end of a step, after which it is said, and again after twice as long, and so on; 0: never.
        first_step: steps already done.
    """

    def __init__(
        self, folder: Path, rank: int, names: Sequence[str], clock: Stopwatch, seconds: float, first_step: int
    ) -> None:
        self._folder = folder / STALLED
        self._run = folder.name
        self._rank = rank
        self._names = names
        self._clock = clock
        self._seconds = seconds
        self._done = (first_step, time.monotonic())
        self._seen = self._done
        self._sign: Sign | None = None
        self._signed_at = -math.inf
        self._old: set[str] = set()  # names of signs some time ago
        self._listed_at = math.inf
        self._due = seconds
        self._has_spoken = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="stalls", daemon=True)

    def __enter__(self) -> StallWatch:
        if self._seconds:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._seconds:
            self._thread.join(_MOST_SECONDS_BETWEEN_LOOKS)  # it may hang with its file system
            self._withdraw()

    def step_ended(self, step: int) -> None:
        """Update number `step` is done, and all that follows it."""
        self._done = (step, time.monotonic())

    def _watch(self) -> None:
        while not self._ended.wait(min(_MOST_SECONDS_BETWEEN_LOOKS, self._seconds / 16)):
            with suppress(OSError, ValueError):  # a file system in trouble may be why no step ends
                self._look(self._done, time.monotonic())

    def _look(self, done: tuple[int, float], now: float) -> None:
        """Give signs from half the time on, list them at three quarters, and at the end judge by the new ones."""
        if done != self._seen:
            self._goes_on(now)
            self._seen = done
        lasts, quarter = now - done[1], self._seconds / 4
        if lasts > 2 * quarter and now - self._signed_at > quarter / 2:
            self._give_sign(done[0])
            self._signed_at = now
        if lasts > self._due - quarter and self._listed_at == math.inf:
            self._old, self._listed_at = self._list(), now
        # A rank that was itself stopped finds that much is over, and waits, too, for whether it goes on.
        if lasts > self._due and now - self._listed_at > quarter:
            self._speak([Sign.read(name) for name in self._list() - self._old], lasts)
            self._due, self._listed_at = 2 * lasts, math.inf

    def _list(self) -> set[str]:
        return set(os.listdir(self._folder))  # noqa: PTH208 (names, not paths)

    def _give_sign(self, step: int) -> None:
        before = self._sign
        number = 0 if before is None else before.number + 1
        sign = Sign(self._rank, step, self._clock.part or _BETWEEN, number)
        self._folder.mkdir(exist_ok=True)
        if before is None:
            (self._folder / sign.name).touch()
        else:
            (self._folder / before.name).replace(self._folder / sign.name)
        self._sign = sign

    def _speak(self, signs: Sequence[Sign], lasts: float) -> None:
        """Say who is late, where this is the lowest rank that could, and it has not gone on meanwhile."""
        if self._done != self._seen or self._rank != min((sign.rank for sign in signs), default=-1):
            return
        late = find_late(signs, self._names)
        if late:
            self._has_spoken = True
            _say(f"{self._run}: no step has ended for {lasts:.0f} s: {late} (log.stall_seconds)")

    def _goes_on(self, now: float) -> None:
        if self._has_spoken:
            _say(f"{self._run}: it goes on after {now - self._seen[1]:.0f} s, with step {self._done[0]}")
        self._has_spoken = False
        self._due, self._listed_at = self._seconds, math.inf
        self._withdraw()

    def _withdraw(self) -> None:
        if self._sign is None:
            return
        sign, self._sign, self._signed_at = self._sign, None, -math.inf
        with suppress(OSError):
            (self._folder / sign.name).unlink()
            self._folder.rmdir()  # not as long as others have not withdrawn theirs


def _say(sentence: str) -> None:
    sys.stderr.write(f"wash_hpc: {sentence}\n")
    sys.stderr.flush()
