"""Plans made ahead of time in the background, so that the training loop waits for none of it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class Ahead(Generic[T]):
    """Computes `make(step)` one exchange ahead in a thread of its own. `make` must be pure and must not call MPI."""

    def __init__(self, make: Callable[[int], T]) -> None:
        self._make = make
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ahead")
        self._pending: tuple[int, Future[T]] | None = None

    def take(self, step: int, next_step: int) -> T:
        """`make(step)`, waiting only if it is not ready; then starts on `next_step`.

        An error raised in the background is raised here.
        """
        if self._pending is None or self._pending[0] != step:
            self._start(step)
        assert self._pending is not None
        result = self._pending[1].result()
        self._start(next_step)
        return result

    def close(self) -> None:
        """Forget what is pending and end the thread."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _start(self, step: int) -> None:
        self._pending = (step, self._thread.submit(self._make, step))
