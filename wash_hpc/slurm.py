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
        num_tasks: `SLURM_NTASKS`; 0 where Slurm does not say. Under mpirun it is that of mpirun's own daemons.
        restart_count: how often the job was requeued.
    """

    job_id: str
    nodes: str
    num_tasks: int
    restart_count: int


def current_job(environment: Mapping[str, str] = os.environ) -> SlurmJob | None:
    """The Slurm job of this process, or None outside of one."""
    if "SLURM_JOB_ID" not in environment:
        return None
    return SlurmJob(
        job_id=environment["SLURM_JOB_ID"],
        nodes=environment.get("SLURM_JOB_NODELIST", ""),
        num_tasks=int(environment.get("SLURM_NTASKS", "0")),
        restart_count=int(environment.get("SLURM_RESTART_COUNT", "0")),
    )
