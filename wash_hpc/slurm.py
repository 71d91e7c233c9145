"""What Slurm says about this job: its environment, as a table. Slurm starts jobs; nothing here does."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class SlurmJob:
    """The job that this process runs in.

    Attributes:
        job_id: `SLURM_JOB_ID`.
        nodes: `SLURM_JOB_NODELIST`, in Slurm's own short form.
        task: `SLURM_PROCID`, this task's number in what srun started; 0 outside of srun.
    """

    job_id: str
    nodes: str
    task: int


def current_job(environment: Mapping[str, str] = os.environ) -> SlurmJob | None:
    """The Slurm job of this process, or None outside of one."""
    if "SLURM_JOB_ID" not in environment:
        return None
    return SlurmJob(
        job_id=environment["SLURM_JOB_ID"],
        nodes=environment.get("SLURM_JOB_NODELIST", ""),
        task=int(environment.get("SLURM_PROCID", "0")),
    )
