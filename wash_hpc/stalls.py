"""Which rank holds up a run in which no step ends. No MPI: it may be MPI that hangs.

Nothing is written while steps end. A rank whose step lasts makes the file `stalled/call` in the run's folder. All ranks
look now and then whether it is there, also those whose own steps end, for which others may wait none the less; and each
answers by a *sign*, an empty file beside it whose name says rank, steps done and the part of the step that it is in.
After a while the one who has called reads them and says who is late: ranks without a sign, which are stopped, hung or
gone; else, of those that have done the fewest steps, the ones that are at work of their own.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from wash_hpc.clock import Stopwatch
from wash_hpc.parallel.placement import list_first
from wash_hpc.storage.run_folder import STALLED

_OWN_WORK = ("data", "compute")  # in the other parts ranks wait for each other
_BETWEEN = "between"  # two steps: the log, evaluations, checkpoints
_CALL = "call"  # the file by which a rank asks the others for signs; its time of change tells one call from another
_NAME = re.compile(r"([0-9]+)-([0-9]+)-([0-9]+)-([a-z_]+)")
_MOST_SECONDS_BETWEEN_LOOKS = 1.0


@dataclass(frozen=True)
class Sign:
    """Where a rank is.

    Attributes:
        rank: which.
        step: updates it has done.
        part: of the step after these; or `between`.
    """

    rank: int
    step: int
    part: str

    def name(self, call: int) -> str:
        """Of its file, as an answer to this call."""
        return f"{call}-{self.rank}-{self.step}-{self.part}"

    def __str__(self) -> str:
        after = self.step + 1
        return f"in {self.part} of step {after}" if self.part != _BETWEEN else f"between steps {self.step} and {after}"


def read_signs(names: Iterable[str], call: int, num_ranks: int) -> list[Sign]:
    """The answers to a call, by rank, one of each, from names of files; what is no such answer is passed over."""
    found = [match.groups() for match in map(_NAME.fullmatch, names) if match and int(match[1]) == call]
    signs = sorted((Sign(int(rank), int(step), part) for _, rank, step, part in found), key=lambda sign: sign.step)
    latest = {sign.rank: sign for sign in signs if sign.rank < num_ranks}
    return [latest[rank] for rank in sorted(latest)]


def find_late(signs: Sequence[Sign], names: Sequence[str]) -> str:
    """Who is late, as the end of a sentence; empty where that cannot be told from an evaluation that takes its time.

    Args:
        signs: at least one, of a rank at most one.
        names: of all ranks.
    """
    given = {sign.rank for sign in signs}
    silent = [name for rank, name in enumerate(names) if rank not in given]
    if silent:
        others = ", ".join(f"{number} {where}" for where, number in Counter(map(str, signs)).items())
        give = "gives" if len(silent) == 1 else "give"
        return f"{list_first(silent)} {give} no sign of life: stopped, hung, or the host is lost? Others: {others}"
    fewest = min(sign.step for sign in signs)
    slowest = [sign for sign in signs if sign.step == fewest]
    late = [sign for sign in slowest if sign.part in _OWN_WORK]
    if not late and len(slowest) < len(signs):
        late = slowest
    if late:
        who = "all ranks" if len(late) == len(names) else list_first([names[sign.rank] for sign in late])
        are = "is" if len(late) == 1 else "are"
        where = ", ".join(dict.fromkeys(map(str, late)))
        return f"{who} {are} {where}" + ("" if len(late) == len(names) else "; the others wait")
    if all(sign.part == _BETWEEN for sign in signs):
        return ""
    return f"all ranks wait for each other {', '.join(dict.fromkeys(map(str, slowest)))}: is the network lost?"


class StallWatch:
    """Says on standard error that a step does not end, who is late, and when it goes on. Local; a context manager.

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
        self._asked_at = -math.inf
        self._heard = 0, math.inf  # the call that there was, or 0, and since when
        self._sign: Path | None = None
        self._due = seconds
        self._called = 0, math.inf  # this rank's own call, and when
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
            self._drop_call()
            self._drop_sign()

    def step_ended(self, step: int) -> None:
        """Update number `step` is done, and all that follows it."""
        self._done = (step, time.monotonic())

    def _watch(self) -> None:
        while not self._ended.wait(min(_MOST_SECONDS_BETWEEN_LOOKS, self._seconds / 16)):
            with suppress(OSError):  # a file system in trouble may be why no step ends
                self._look(self._done, time.monotonic())

    def _look(self, done: tuple[int, float], now: float) -> None:
        if done != self._seen:
            self._goes_on(now)
            self._seen = done
        if now - self._asked_at > self._seconds / 16:
            self._asked_at = now
            self._answer(now)
        lasts, half = now - done[1], self._seconds / 2
        if not self._called[0] and lasts > self._due - half:
            self._call(now)
        if self._called[0] and lasts > self._due and now - self._called[1] > half:
            self._speak(lasts)
            self._drop_call()
            while self._due <= lasts:
                self._due *= 2

    def _find_call(self) -> int:
        """The nanosecond in which it was made; 0: there is none."""
        try:
            return (self._folder / _CALL).stat().st_mtime_ns
        except FileNotFoundError:
            return 0

    def _answer(self, now: float) -> None:
        """Give one sign for each call."""
        call = self._find_call()
        if call == self._heard[0]:
            return
        self._drop_sign()
        if call:
            self._sign = self._folder / Sign(self._rank, self._done[0], self._clock.part or _BETWEEN).name(call)
            self._sign.touch()
        self._heard = call, now

    def _call(self, now: float) -> None:
        """Ask all for signs, unless another rank does, so that one reads them and not all.

        A call that stays is of a rank that has been stopped since. A later one is then due.
        """
        if self._heard[0] and now - self._heard[1] > self._seconds:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(exist_ok=True)
        try:
            (self._folder / _CALL).touch(exist_ok=False)
        except FileExistsError:
            self._due *= 2
            return
        self._called = self._find_call(), now

    def _speak(self, lasts: float) -> None:
        """Say who is late, if this rank has not gone on meanwhile, its call still stands, and it sees its own sign."""
        call = self._called[0]
        if self._done != self._seen or self._find_call() != call:
            return
        names = os.listdir(self._folder)  # noqa: PTH208 (names, not paths)
        signs = read_signs(names, call, len(self._names))
        if self._rank not in {sign.rank for sign in signs}:
            return
        late = find_late(signs, self._names)
        if late:
            self._has_spoken = True
            _say(f"{self._run}: a step has not ended for {lasts:.0f} s: {late} (log.stall_seconds)")

    def _goes_on(self, now: float) -> None:
        if self._has_spoken:
            _say(f"{self._run}: it goes on after {now - self._seen[1]:.0f} s, with step {self._done[0]}")
        self._has_spoken = False
        self._due = self._seconds
        self._drop_call()

    def _drop_call(self) -> None:
        call, self._called = self._called[0], (0, math.inf)
        with suppress(OSError):
            if call and self._find_call() == call:
                shutil.rmtree(self._folder)

    def _drop_sign(self) -> None:
        sign, self._sign = self._sign, None
        if sign is not None:
            with suppress(OSError):
                sign.unlink()
            with suppress(OSError):  # others have not taken theirs away
                sign.parent.rmdir()


def _say(sentence: str) -> None:
    sys.stderr.write(f"wash_hpc: {sentence}\n")
    sys.stderr.flush()
