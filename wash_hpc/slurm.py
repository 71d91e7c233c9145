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
        num_tasks: `SLURM_NTASKS`, that the job was given; None where it asked for no number.
        step_tasks: `SLURM_STEP_NUM_TASKS`, that one srun started, this one among them; None outside of srun. Where
            mpirun started its daemons by srun, these are the tasks.
        restart_count: `SLURM_RESTART_COUNT`, how many times Slurm has queued the job anew.
        array_job_id: `SLURM_ARRAY_JOB_ID`, of a job array; None in none.
        array_task_id: `SLURM_ARRAY_TASK_ID`, this job's number in its array; None in none.
    """

    job_id: str
    nodes: str
    task: int
    num_tasks: int | None = None
    step_tasks: int | None = None
    restart_count: int = 0
    array_job_id: str | None = None
    array_task_id: int | None = None

    @property
    def name(self) -> str:
        """What Slurm's commands take for this job alone; the bare id of one task of an array may stand for all."""
        return self.job_id if self.array_job_id is None else f"{self.array_job_id}_{self.array_task_id}"


def current_job(environment: Mapping[str, str] = os.environ) -> SlurmJob | None:
    """The Slurm job of this process, or None outside of one."""
    if "SLURM_JOB_ID" not in environment:
        return None
    return SlurmJob(
        job_id=environment["SLURM_JOB_ID"],
        nodes=environment.get("SLURM_JOB_NODELIST", ""),
        task=int(environment.get("SLURM_PROCID", "0")),
        num_tasks=_number(environment, "SLURM_NTASKS"),
        step_tasks=_number(environment, "SLURM_STEP_NUM_TASKS"),
        restart_count=_number(environment, "SLURM_RESTART_COUNT") or 0,
        array_job_id=environment.get("SLURM_ARRAY_JOB_ID"),
        array_task_id=_number(environment, "SLURM_ARRAY_TASK_ID"),
    )


def _number(environment: Mapping[str, str], name: str) -> int | None:
    value = environment.get(name, "")
    return int(value) if value else None
