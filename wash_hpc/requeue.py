"""Whether a batch job whose run has ended too early goes back into the queue: `wash-hpc requeue`, last in job scripts.

Slurm queues, starts and counts. Here is only what it cannot know: whether the run went on at all in this start, so that
a mistake does not come back for ever.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from wash_hpc.config import Config, load_config
from wash_hpc.errors import STATUS_STOPPED, WashError
from wash_hpc.slurm import SlurmJob, current_job
from wash_hpc.storage.kept import last_manifest
from wash_hpc.storage.metrics import read_attributes
from wash_hpc.storage.run_folder import STOP

_WRONG_INPUT = 2
_CHAIN = "submit it again to go on, or as a chain, sbatch --array=1-10%1 ..., which goes on by itself"


def requeue(file: Path, overrides: Sequence[str], status: int) -> tuple[list[str], int]:
    """Put the Slurm job of this process back into the queue where its run is to go on, and is able to. No MPI.

    It is to go on where it was stopped because its time is over or another job needs its place, or where it was lost
    with a node or a rank; not where it has finished, met wrong input, or was stopped by a person. It is able to where
    this start has left a checkpoint beyond the one from which it began, which is not asked of a job that gives way.
    Outside of a job nothing is done.

    Args:
        file: the run's configuration.
        overrides: as the run was given.
        status: the exit status of the launcher.

    Returns:
        What the user is told, in lines, the first of which says what was done; and the exit status of the job: that of
        the launcher, or 1 where this is 0 and the run has not finished.

    Raises:
        WashError: the configuration cannot be read.
    """
    job = current_job()
    if job is None or status == _WRONG_INPUT:
        return [], status
    config = load_config(file, overrides)
    if status == 0:
        if (config.folder / "summary.json").is_file():
            return [], status
        status = 1  # mpirun ends with 0 where Slurm has ended one of its daemons
    facts = _ask_slurm(job)
    is_preempted = facts.get("PreemptTime", "None") != "None"
    if status == STATUS_STOPPED and not is_preempted:
        return [], status
    why_not = _why_not(config, job, facts, is_preempted)
    if why_not:
        return [f"requeue: job {job.name} does not go back into the queue: {why_not}"], status
    if facts.get("JobState") != "PENDING":  # else Slurm has done it, for the same reason
        done = _scontrol("requeue", job.name)
        if done.returncode:
            said = " ".join(done.stderr.split()) or f"scontrol ended with status {done.returncode}"
            return [f"requeue: job {job.name} does not go back into the queue: {said}", f"requeue: {_CHAIN}"], status
    return [f"requeue: job {job.name} is back in the queue"], status


def _why_not(config: Config, job: SlurmJob, facts: Mapping[str, str], is_preempted: bool) -> str:
    """Why there should be no other start; empty: there should be."""
    if facts.get("JobState") == "CANCELLED":
        return "it was cancelled"
    if (config.folder / STOP).exists():
        return f"{config.folder / STOP} says that the run is to stop"
    # To give way is no fault of the run's; and what ends by itself then Slurm does not bring back.
    return "" if is_preempted else _why_stuck(config, job)


def _why_stuck(config: Config, job: SlurmJob) -> str:
    """Why another start would come no further; empty: it would."""
    try:
        manifest = last_manifest(config.folder)
        about = read_attributes(config.folder) if manifest is not None else {}
    except WashError as error:
        return str(error)
    if manifest is None:
        return f"{config.folder} holds no checkpoint"
    if (about.get("slurm_job_id"), about.get("slurm_restart_count")) != (job.job_id, job.restart_count):
        return "this start has not come to its first step"
    if manifest.step <= int(str(about["first_step"])):
        return f"this start has left no checkpoint beyond step {manifest.step}, from which it began"
    return ""


def _ask_slurm(job: SlurmJob) -> dict[str, str]:
    """What scontrol says of the job, by key; nothing where it cannot be asked."""
    words = _scontrol("--oneliner", "show", "job", job.name).stdout.split()
    return dict(word.split("=", 1) for word in words if "=" in word)


def _scontrol(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["scontrol", *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:  # in a container there is none
        return subprocess.CompletedProcess(command, 1, "", f"scontrol cannot be asked: {error}")
