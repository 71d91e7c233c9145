"""Slurm's environment as a table."""

from __future__ import annotations

import pytest

from wash_hpc.slurm import SlurmJob, current_job, describe_restart, find_lone_task, find_misfits

JOB = {"SLURM_JOB_ID": "42", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_PROCID": "3", "SLURM_NTASKS": "4"}


def test_outside_of_slurm_there_is_no_job():
    assert current_job({}) is None


def test_a_job_is_read_from_what_slurm_sets():
    assert current_job(JOB) == SlurmJob("42", "node[1-2]", 3, num_tasks=4)
    assert current_job({"SLURM_JOB_ID": "42"}) == SlurmJob("42", "", 0)


def test_a_step_a_restart_and_a_job_array_are_read_too():
    environment = {"SLURM_STEP_NUM_TASKS": "8", "SLURM_RESTART_COUNT": "2", "SLURM_ARRAY_JOB_ID": "40"}
    job = current_job(JOB | environment | {"SLURM_ARRAY_TASK_ID": "0"})
    assert job == SlurmJob(
        "42", "node[1-2]", 3, num_tasks=4, step_tasks=8, restart_count=2, array_job_id="40", array_task_id=0
    )


def test_a_variable_that_is_set_and_empty_says_nothing():
    assert current_job({"SLURM_JOB_ID": "42", "SLURM_NTASKS": "", "SLURM_RESTART_COUNT": ""}) == SlurmJob("42", "", 0)


def task(number: int, num_tasks: int, **more: str) -> dict[str, str]:
    """What srun gives to one of its tasks, in a job of two nodes."""
    of_step = {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": str(num_tasks), "SLURM_NTASKS": str(num_tasks)}
    return JOB | {"SLURM_PROCID": str(number), "SLURM_JOB_NUM_NODES": "2", "SLURM_CPUS_PER_TASK": "8"} | of_step | more


# Started by mpirun in a job of 4 tasks: beside mpirun, and by its daemon, one of two that it started by srun.
BESIDE_MPIRUN = JOB | {"SLURM_PROCID": "0", "SLURM_JOB_NUM_NODES": "2", "OMPI_COMM_WORLD_SIZE": "4"}
BY_A_DAEMON = task(1, 2, OMPI_COMM_WORLD_SIZE="4", PMIX_RANK="3")


@pytest.mark.parametrize(
    "kind", [{}, {"PMIX_RANK": "3"}, {"PMI_RANK": "3", "PMI_SIZE": "4"}], ids=["none", "pmix", "pmi2"]
)
def test_a_task_that_sees_no_other_is_told_so_whatever_srun_offered(kind):
    said = find_lone_task(task(3, 4, **kind), 1)
    assert said is not None
    assert said.startswith("this is task 3 of 4 that srun started, and MPI sees one rank: use another --mpi")


def test_tasks_that_see_each_other_are_well():
    assert find_lone_task(task(3, 4), 4) is None
    assert find_lone_task(task(0, 4), 2) is None


@pytest.mark.parametrize(
    "environment",
    [
        {},
        JOB,
        task(0, 1),
        JOB | {"SLURM_STEP_ID": "4294967290", "SLURM_STEP_NUM_TASKS": "1"},
        BESIDE_MPIRUN | {"OMPI_COMM_WORLD_SIZE": "1"},
        BY_A_DAEMON | {"OMPI_COMM_WORLD_SIZE": "1"},
        task(0, 2, PMI_RANK="0", PMI_SIZE="1"),
    ],
    ids=[
        "no Slurm",
        "batch script",
        "srun -n 1",
        "shell of salloc",
        "mpirun -n 1",
        "its daemon",
        "MPICH's mpirun -n 1",
    ],
)
def test_one_rank_that_is_meant_to_be_alone_is_well(environment):
    assert find_lone_task(environment, 1) is None


def test_the_numbers_of_mpiruns_daemons_are_not_taken_for_those_of_its_ranks():
    beside, remote = current_job(BESIDE_MPIRUN), current_job(BY_A_DAEMON)
    assert beside is not None
    assert remote is not None
    assert (beside.num_tasks, beside.num_nodes, beside.step_tasks) == (4, 2, None)
    assert (remote.task, remote.num_tasks, remote.num_nodes, remote.step_tasks) == (0, None, None, None)
    assert (remote.job_id, remote.cpus_per_task) == ("42", 8)
    in_shell_of_salloc = current_job(task(0, 1, SLURM_STEP_ID="4294967290", SLURM_NTASKS="4", OMPI_COMM_WORLD_SIZE="4"))
    assert in_shell_of_salloc is not None
    assert in_shell_of_salloc.num_tasks == 4


def test_ranks_that_are_not_as_many_as_the_tasks_or_leave_nodes_empty_are_said():
    job = SlurmJob("42", "node[1-2]", 0, num_tasks=8, num_nodes=2)
    assert find_misfits(job, 8, 2) == []
    assert find_misfits(SlurmJob("42", "node1", 0), 8, 2) == []
    fewer, empty = find_misfits(job, 4, 1)
    assert fewer.startswith("ranks: 4, tasks: 8; to start as many: mpirun -n 8")
    assert empty == "the ranks are on 1 host, and the job has 2"
    assert find_misfits(job, 16, 2)[0].startswith("ranks: 16, tasks: 8")


def test_a_later_start_says_which_it_is_and_of_what():
    assert describe_restart(None) == ""
    assert describe_restart(current_job(JOB)) == ""
    assert describe_restart(current_job(JOB | {"SLURM_RESTART_COUNT": "1"})) == " (start 2 of Slurm's job 42)"
    task = {"SLURM_RESTART_COUNT": "1", "SLURM_ARRAY_JOB_ID": "40", "SLURM_ARRAY_TASK_ID": "2"}
    assert describe_restart(current_job(JOB | task)) == " (start 2 of Slurm's job 40_2)"
