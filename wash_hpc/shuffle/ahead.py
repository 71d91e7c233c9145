"""Plans made ahead of time in the background, so that the training loop waits for none of it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Thread, get_native_id
from typing import Generic, TypeVar

T = TypeVar("T")

# Where cores are scarce, ranks that are still exchanging come before a thread that draws ahead: it is nice, and begins
# a moment later, a small share of the time from one request to the next.
_NICENESS = 10
_PAUSE_SECONDS = 0.005
_PAUSE_SHARE = 0.1


@dataclass(frozen=True)
class _Failure:
    error: Exception


class Ahead(Generic[T]):
    """Computes `make(step)` in a thread of its own, one step at a time. `make` must not call MPI.

    Queues in place of futures: putting and taking cost a microsecond, which counts beside a small exchange. For the
    same reason what was taken is freed in the thread, too, when it starts on the next: giving back some megabytes takes
    longer than a small exchange, and lets go of the interpreter's lock besides.
    """

    def __init__(self, make: Callable[[int], T]) -> None:
        self._make = make
        self._asked: SimpleQueue[tuple[int, bool] | None] = SimpleQueue()
        self._made: SimpleQueue[T | _Failure] = SimpleQueue()
        self._pending: int | None = None
        self._taken: T | None = None
        self._thread: Thread | None = None

    def start(self, step: int) -> None:
        """Begin to make what `take(step)` will ask for."""
        self._ask(step, urgent=False)

    def _ask(self, step: int, urgent: bool) -> None:
        self.forget()
        if self._thread is None:
            self._thread = Thread(target=self._work, name="ahead", daemon=True)
            self._thread.start()
        self._asked.put((step, urgent))
        self._pending = step

    def take(self, step: int) -> T:
        """`make(step)`, waiting only if it is not ready. An error raised in the background is raised here."""
        if self._pending != step:
            self._ask(step, urgent=True)
        self._pending = None
        made = self._made.get()
        if isinstance(made, _Failure):
            raise made.error
        self._taken = made
        return made

    def forget(self) -> None:
        """Drop what was begun: it is no longer true, or no longer needed."""
        if self._pending is not None:
            self._pending = None
            self._made.get()

    def close(self) -> None:
        """End the thread."""
        self.forget()
        if self._thread is not None:
            self._asked.put(None)
            self._thread.join()
            self._thread = None

    def _work(self) -> None:
        if sys.platform == "linux":  # where a thread has a priority of its own
            with suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, get_native_id(), _NICENESS)
        asked_before = time.monotonic()
        while (request := self._asked.get()) is not None:
            step, urgent = request
            asked = time.monotonic()
            if not urgent:
                time.sleep(min(_PAUSE_SECONDS, _PAUSE_SHARE * (asked - asked_before)))
            asked_before = asked
            self._taken = None
            try:
                self._made.put(self._make(step))
            except Exception as error:  # noqa: BLE001 - raised again where the result is taken
                self._made.put(_Failure(error))
