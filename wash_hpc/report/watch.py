"""How a run is doing, from its folder alone: not begun, going, finished, stopped or killed, and its last records.

Owns no words of the live view. Changes nothing, asks no process, and compares no clock with another host's.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from wash_hpc.commands import train_command
from wash_hpc.config_text import plain_sections
from wash_hpc.errors import ConfigError, MissingDependencyError, RunFolderError, WashError
from wash_hpc.report.alarms import Alarm, alarms
from wash_hpc.storage.metrics import Metrics, metrics_files, read_metrics
from wash_hpc.storage.run_lock import LOCK, LockWatch
from wash_hpc.storage.summary import Summary, read_summary

State = Literal["waiting", "going", "finished", "stopped", "killed"]
NUM_RECORDS = 1000  # of each table that a look reads: enough for curves in a terminal
_QUIET_SECONDS = 15.0  # without a LOCK and without a record, after which a run has stopped; its log may be slow


@dataclass(frozen=True)
class Look:
    """What was seen of a run at one moment.

    Attributes:
        folder: the run's.
        state: `waiting` to begin; `stopped` and `killed` are before its end.
        metrics: its last records; None before the first file, and while it cannot be read.
        problem: why the records cannot be read; empty where they can.
        quiet_seconds: since the records were last seen to change.
        config: the configuration, as the records have it; empty where they do not.
        alarms: what is wrong.
    """

    folder: Path
    state: State
    metrics: Metrics | None
    problem: str
    quiet_seconds: float
    config: Mapping[str, Any] = field(default_factory=dict)
    alarms: Sequence[Alarm] = ()

    @property
    def is_text(self) -> bool:
        """Whether it is judged by perplexity."""
        data = self.config.get("data")
        return isinstance(data, Mapping) and data.get("name") == "text"

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will come."""
        return self.state in {"finished", "stopped", "killed"}

    @property
    def step(self) -> int:
        """The last one that was written down."""
        return int(self.metrics.step[-1]) if self.metrics is not None and len(self.metrics.step) else 0

    @property
    def num_steps(self) -> int | None:
        """Of the whole run; None where its metrics do not say."""
        found = None if self.metrics is None else self.metrics.attributes.get("num_steps")
        return int(found) if isinstance(found, int | float) and found > 0 else None

    @property
    def progress(self) -> str:
        """`step 120 of 500`."""
        return f"step {self.step}" + (f" of {self.num_steps}" if self.num_steps else "")


class RunWatch:
    """Looks at a run's folder again and again; files are read only when they have changed.

    Args:
        folder: the run's, which need not exist yet.
        num_records: of each table that are read.
        quiet_seconds: after which a run without a LOCK has stopped.
    """

    def __init__(self, folder: Path, num_records: int = NUM_RECORDS, quiet_seconds: float = _QUIET_SECONDS) -> None:
        self.folder = folder
        self._num_records = num_records
        self._quiet_seconds = quiet_seconds
        self._lock = LockWatch(folder)
        self._was_held = False
        self._seen: tuple[tuple[str, int, int], ...] | None = None
        self._metrics: Metrics | None = None
        self._problem = ""
        self._config: Mapping[str, Any] = {}
        self._alarms: Sequence[Alarm] = ()
        self._summary: Summary | None = None
        self._changed_at = time.monotonic()

    def look(self) -> Look:
        """How the run is doing now.

        Raises:
            RunFolderError: the folder is no run's.
            MissingDependencyError: h5py is not installed.
        """
        try:
            state = self._state()
            self._read(state)
        except OSError as error:
            raise RunFolderError(f"{self.folder}: cannot be read: {error.strerror or error}") from error
        quiet = time.monotonic() - self._changed_at
        return Look(self.folder, state, self._metrics, self._problem, quiet, self._config, self._alarms)

    def _state(self) -> State:
        folder = self.folder
        if folder.exists() and not folder.is_dir():
            raise RunFolderError(f"{folder}: not a run's folder: it is a file")
        lock = self._lock.look()
        self._was_held |= lock != "none"
        if (folder / "summary.json").is_file():  # looked at after LOCK, which is there until the summary is
            return "finished"
        if lock in {"alive", "unknown"}:
            return "going"
        if lock == "dead":
            return "killed"
        if not (folder / "config.yaml").is_file():
            if folder.exists() and any(folder.iterdir()):
                raise RunFolderError(f"{folder}: not a run's folder: it holds no config.yaml")
            return "waiting"
        if self._was_held or time.monotonic() - self._changed_at > self._quiet_seconds:
            return "stopped"
        return "going"

    def _read(self, state: State) -> None:
        """The last records and what is wrong by them, where the files are others than at the last look."""
        files = metrics_files(self.folder)
        seen = tuple(_stamp(file) for file in files)
        is_new, has_ended = seen != self._seen and bool(files), state == "finished" and self._summary is None
        try:
            if has_ended:
                self._summary = read_summary(self.folder)
            if is_new:
                self._seen, self._changed_at = seen, time.monotonic()
                self._metrics, self._problem = read_metrics(self.folder, self._num_records), ""
                self._config = _config_of(self._metrics)
        except MissingDependencyError:
            raise
        except WashError as error:
            self._problem = str(error)
        if self._metrics is not None and (is_new or has_ended):
            self._alarms = alarms(self._metrics, self._summary, self._config)


def describe_unfinished(folder: Path) -> str:
    """A sentence on a run that has not finished, which says how far it is, and how to go on where it has ended.

    Returns:
        Empty where the folder holds a summary, or is no run's.

    Raises:
        RunFolderError: LOCK cannot be read.
    """
    is_run = (folder / "config.yaml").is_file() or (folder / LOCK).is_file()
    if not is_run or (folder / "summary.json").is_file():
        return ""
    lock = LockWatch(folder)
    state = lock.look()
    try:
        look = RunWatch(folder, num_records=1).look()
        progress = look.progress + (f" ({look.problem})" if look.problem else "")
    except MissingDependencyError:
        look, progress = Look(folder, "going", None, "", 0.0), "its metrics cannot be read without h5py"
    if state == "alive":
        return f"{folder}: the run is going: {progress}; --follow shows it"
    if state == "unknown":
        return f"{folder}: the run has not finished: {progress}; it is going, or was killed: --follow finds out"
    ended = "was killed" if state == "dead" else "has stopped"
    return f"{folder}: the run has not finished: it {ended} after {progress}; {how_to_go_on(folder, look.metrics)}"


def how_to_go_on(folder: Path, metrics: Metrics | None) -> str:
    """What to do with a run that has ended before its end; its metrics say by how many ranks of which program."""
    has_checkpoint = any((folder / "checkpoints").glob("step-*"))
    goes_on = "continue it" if has_checkpoint else "it has left no checkpoint: start it anew"
    about = metrics.attributes if metrics is not None else {}
    given = about.get("num_ranks"), about.get("program")
    return f"{goes_on} with {train_command(folder / 'config.yaml', *given, 'checkpoint.resume=auto')}"


def _config_of(metrics: Metrics) -> Mapping[str, Any]:
    """The configuration in a run's metrics, whose files hold it as text."""
    try:
        return plain_sections(str(metrics.attributes.get("config", "")), "config")
    except ConfigError:
        return {}


def _stamp(file: Path) -> tuple[str, int, int]:
    """Equal while nobody writes; the file is opened, because network file systems ask the server anew only then."""
    try:
        with file.open("rb") as opened:
            status = os.fstat(opened.fileno())
    except OSError:
        return file.name, 0, 0
    return file.name, status.st_mtime_ns, status.st_size
