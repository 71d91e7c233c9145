"""Slurm's environment as a table."""

from __future__ import annotations

from wash_hpc.slurm import SlurmJob, current_job


def test_outside_of_slurm_there_is_no_job():
    assert current_job({}) is None


def test_a_job_is_read_from_what_slurm_sets():
    environment = {"SLURM_JOB_ID": "42", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_PROCID": "3"}
    assert current_job(environment) == SlurmJob("42", "node[1-2]", 3)
    assert current_job({"SLURM_JOB_ID": "42"}) == SlurmJob("42", "", 0)
