"""Where the time goes: seconds by name, added up until they are read."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Adds up the seconds spent in named blocks, by the monotonic clock."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._last_read = time.perf_counter()

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Count the block under `name`."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - begin

    def read(self) -> dict[str, float]:
        """Seconds by name since the last reading, and under `total` all that went by; starts anew from zero."""
        now = time.perf_counter()
        seconds = {**self._seconds, "total": now - self._last_read}
        self._seconds, self._last_read = {}, now
        return seconds
