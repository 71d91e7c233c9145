"""Slurm's environment as a table."""

from __future__ import annotations

from wash_hpc.slurm import SlurmJob, current_job

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
