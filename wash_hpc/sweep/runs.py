"""The runs of a sweep on this machine: what is there of each, training those that are not finished, and the report.

Each run is `wash-hpc train`, or that of a script, under mpirun, one after the other. What continues, stops and locks a
run is the run's own.
"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from wash_hpc.commands import OURS
from wash_hpc.config import Config, load_run_config
from wash_hpc.durations import format_seconds
from wash_hpc.errors import MissingDependencyError, RunFolderError, WashError
from wash_hpc.report.page import write_page
from wash_hpc.report.runs import read_runs, with_metrics
from wash_hpc.report.summarize import main as summarize
from wash_hpc.storage.kept import last_manifest
from wash_hpc.storage.run_folder import changes_of_result
from wash_hpc.storage.run_lock import LOCK
from wash_hpc.sweep.grid import SEED, Run, Sweep
from wash_hpc.sweep.launch import launcher_words, run_ranks

Say = Callable[[str], object]
MISSING, STOPPED, FINISHED, OTHER = "missing", "stopped", "finished", "other configuration"
_NOTHING_SHOWN = 2  # status of `summarize`: no table, and no file of it


@dataclass(frozen=True)
class State:
    """What is there of a run.

    Attributes:
        kind: MISSING, STOPPED (or going on, or killed), FINISHED or OTHER.
        why: of OTHER: keys that differ, or what else is wrong; of STOPPED: up to where it came.
        has_finished: with whatever configuration.
        is_locked: it goes on, or has been killed.
    """

    kind: str
    why: str = ""
    has_finished: bool = False
    is_locked: bool = False

    def __str__(self) -> str:
        if self.kind == STOPPED:
            return f"{'going on or killed,' if self.is_locked else STOPPED} {self.why}"
        return f"{self.kind}: {self.why}" if self.why else self.kind


def look(folder: Path, config: Config) -> State:
    """What is there of a run that is to have this configuration. Touches nothing.

    Raises:
        RunFolderError: the folder is no run's.
    """
    if not (folder / "config.yaml").is_file():
        if folder.exists() and (not folder.is_dir() or any(path.name != LOCK for path in folder.iterdir())):
            raise RunFolderError(f"{folder}: exists and is no run (nothing was touched); choose another run.name")
        return State(MISSING)
    has_finished = (folder / "summary.json").is_file()
    try:
        before = load_run_config(folder)
        # Where it lies, as another folder's name for it, makes no other run of it.
        config = replace(config, run=replace(config.run, dir=before.run.dir))
        changes = ", ".join(changes_of_result(before, config))
        manifest = None if has_finished or changes else last_manifest(folder)
    except WashError as error:  # of another version, or damaged
        return State(OTHER, str(error), has_finished)
    if changes:
        return State(OTHER, changes, has_finished)
    if has_finished:
        return State(FINISHED, "", has_finished)
    where = "without a checkpoint" if manifest is None else f"at step {manifest.step}"
    return State(STOPPED, where, is_locked=(folder / LOCK).exists())


def look_at(sweep: Sweep, run: Run) -> State:
    """`look`, for a run of a sweep."""
    return look(sweep.folder / run.name, sweep.load(run))


def require_same(folder: Path, state: State) -> None:
    """Refuse a run that is there with another configuration: it is not ours to remove or to go on with.

    Raises:
        RunFolderError: what differs, and what to do.
    """
    if state.kind == OTHER:
        how = "has finished" if state.has_finished else "was begun"
        raise RunFolderError(
            f"{folder} {how} with another configuration (nothing was touched): {state.why}. Give these runs another "
            f"name, as in run.name={folder.parent.name}-2, or remove {folder}"
        )


def train_in_turn(
    sweep: Sweep, runs: Sequence[Run], launcher: str, say: Say, program: Sequence[str] = (OURS,)
) -> list[str]:
    """Train what has not finished, one run after the other; a run that fails does not keep the next from starting.

    Args:
        sweep: the sweep.
        runs: some of its runs.
        launcher: of ranks, with `{ranks}` in it.
        say: is given what a user is told, line by line.
        program: the words that start what has `train`.

    Returns:
        The names of the runs that are not finished by then.

    Raises:
        WashError: before anything starts: a run is there with another configuration, or there is no launcher.
        KeyboardInterrupt: after the ranks of the run that went on have ended.
    """
    states = [look_at(sweep, run) for run in runs]
    for run, state in zip(runs, states, strict=True):
        launcher_words(launcher, run.ranks, program)
        require_same(sweep.folder / run.name, state)
    failed, pace = [], _Pace(sum(state.kind != FINISHED for state in states))
    for number, run in enumerate(runs, 1):
        say(f"\n[{number}/{len(runs)}] {run.name}{pace.left()}")
        begun = time.monotonic()
        try:
            was_there, status = _train(sweep, run, launcher, say, program)
        except WashError as error:  # somebody else has trained it meanwhile
            sys.stderr.write(f"wash_hpc: {error}\n")
            was_there, status = True, 2
        if status:
            failed.append(run.name)
            say(f"      {run.name} has ended with status {status}")
        pace.note(None if was_there else time.monotonic() - begun)
    return failed


class _Pace:
    """How long the rest will take, from the runs that were trained so far.

    Args:
        num_runs: that are not finished at first.
    """

    def __init__(self, num_runs: int) -> None:
        self._num_runs = num_runs
        self._seconds: list[float] = []

    def note(self, seconds: float | None) -> None:
        """A run took so long; None: it was there before."""
        if seconds is not None:
            self._seconds.append(seconds)

    def left(self) -> str:
        """To be put behind the name of the next run; empty where nothing is known yet, or nothing is left."""
        left = self._num_runs - len(self._seconds)
        if not self._seconds or left < 1:
            return ""
        seconds = sum(self._seconds) / len(self._seconds) * left
        return f"   (about {format_seconds(seconds)} left, as the runs before took)"


def _train(sweep: Sweep, run: Run, launcher: str, say: Say, program: Sequence[str]) -> tuple[bool, int]:
    """Train one run, unless it is there: whether it was, and the exit status; 0: it has finished."""
    folder = sweep.folder / run.name
    state = look_at(sweep, run)
    require_same(folder, state)
    if state.kind == FINISHED:
        say(f"      {folder} has finished before with this configuration")
        return True, 0
    if state.kind == STOPPED:
        say(f"      {folder} has not finished: it is there {state.why}, and goes on")
    command = [*launcher_words(launcher, run.ranks, program), *program, *train_words(sweep, run)]
    say(f"      {shlex.join(command)}")
    status = run_ranks(command, run.ranks)
    return False, status if status or (folder / "summary.json").is_file() else 1


def train_words(sweep: Sweep, run: Run) -> list[str]:
    """`train` and its arguments, for a run that somebody may be looking at."""
    words = sweep.arguments(run)
    bar = "bar" if sys.stderr.isatty() else "lines"  # ranks under a launcher cannot see that somebody is looking
    progress = [] if any(word.startswith("log.progress=") for word in words) else [f"log.progress={bar}"]
    return ["train", str(sweep.config), *words, *progress, "checkpoint.resume=auto"]


def report(sweep: Sweep, runs: Sequence[Run], say: Say) -> bool:
    """Put the runs that have finished into a table, `FOLDER.csv` and `FOLDER.html`, and into one by what varies.

    Returns:
        Whether all of them are in it; those that are not are named.
    """
    states = {run.name: look_at(sweep, run) for run in runs}
    folders = [sweep.folder / name for name, state in states.items() if state.kind == FINISHED]
    status, files = _report_files(sweep, folders, say) if folders else (0, [])
    if folders:
        say(f"\n{len(folders)} of {len(runs)} runs have finished{''.join(files)}")
    for name, state in states.items():
        if state.kind != FINISHED:
            sys.stderr.write(f"wash_hpc: not in the table: {name}: {state}\n")
    return status == 0 and len(folders) == len(runs)


def _report_files(sweep: Sweep, folders: Sequence[Path], say: Say) -> tuple[int, list[str]]:
    """Print the tables, write what can be written; the exit status, and what was written, to be put behind a sentence.

    A page that lacks nothing but an optional library is said to be missing, and no failure.
    """
    table, page = (sweep.folder.with_name(sweep.folder.name + ending) for ending in (".csv", ".html"))
    say("")
    status = summarize([*map(str, folders), "--csv", str(table)])
    files = [f"; table: {table}"] if status < _NOTHING_SHOWN else []
    groups = [key for key in sweep.varying if key != SEED]
    if groups and SEED in sweep.varying:
        say("")
        status = max(status, summarize([*map(str, folders), "--group", ",".join(groups), "--no-alarms"]))
    try:
        runs, unreadable = with_metrics(read_runs(folders)[0])
        if runs:
            write_page(page, runs)
            files.append(f"; curves: {page}")
        if unreadable and status == 0:  # of so many runs that the table did not look into their metrics
            sys.stderr.write("".join(f"wash_hpc: {problem}\n" for problem in unreadable))
            status = 1
    except WashError as error:
        sys.stderr.write(f"wash_hpc: there is no page of curves: {error}\n")
        status = status if isinstance(error, MissingDependencyError) else max(status, 1)
    return status, files
