"""Where the time goes: seconds by name, added up until they are read."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Adds up the seconds spent in named blocks, by the monotonic clock."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Count the block under `name`."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - begin

    def read(self) -> dict[str, float]:
        """Seconds by name since the last reading; starts anew from zero."""
        seconds, self._seconds = self._seconds, {}
        return seconds
