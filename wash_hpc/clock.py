"""Where the time goes: seconds by name, of the host or of a GPU, added up until they are read."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

Mark = float | torch.cuda.Event
"""A moment: seconds of the host's monotonic clock, or an event on the GPU's stream."""

_MOST_SPANS = 4096  # kept before the older half is added up: a GPU's are read long after they ended, without waiting


class Stopwatch:
    """Adds up the seconds spent in named blocks.

    On a GPU a block is timed by events on the current stream: from when the GPU was done with what was given to it
    before the block until it is done with what the block gave it. So the seconds say what held up the GPU, although the
    host runs ahead of it: a batch that is late counts, one that is fetched while the GPU computes does not. Nothing
    waits for the GPU until the seconds are read.

    A block within another interrupts it: its seconds are not the outer one's.

    Args:
        device: where the work is done.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._seconds: dict[str, float] = {}
        self._spans: list[tuple[str, Mark, Mark]] = []
        self._open: list[tuple[str, Mark]] = []

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Count the block under `name`."""
        begin = self._mark()
        self._count_outer_until(begin)
        self._open.append((name, begin))
        try:
            yield
        finally:
            end = self._mark()
            self._count_outer_until(end)
            self._open.pop()
            self._open[-1:] = [(outer, end) for outer, _ in self._open[-1:]]
            if len(self._spans) >= _MOST_SPANS:
                self._add_up(_MOST_SPANS // 2)

    @property
    def part(self) -> str:
        """The block that is open, the innermost one; empty between blocks. Any thread may ask."""
        return "".join(name for name, _ in self._open[-1:])

    def read(self) -> dict[str, float]:
        """Seconds by name since the last reading; starts anew from zero. Waits for the GPU."""
        self._add_up(len(self._spans))
        seconds, self._seconds = self._seconds, {}
        return seconds

    def _mark(self) -> Mark:
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _count_outer_until(self, mark: Mark) -> None:
        """Count what the innermost open block has lasted since it was opened or gone on with."""
        if self._open:
            name, since = self._open[-1]
            self._spans.append((name, since, mark))

    def _add_up(self, num_spans: int) -> None:
        for name, begin, end in self._spans[:num_spans]:
            self._seconds[name] = self._seconds.get(name, 0.0) + _seconds_between(begin, end)
        del self._spans[:num_spans]


def _seconds_between(begin: Mark, end: Mark) -> float:
    if isinstance(begin, float) and isinstance(end, float):
        return end - begin
    assert isinstance(begin, torch.cuda.Event) and isinstance(end, torch.cuda.Event)
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1000
