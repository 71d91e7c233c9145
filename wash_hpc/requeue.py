"""Whether a batch job whose run has ended too early goes back into the queue: `wash-hpc requeue`, last in job scripts.

Slurm queues, starts and counts. Here is only what it cannot know: whether the run went on at all in this start, so that
a mistake does not come back for ever.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from wash_hpc.config import Config, load_config
from wash_hpc.errors import STATUS_STOPPED, RunFolderError
from wash_hpc.slurm import SlurmJob, current_job
from wash_hpc.storage.checkpoint import last_manifest
from wash_hpc.storage.metrics import read_metrics

_FINAL = (2, STATUS_STOPPED)  # wrong input; stopped for good
_CHAIN = "submit it again to go on, or as a chain, sbatch --array=1-10%1 ..., which goes on by itself"


def requeue(file: Path, overrides: Sequence[str], status: int) -> tuple[list[str], int]:
    """Put the Slurm job of this process back into the queue where its run is to go on, and is able to. No MPI.

    It is to go on where it was stopped because its time is over or another job needs its place, or where it was lost
    with a node or a rank; not where it has finished, met wrong input, or was stopped by a person. It is able to where
    this start has left a checkpoint beyond the one from which it began. Outside of a job nothing is done.

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
    if job is None or (status in _FINAL and not (status == STATUS_STOPPED and _is_preempted(job))):
        return [], status
    config = load_config(file, overrides)
    if status == 0:
        if (config.folder / "summary.json").is_file():
            return [], status
        status = 1  # mpirun ends with 0 where Slurm has ended one of its daemons
    why_not = _why_stuck(config, job)
    if why_not:
        return [f"requeue: job {job.name} does not go back into the queue: {why_not}"], status
    done = _scontrol("requeue", job.name)
    if done.returncode:
        said = " ".join(done.stderr.split()) or f"scontrol ended with status {done.returncode}"
        return [f"requeue: job {job.name} does not go back into the queue: {said}", f"requeue: {_CHAIN}"], status
    return [f"requeue: job {job.name} is back in the queue"], status


def _why_stuck(config: Config, job: SlurmJob) -> str:
    """Why another start would come no further; empty: it would."""
    try:
        manifest = last_manifest(config.folder)
        about: Mapping[str, object] = read_metrics(config.folder).attributes if manifest else {}
    except RunFolderError as error:
        return str(error)
    if manifest is None:
        return f"{config.folder} holds no checkpoint"
    if (about.get("slurm_job_id"), about.get("slurm_restart_count")) != (job.job_id, job.restart_count):
        return "this start has not come to its first step"
    if manifest.step <= int(str(about["first_step"])):
        return f"this start has left no checkpoint beyond step {manifest.step}, from which it began"
    return ""


def _is_preempted(job: SlurmJob) -> bool:
    """Whether Slurm takes the job's place for another; a job that ends by itself then is not queued again by Slurm."""
    words = _scontrol("--oneliner", "show", "job", job.name).stdout.split()
    return any(word.startswith("PreemptTime=") and word != "PreemptTime=None" for word in words)


def _scontrol(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["scontrol", *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:  # in a container there is none
        return subprocess.CompletedProcess(command, 1, "", f"scontrol cannot be asked: {error}")
