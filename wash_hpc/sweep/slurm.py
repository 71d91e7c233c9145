"""A sweep as Slurm job arrays: which tasks to submit, by which sbatch, and which run a task is. Slurm does the rest.

`slurm/sweep.sh` is the job: it asks `wash-hpc sweep FILE --task N` for its run, trains it as every other script of
slurm/ does, and, without a number, reports.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from wash_hpc.commands import OURS, program
from wash_hpc.errors import ConfigError, WashError, WorldError
from wash_hpc.slurm import current_job
from wash_hpc.sweep.grid import Run, Sweep
from wash_hpc.sweep.runs import FINISHED, Say, look_at, require_same

SCRIPT = Path("slurm/sweep.sh")
# What tools/mpi_env.sh sets for one machine; with it all ranks of a job would be on its first node.
_FOR_ONE_MACHINE = "PRTE_MCA_rmaps_default_mapping_policy"

# The script's own, five minutes before the end, is for ranks that write a checkpoint; it would end a report.
_NO_SIGNAL = "--signal=B:CONT@1"


@dataclass(frozen=True)
class Submission:
    """How a sweep is submitted.

    Attributes:
        words: FILE and `key=value` arguments, as the command was given them.
        only: patterns of names, as the command was given them, for the report.
        options: of sbatch, for the runs and the report.
        report_options: of sbatch for the report, besides.
        at_once: tasks of an array that may run at once; None: as many as Slurm gives.
    """

    words: Sequence[str]
    only: str | None
    options: str
    report_options: str
    at_once: int | None


def task_arguments(sweep: Sweep, task: int) -> list[str]:
    """What `wash-hpc train` is given for a task of a job array, configuration first.

    Raises:
        ConfigError: there is no such run, or its configuration cannot be used.
        WorldError: within a job that has other than this run's ranks.
        RunFolderError: the run is there with another configuration.
    """
    if not 0 <= task < len(sweep.runs):
        raise ConfigError(f"--task {task}: there are {len(sweep.runs)} runs, 0 to {len(sweep.runs) - 1}")
    run, job = sweep.runs[task], current_job()
    if job is not None and job.num_tasks not in {None, run.ranks}:
        raise WorldError(
            f"{run.name}: ranks: {run.ranks}, and this job has {job.num_tasks} tasks; sbatch --nodes and "
            "--ntasks-per-node say how many"
        )
    require_same(sweep.folder / run.name, look_at(sweep, run))
    return [str(sweep.config), *sweep.arguments(run)]


def submit(sweep: Sweep, runs: Sequence[tuple[int, Run]], how: Submission, say: Say) -> None:
    """Submit what has not finished as one job array for each number of ranks, and a job behind them that reports.

    Args:
        sweep: the sweep.
        runs: some of its runs, with their numbers.
        how: options and arguments.
        say: is given what a user is told, line by line.

    Raises:
        WashError: an option is wrong, there is no Slurm here, this sweep is in its queue already, or a run is there
            with another configuration; then nothing has been submitted. Or Slurm refuses a job; then those before it
            have been cancelled, or are named.
    """
    options, of_report = _split("--sbatch", how.options), _split("--sbatch-report", how.report_options)
    if how.at_once is not None and how.at_once < 1:
        raise ConfigError(f"--at-once {how.at_once}: expected at least 1")
    _require_slurm()
    todo = []
    for number, run in runs:
        state = look_at(sweep, run)
        require_same(sweep.folder / run.name, state)
        if state.kind != FINISHED:
            todo.append((number, run))
    name = f"sweep-{sweep.folder.name}"
    _require_not_queued(name)
    say(f"{len(runs) - len(todo)} of {len(runs)} runs have finished before")
    jobs: list[str] = []
    try:
        for ranks in sorted({run.ranks for _, run in todo}):
            tasks = [number for number, run in todo if run.ranks == ranks]
            shape = ["--nodes=1", f"--ntasks-per-node={ranks}", f"--gpus-per-node={ranks}"]
            array = f"--array={in_ranges(tasks)}" + (f"%{how.at_once}" if how.at_once else "")
            jobs.append(_sbatch([*shape, *options, f"--job-name={name}", array], how.words))
            say(f"job {jobs[-1]}: {len(tasks)} tasks ({in_ranges(tasks)}) of {ranks} ranks each")
        behind = [f"--dependency=afterany:{':'.join(jobs)}"] if jobs else []
        small = ["--nodes=1", "--ntasks-per-node=1", "--gpus-per-node=0", "--time=00:10:00", _NO_SIGNAL]
        only = ["--only", how.only] if how.only else []
        ours = ["--output=slurm-%x-%j.out", *options, *small, *of_report, f"--job-name={name}-report", *behind]
        reports = _sbatch(ours, [*how.words, *only])
    except WashError as error:
        raise WashError(f"{error}; {_take_back(jobs)}") from error
    say(f"job {reports}: the report, when they have ended: a table in its log, {sweep.folder}.csv and .html")


def _require_slurm() -> None:
    """Refuse where nothing can be submitted, or where jobs would lack what a script has registered."""
    if not SCRIPT.is_file():
        raise ConfigError(f"there is no {SCRIPT}: submit from the folder that holds slurm/ and configs/")
    if shutil.which("sbatch") is None:
        raise ConfigError("sbatch is not on PATH: --slurm is for a cluster's login node")
    if (ours := program()) != [OURS]:
        raise ConfigError(
            f"--slurm submits jobs of {OURS}, which know nothing that {ours[-1]} has registered; submit a script of "
            f"your own, which gives it what `{OURS} sweep FILE --task N` prints"
        )


def in_ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers as Slurm writes them, as in 0-3,7."""
    begins = [numbers[0], *(after for before, after in pairwise(numbers) if after != before + 1)]
    ends = [*(before for before, after in pairwise(numbers) if after != before + 1), numbers[-1]]
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in zip(begins, ends, strict=True))


def _require_not_queued(name: str) -> None:
    """Refuse a second array for the same runs: its tasks would find them going on."""
    done = _ask(["squeue", "--noheader", "--me", f"--name={name}", "--format=%F"])
    jobs = sorted(set(done.stdout.split())) if done.returncode == 0 else []
    if jobs:
        raise ConfigError(f"job {jobs[0]} of this sweep is in the queue: wait for its end, or scancel {' '.join(jobs)}")


def _sbatch(options: Sequence[str], words: Sequence[str]) -> str:
    """Submit slurm/sweep.sh; returns the job's id."""
    environment = {key: value for key, value in os.environ.items() if key != _FOR_ONE_MACHINE}
    if (Path(sys.prefix) / "bin/wash-hpc").is_file():
        environment.setdefault("VENV", sys.prefix)
    command = ["sbatch", "--parsable", *options, str(SCRIPT), *words]
    done = _ask(command, environment)
    if done.returncode:
        raise WashError(f"{shlex.join(command)}: {' '.join(done.stderr.split())}")
    return done.stdout.strip().partition(";")[0]


def _take_back(jobs: Sequence[str]) -> str:
    """Cancel what has been submitted; says what became of it."""
    if not jobs:
        return "nothing has been submitted"
    try:
        is_done = _ask(["scancel", *jobs]).returncode == 0
    except WashError:
        is_done = False
    if is_done:
        return f"what was submitted before it has been cancelled: job {', '.join(jobs)}"
    return f"submitted before it, and not to be cancelled just now: scancel {' '.join(jobs)}"


def _ask(
    command: Sequence[str], environment: Mapping[str, str] | None = None, seconds: float = 120
) -> subprocess.CompletedProcess[str]:
    """Run one of Slurm's programs.

    Raises:
        WashError: it cannot be run, or does not end in time.
    """
    try:
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired as error:
        raise WashError(
            f"{shlex.join(command)}: no answer within {seconds:g} s; whether it was done after all, squeue --me says"
        ) from error
    except OSError as error:
        raise WashError(f"{shlex.join(command)}: {error.strerror}") from error


def _split(option: str, words: str) -> list[str]:
    try:
        return shlex.split(words)
    except ValueError as error:
        raise ConfigError(f"{option} {words}: cannot be read: {error}") from error
