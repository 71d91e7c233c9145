"""Where the time goes from the start of this process to the first step, part by part. Sends nothing.

The parts follow each other, so a part is all that has passed since the one before it ended, waiting included.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

Seconds = dict[str, float]


def _age_of_process() -> float:
    """Seconds since this process was started, to some hundredths."""
    # Behind the name, which may hold anything but is in brackets, the start is number 22, in ticks since the machine's.
    fields = Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")


class StartClock:
    """Seconds by part of the start of a run; the first run of a process starts with the process itself."""

    def __init__(self) -> None:
        self._seconds: Seconds = {}
        self._since: float | None = time.monotonic() - _age_of_process()

    def ended(self, part: str) -> None:
        """All that has passed since the last call was this part, or more of it."""
        now = time.monotonic()
        if self._since is not None:
            self._seconds[part] = self._seconds.get(part, 0.0) + now - self._since
        self._since = now

    def read(self) -> Seconds:
        """Seconds by part, in the order in which they first ended; after that the clock stands until a part ends."""
        seconds, self._seconds, self._since = self._seconds, {}, None
        return seconds


start_clock = StartClock()
"""This process's. One for all, because it has to be there before a run is."""


def slowest(of_ranks: Sequence[Seconds]) -> Seconds:
    """The seconds of the rank that took longest for each part, and under `total` for all of them."""
    total = max(sum(seconds.values()) for seconds in of_ranks)
    return {"total": total, **{part: max(seconds[part] for seconds in of_ranks) for part in of_ranks[0]}}


def describe_start(seconds: Mapping[str, float]) -> str:
    """What `slowest` found, as a sentence."""
    parts = ", ".join(f"{part} {spent:.1f}" for part, spent in seconds.items() if part != "total")
    return f"started in {seconds['total']:.1f} s: {parts} (each of the rank that took longest)"
