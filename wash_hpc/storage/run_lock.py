"""Who is using a run's folder: one run at a time, by a file LOCK that the run's root keeps fresh. No communication.

Locks of the file system (flock, fcntl) are absent on some clusters, hold for one host alone on others, and outlive a
lost node on a third kind; so none is taken. A run writes down who it is, and touches the file every few seconds. Who
finds such a file looks whether that process is alive, where it can be seen from here, and else whether the file is
still being touched: that its time *changes* counts, not which time it is, so no two clocks have to agree.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Literal

from wash_hpc.errors import RunFolderError
from wash_hpc.signals import end_now
from wash_hpc.slurm import current_job
from wash_hpc.storage.files import write_atomically

LOCK = "LOCK"
_BEAT_SECONDS = 5.0
_DEAD_SECONDS = 90.0  # without a beat; a file system may stall, or a client remember, for a minute
_MOST_BYTES = 4096
_TYPES = {"int": int, "str": str}


@dataclass(frozen=True)
class Holder:
    """Who holds a folder, as LOCK says it.

    Attributes:
        token: another one for every start.
        host: its name.
        process: the root's number.
        started: when that process was started, in ticks of its host; numbers are used again.
        kernel: within which process numbers mean the same: a boot of a host, and a namespace.
        job: Slurm's name of the job; empty outside of one.
        since: the time of day, for people.
    """

    token: str
    host: str
    process: int
    started: int
    kernel: str
    job: str
    since: str

    @classmethod
    def myself(cls) -> Holder:
        """This process, with a new token."""
        job = current_job()
        return cls(
            token=uuid.uuid4().hex,
            host=socket.gethostname(),
            process=os.getpid(),
            started=_start_of(os.getpid()),
            kernel=_this_kernel(),
            job="" if job is None else job.name,
            since=datetime.now().astimezone().isoformat(" ", "seconds"),
        )

    def __str__(self) -> str:
        job = f", Slurm job {self.job}" if self.job else ""
        return f"on {self.host}, process {self.process}{job}, since {self.since}"


@dataclass(frozen=True)
class _Seen:
    """LOCK at one moment: two that are not equal show that somebody lives."""

    content: bytes
    touched: int
    inode: int

    @property
    def holder(self) -> Holder | None:
        """Who it names; None where that cannot be read, as while it is being written."""
        try:
            holder = Holder(**json.loads(self.content))
        except (ValueError, TypeError, RecursionError):
            return None
        is_holder = all(isinstance(getattr(holder, key.name), _TYPES[str(key.type)]) for key in fields(holder))
        return holder if is_holder and 0 < holder.process < 2**31 else None


class RunLock:
    """A run's claim to its folder. Used by the root rank.

    Args:
        folder: the run's.
        beat_seconds: between two touches.
        dead_seconds: after which a holder that has not touched its LOCK is dead, unless its process can be looked at.
    """

    def __init__(self, folder: Path, beat_seconds: float = _BEAT_SECONDS, dead_seconds: float = _DEAD_SECONDS) -> None:
        self._path = folder / LOCK
        self._beat_seconds = beat_seconds
        self._dead_seconds = dead_seconds
        self._own: Holder | None = None
        self._dead: _Seen | None = None  # was watched in vain: one wait for it is enough
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="run lock", daemon=True)

    def take(self) -> str:
        """Claim the folder, which exists. Waits `dead_seconds` where a holder on another host gives no sign of life.

        Returns:
            What the user is to be told: who held it and is dead; empty: nobody did.

        Raises:
            RunFolderError: another run holds it, or LOCK cannot be written.
        """
        before = self.require_free()
        own = Holder.myself()
        content = json.dumps(asdict(own), indent=2) + "\n"
        if before is None:
            self._create(content)
        else:
            write_atomically(self._path, content)
            time.sleep(min(1.0, self._beat_seconds))  # who else found the same dead one replaces it no later than this
        seen = _look(self._path)
        if seen is None or seen.holder != own:
            raise self._held(seen)
        self._own = own
        self._thread.start()
        return "" if before is None else f"the run before in this folder has died ({_describe(before)})"

    def require_free(self) -> _Seen | None:
        """The LOCK that a dead run has left, or None where there is none.

        Raises:
            RunFolderError: a run holds it that lives.
        """
        seen = _look(self._path)
        if seen is not None and not self._is_dead(seen):
            raise self._held(seen)
        return seen

    def release(self) -> None:
        """Give the folder back, and remove it where nothing has been written into it; nothing where it is not held."""
        if self._own is None:
            return
        self._released.set()
        self._thread.join(self._beat_seconds)
        # Where the folder can no longer be written to, the next run sees that we are dead.
        with suppress(OSError, RunFolderError):
            seen = _look(self._path)
            if seen is not None and seen.holder == self._own:
                self._path.unlink()
            self._path.parent.rmdir()
        self._own = None

    def _create(self, content: str) -> None:
        is_ours = False
        try:
            with self._path.open("x") as file:
                is_ours = True
                file.write(content)
        except FileExistsError:
            raise self._held(_look(self._path)) from None
        except OSError as error:
            if is_ours:
                with suppress(OSError):
                    self._path.unlink()
            raise RunFolderError(f"{self._path}: cannot be written: {error.strerror or error}") from error

    def _is_dead(self, seen: _Seen) -> bool:
        holder = seen.holder
        if holder is not None and holder.kernel == _this_kernel() and not _is_hidden(holder.process):
            return _start_of(holder.process) != holder.started
        if seen == self._dead:
            return True
        waits = f"looks for {self._dead_seconds:g} s whether that run still lives ({_describe(seen)})"
        sys.stderr.write(f"wash_hpc: {self._path}: {waits}\n")
        deadline = time.monotonic() + self._dead_seconds
        while time.monotonic() < deadline:
            time.sleep(min(1.0, self._dead_seconds / 10))
            if _look(self._path) != seen:
                return False
        self._dead = seen
        return True

    def _beat(self) -> None:
        """Touch LOCK, and end this process where another run has taken the folder over, believing it dead."""
        while not self._released.wait(self._beat_seconds):
            with suppress(OSError, RunFolderError):
                seen = _look(self._path)
                if seen is not None and seen.holder is not None and seen.holder != self._own:
                    end_now(f"{self._path.parent}: another run has taken this folder over, {seen.holder}", 2)
                if seen is not None:
                    os.utime(self._path)

    def _held(self, seen: _Seen | None) -> RunFolderError:
        return RunFolderError(
            f"{self._path.parent}: another run is going on in it, {_describe(seen)} (nothing was touched): wait for "
            "its end, stop it, or choose another run.name"
        )


class LockWatch:
    """What a folder's LOCK says to somebody who only looks, now and again, perhaps from another host.

    Args:
        folder: a run's.
        dead_seconds: without a change, by the watcher's own clock, after which a holder elsewhere is dead.
    """

    def __init__(self, folder: Path, dead_seconds: float = _DEAD_SECONDS) -> None:
        self._path = folder / LOCK
        self._dead_seconds = dead_seconds
        self._seen: _Seen | None = None
        self._since = 0.0
        self._has_changed = False

    def look(self) -> Literal["none", "alive", "dead", "unknown"]:
        """Whether the holder lives; `unknown` until a holder on another host has touched the file or is dead.

        Raises:
            RunFolderError: LOCK cannot be read.
        """
        seen, now = _look(self._path), time.monotonic()
        if seen is None:
            self._seen = None
            return "none"
        holder = seen.holder
        if holder is not None and holder.kernel == _this_kernel() and not _is_hidden(holder.process):
            return "alive" if _start_of(holder.process) == holder.started else "dead"
        if seen != self._seen:
            self._has_changed = self._seen is not None
            self._seen, self._since = seen, now
        if now - self._since >= self._dead_seconds:
            return "dead"
        return "alive" if self._has_changed else "unknown"


def _describe(seen: _Seen | None) -> str:
    holder = None if seen is None else seen.holder
    return "started just now" if holder is None else str(holder)


def _look(path: Path) -> _Seen | None:
    """The file as it is now; opened, because network file systems ask the server anew only then.

    Raises:
        RunFolderError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            return _Seen(file.read(_MOST_BYTES), status.st_mtime_ns, status.st_ino)
    except FileNotFoundError:
        return None
    except OSError as error:
        why = error.strerror or error
        raise RunFolderError(f"{path}: cannot be read: {why}; if no run is going on here, remove it") from error


def _this_kernel() -> str:
    """Equal to nothing where the system does not say, so that LOCK is watched instead."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return uuid.uuid4().hex


def _start_of(process: int) -> int:
    """When a process was started, in ticks since its host was; 0 where there is none that still runs."""
    try:
        text = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    state, *fields = text.rpartition(")")[2].split()  # behind the name, which may hold anything but is in brackets
    return 0 if state in {"Z", "X"} else int(fields[18])


def _is_hidden(process: int) -> bool:
    """Whether it is another user's, which a host may show to nobody else."""
    try:
        os.kill(process, 0)
    except PermissionError:
        return True
    except OSError:
        pass
    return False
