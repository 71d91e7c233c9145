"""Signals that ask a run to stop, noticed at once and obeyed at the end of a step. No communication.

Slurm sends one before a time limit or a preemption, and a user by Ctrl-C or scancel. Python runs its own handlers
between two lines of the main thread, which may be waiting in a collective; so a thread reads them from a pipe that is
written to at once.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from signal import Handlers
from types import FrameType, TracebackType
from typing import NoReturn

from wash_hpc.errors import STATUS_AGAIN, WashError

AGAIN = (signal.SIGUSR1, signal.SIGUSR2)  # the time is over: the run is to be started again
Handler = Callable[[int, FrameType | None], object] | int | Handlers | None
FOR_GOOD = (signal.SIGINT, signal.SIGTERM)  # somebody wants it to end
_SECONDS_OF_ONE_REQUEST = 1.0  # scancel may reach a rank twice, by its launcher and by Slurm; a person takes longer


class Signals:
    """Catches SIGUSR1, SIGUSR2, SIGINT and SIGTERM while its block runs; sees that the process ends after it. Local.

    SIGINT stays ignored where it was when the process started, as in the background of a shell. The others are caught
    even then: a job script that ignores SIGTERM, to outlive it itself, hands that on to its ranks and does not mean
    them. Outside of the main thread, where Python allows no handlers, nothing is caught.

    Attributes:
        received: what came, or None. SIGINT and SIGTERM count more than the other two.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._since = 0.0
        self._for_good_since = 0.0
        self._grace_seconds = 0.0
        self._who = "this rank"
        self._before: dict[signal.Signals, Handler] = {}
        self._status = 0
        self._stays = False
        self._left_at: float | None = None
        self._is_watching = False

    def end_by_force_after(self, seconds: float, who: str) -> None:
        """Say how long the process may go on after a signal, or on its way out.

        A collective whose partner is gone waits for ever, and so does the end of MPI.

        Args:
            seconds: from the signal on, or from `leave` on; 0: as long as it takes.
            who: this rank, as the message names it.
        """
        self._grace_seconds, self._who = seconds, who
        if self._is_watching:
            self._wake()

    def stay_until_exit(self) -> None:
        """Have the thread outlive the block, for `leave`."""
        self._stays = self._is_watching

    def leave(self) -> None:
        """The process is on its way out: what is left of it has the grace, too. Nothing without `stay_until_exit`."""
        if self._stays:
            self._left_at = time.monotonic()
            self._wake()

    def __enter__(self) -> Signals:
        if threading.current_thread() is not threading.main_thread():
            return self
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        caught = set(AGAIN + FOR_GOOD)
        if signal.getsignal(signal.SIGINT) == Handlers.SIG_IGN:
            caught.remove(signal.SIGINT)
        self._before = {number: signal.signal(number, lambda *_: None) for number in caught}
        self._is_watching = True
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._watch, name="signals", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._is_watching:
            return
        self._is_watching = False
        signal.set_wakeup_fd(-1)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
        self._status = error.status if isinstance(error, WashError) else int(error is not None)
        if self._stays:
            self._wake()
        else:
            self._writer.close()  # ends the thread

    def _wake(self) -> None:
        """Have the thread look again, which may be waiting without a limit."""
        self._writer.send(b"\0")

    def _watch(self) -> None:
        with self._reader:
            while True:
                deadline = self._deadline()
                self._reader.settimeout(None if deadline is None else max(0.001, deadline - time.monotonic()))
                try:
                    numbers = self._reader.recv(64)
                except TimeoutError:
                    if self._deadline() == deadline:
                        self._end_by_force()
                    continue
                if not numbers:
                    return
                for number in numbers:
                    if number:
                        self._note(signal.Signals(number))

    def _deadline(self) -> float | None:
        """When the process is to be ended by force; after the block only on its way out."""
        if self._left_at is not None:
            since: float | None = self._left_at
        else:
            since = self._since if self.received is not None and self._is_watching else None
        return None if since is None or not self._grace_seconds else since + self._grace_seconds

    def _note(self, number: signal.Signals) -> None:
        now = time.monotonic()
        if number in FOR_GOOD and self.received in FOR_GOOD:
            if now - self._for_good_since > _SECONDS_OF_ONE_REQUEST:
                end_now(f"{self._who}: a second {number.name}: ends at once", 128 + number)
            return
        if self.received is None:
            self._since = now
        if number in FOR_GOOD:
            self._for_good_since = now
        if self.received is None or number in FOR_GOOD:
            self.received = number

    def _end_by_force(self) -> None:
        if self._left_at is not None:
            status = self._status
            what = f"the run has ended, and this process has not within {self._grace_seconds:g} s"
        else:
            assert self.received is not None
            status = STATUS_AGAIN if self.received in AGAIN else 128 + self.received
            what = f"{self.received.name} came {self._grace_seconds:g} s ago and the run has not stopped since"
        end_now(f"{self._who}: {what}: ends by force (checkpoint.grace_seconds)", status)


def end_now(sentence: str, status: int) -> NoReturn:
    """End this process now, whatever its other threads wait for; the launcher then ends the other ranks."""
    sys.stderr.write(f"wash_hpc: {sentence}\n")
    sys.stderr.flush()
    os._exit(status)
