"""What one rank of a soak has seen, and what that comes to: samples of the process, promises that were broken."""

from __future__ import annotations

import os
import time
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread

import numpy as np
from numpy.typing import NDArray

MEGABYTE = 1e6
MEASURED_MINUTES = 10.0  # in which memory may grow by a megabyte
WARM_UP_MINUTES = 2.0  # of long runs; half of short ones
LEAST_SAMPLES = 60
PLANTS = ("memory", "files", "threads", "drift", "law", "count")


@dataclass
class Watch:
    """What one rank has seen.

    Attributes:
        minutes: how long to train, from the first step on.
        least_steps: to do in any case.
        check_every: steps between two looks at a shuffle.
        plant: faults to be made on purpose, of `PLANTS`.
        samples: four numbers about once a second: seconds since the first step, bytes in memory, open files, threads.
            In an array, as tuples of as many objects would be a leak of our own.
        broken: promises that were broken, each with the step at which it was first seen.
        num_steps: done.
        num_checks: of shuffles.
        place: member and replica.
    """

    minutes: float
    least_steps: int
    check_every: int
    plant: Sequence[str]
    samples: array[float] = field(default_factory=lambda: array("d"))
    broken: dict[str, str] = field(default_factory=dict)
    num_steps: int = 0
    num_checks: int = 0
    place: tuple[int, int] = (0, 0)
    _began: float | None = None
    _held: list[object] = field(default_factory=list)

    def after_step(self, step: int, stop_file: Path | None) -> None:
        """Take a sample where one is due; ask the run to stop where its time is over."""
        now = time.monotonic()
        self._began = self._began or now
        seconds = now - self._began
        self.num_steps = step
        if not self.samples or seconds - self.samples[-4] >= min(1.0, 60 * self.minutes / LEAST_SAMPLES):
            self.samples.extend((seconds, *read_process()))
            if stop_file is not None and seconds >= 60 * self.minutes and step >= self.least_steps:
                stop_file.touch()
        if "memory" in self.plant:
            self._held.append(np.ones(10_000, dtype=np.uint8))
        if "files" in self.plant and step % 10 == 0:
            self._held.append(Path(os.devnull).open())  # noqa: SIM115 - a leak is what it is
        if "threads" in self.plant and step % 10 == 0:
            self._held.append(leave_a_thread())

    def expect(self, holds: bool, promise: str, step: int) -> None:
        """Note a promise that does not hold, the first time."""
        if not holds:
            self.broken.setdefault(promise, f"step {step}")


def read_process() -> tuple[int, int, int]:
    """Bytes in memory, open files and threads of this process."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines())
    return int(status["VmRSS"].split()[0]) * 1024, len(list(Path("/proc/self/fd").iterdir())), int(status["Threads"])


def leave_a_thread() -> object:
    """A thread that waits for ever, and ends with the process."""
    thread = Thread(target=Event().wait, daemon=True)
    thread.start()
    return thread


@dataclass(frozen=True)
class Judged:
    """What one rank's samples say, of the time behind the warm-up.

    Attributes:
        rank: which.
        place: its member and replica.
        minutes: that were judged.
        megabytes: in memory at the end of the warm-up, and at the end.
        growth: of memory in megabytes in ten minutes.
        files: the fewest open in the first third, and in the last.
        threads: likewise.
        broken: each broken promise, and when.
    """

    rank: int
    place: tuple[int, int]
    minutes: float
    megabytes: tuple[float, float]
    growth: float
    files: tuple[int, int]
    threads: tuple[int, int]
    broken: dict[str, str]


def judge(rank: int, watch: Watch) -> Judged:
    """What a rank's samples come to."""
    seconds, memory, files, threads = np.array(watch.samples).reshape(-1, 4).T
    behind = seconds >= min(60 * WARM_UP_MINUTES, seconds[-1] / 2)
    seconds, memory, files, threads = seconds[behind], memory[behind] / MEGABYTE, files[behind], threads[behind]
    minutes = float(seconds[-1] - seconds[0]) / 60
    slope = median_slope(seconds / 60, memory) if len(seconds) > 1 else 0.0  # megabytes a minute
    # The fewest: a file that is open for a moment, such as a checkpoint's, is no leak.
    third = max(1, len(seconds) // 3)
    files_then, threads_then = ((int(n[:third].min()), int(n[-third:].min())) for n in (files, threads))
    broken = dict(watch.broken)
    growth, allowed = slope * minutes, max(1.0, minutes / MEASURED_MINUTES)
    if growth > allowed:
        broken["memory is flat"] = f"{growth:.1f} MB more in {minutes:.1f} minutes, {allowed:.1f} MB are allowed"
    for name, (first, last) in {"open files": files_then, "threads": threads_then}.items():
        if last > first:
            broken[f"{name} stay as many"] = f"{first}, then {last}"
    if watch.num_checks == 0:
        broken["shuffles are looked at"] = "none was"
    ends = float(memory[0]), float(memory[-1])
    return Judged(rank, watch.place, minutes, ends, slope * MEASURED_MINUTES, files_then, threads_then, broken)


def median_slope(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """The median of the slopes between all pairs of points (Theil and Sen), which a few odd ones do not move."""
    chosen = np.unique(np.linspace(0, len(x) - 1, min(len(x), 1000)).astype(np.int64))
    first, second = np.triu_indices(len(chosen), 1)
    x, y = x[chosen], y[chosen]
    return float(np.median((y[second] - y[first]) / (x[second] - x[first])))
