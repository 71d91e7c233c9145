"""What Slurm says about this job: its environment, as a table, and what of it does not fit the ranks of MPI.

Slurm starts jobs; nothing here does. Pure: the number of ranks is given, MPI is asked elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

_SHELL_OF_SALLOC = "4294967290"  # as a step's id: the shell is a task, and what is typed there is none


@dataclass(frozen=True)
class SlurmJob:
    """The job that this process runs in.

    mpirun starts its daemons on the nodes by an srun of its own, and the ranks that these start inherit the daemons'
    numbers. Such numbers say nothing of the ranks: for them `task` is 0, and `num_tasks`, `num_nodes` and `step_tasks`
    are None.

    Attributes:
        job_id: `SLURM_JOB_ID`.
        nodes: `SLURM_JOB_NODELIST`, in Slurm's own short form.
        task: `SLURM_PROCID`, this task's number in what srun started; 0 outside of srun.
        num_tasks: `SLURM_NTASKS`, of the job, or within srun of the step; None where no number was asked for.
        step_tasks: `SLURM_STEP_NUM_TASKS`, that one srun started, this one among them; None outside of srun.
        restart_count: `SLURM_RESTART_COUNT`, how many times Slurm has queued the job anew.
        array_job_id: `SLURM_ARRAY_JOB_ID`, of a job array; None in none.
        array_task_id: `SLURM_ARRAY_TASK_ID`, this job's number in its array; None in none.
        num_nodes: `SLURM_JOB_NUM_NODES`, of the job, or within srun of the step.
        cpus_per_task: `SLURM_CPUS_PER_TASK`; None where no number was asked for.
        gpus_on_node: `SLURM_GPUS_ON_NODE`, that the job has on this node; None where it asked for none.
    """

    job_id: str
    nodes: str
    task: int
    num_tasks: int | None = None
    step_tasks: int | None = None
    restart_count: int = 0
    array_job_id: str | None = None
    array_task_id: int | None = None
    num_nodes: int | None = None
    cpus_per_task: int | None = None
    gpus_on_node: int | None = None

    @property
    def name(self) -> str:
        """What Slurm's commands take for this job alone; the bare id of one task of an array may stand for all."""
        return self.job_id if self.array_job_id is None else f"{self.array_job_id}_{self.array_task_id}"


def current_job(environment: Mapping[str, str] = os.environ) -> SlurmJob | None:
    """The Slurm job of this process, or None outside of one."""
    if "SLURM_JOB_ID" not in environment:
        return None
    ours = not _is_rank_of_mpirun(environment)
    return SlurmJob(
        job_id=environment["SLURM_JOB_ID"],
        nodes=environment.get("SLURM_JOB_NODELIST", ""),
        task=int(environment.get("SLURM_PROCID", "0")) if ours else 0,
        num_tasks=_number(environment, "SLURM_NTASKS") if ours else None,
        step_tasks=_number(environment, "SLURM_STEP_NUM_TASKS") if ours else None,
        restart_count=_number(environment, "SLURM_RESTART_COUNT") or 0,
        array_job_id=environment.get("SLURM_ARRAY_JOB_ID"),
        array_task_id=_number(environment, "SLURM_ARRAY_TASK_ID"),
        num_nodes=_number(environment, "SLURM_JOB_NUM_NODES") if ours else None,
        cpus_per_task=_number(environment, "SLURM_CPUS_PER_TASK"),
        gpus_on_node=_number(environment, "SLURM_GPUS_ON_NODE"),
    )


def find_lone_task(environment: Mapping[str, str], num_ranks: int) -> str | None:
    """What to say where srun started several tasks and MPI takes each for a job of its own; None where all is well.

    That is how `srun` without the right `--mpi` shows. A rank alone under mpirun, in a batch script or in the shell of
    salloc is meant to be alone.

    Args:
        environment: of this process.
        num_ranks: of MPI.
    """
    job = current_job(environment)
    if job is None or num_ranks > 1 or job.step_tasks is None or job.step_tasks == 1:
        return None
    return (
        f"this is task {job.task} of {job.step_tasks} that srun started, and MPI sees one rank: use another --mpi "
        "(srun --mpi=list names them), or mpirun; where one rank is meant, srun --ntasks=1 or unset "
        "SLURM_STEP_NUM_TASKS"
    )


def find_misfits(job: SlurmJob, num_ranks: int, num_hosts: int) -> list[str]:
    """Where the ranks of MPI are not what the job was given: a sentence each.

    Args:
        job: as a process sees it that is no rank of mpirun's daemons, where there is one.
        num_ranks: of MPI.
        num_hosts: on which they are.
    """
    misfits = []
    if job.num_tasks is not None and job.num_tasks != num_ranks:
        misfits.append(
            f"ranks: {num_ranks}, tasks: {job.num_tasks}; to start as many: mpirun -n {job.num_tasks}, or srun with "
            "the right --mpi"
        )
    if job.num_nodes is not None and job.num_nodes > num_hosts:
        misfits.append(f"the ranks are on {num_hosts} host{'s' * (num_hosts != 1)}, and the job has {job.num_nodes}")
    return misfits


def _is_rank_of_mpirun(environment: Mapping[str, str]) -> bool:
    """Whether a daemon of mpirun that srun started has started this process.

    Open MPI's says so. Those of MPICH and its kin give the number of ranks as PMI_SIZE, as does srun --mpi=pmi2; but
    then it is the step's.
    """
    if "SLURM_STEP_NUM_TASKS" not in environment or environment.get("SLURM_STEP_ID") == _SHELL_OF_SALLOC:
        return False
    if "OMPI_COMM_WORLD_SIZE" in environment:
        return True
    return environment.get("PMI_SIZE", "") not in {"", environment["SLURM_STEP_NUM_TASKS"]}


def describe_restart(job: SlurmJob | None) -> str:
    """Which start of a job this is, to be put behind a sentence; nothing where it is the first, or no job."""
    if job is None or not job.restart_count:
        return ""
    return f" (start {job.restart_count + 1} of Slurm's job {job.name})"


def _number(environment: Mapping[str, str], name: str) -> int | None:
    value = environment.get(name, "")
    return int(value) if value else None
