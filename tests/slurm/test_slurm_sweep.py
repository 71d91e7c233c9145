"""The other scripts of slurm/ on a real slurmctld: a sweep with its summary, an evaluation, the smoke test."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster
from tests.slurm.jobs import ROOT, settings_on

pytestmark = [pytest.mark.slurm, pytest.mark.slow]


def test_a_sweep_trains_every_value_and_its_last_job_puts_them_into_one_table(cluster: Cluster, tmp_path: Path) -> None:
    settings = {
        **settings_on(cluster),
        "CONFIG": "configs/smoke.yaml",
        "RUNS": str(tmp_path),
        "NAME": "grid",
        "KEY": "method.name",
        "VALUES": "wash papa nosuch",
        "SEEDS": "5",
        "SUMMARY_OPTIONS": f"--time=5 --output={tmp_path}/summary.log",
    }
    options = ["--nodes=1", "--ntasks-per-node=2", "--gpus-per-node=0", "--array=0-2%1"]
    arguments = ["train.steps=6", "log.every_steps=2", "parallel.reducer=mpi"]
    array = cluster.submit(ROOT / "slurm/sweep.sh", arguments, options=options, settings=settings)
    wash, papa, nosuch = cluster.wait_for_tasks(array, 240)
    assert (wash.state, papa.state) == ("COMPLETED", "COMPLETED"), wash.log + papa.log
    assert (nosuch.state, nosuch.exit_code) == ("FAILED", "2:0"), nosuch.log
    assert "method.name=nosuch: there is no such name" in nosuch.log
    summary_id = wash.log.partition("Submitted batch job ")[2].split()[0]
    assert "Submitted batch job" not in papa.log + nosuch.log
    summary = cluster.wait_for(summary_id, 120)
    table = (tmp_path / "grid.txt").read_text()
    assert "grid-0-wash-seed_5" in table, summary.log
    assert "grid-1-papa-seed_5" in table
    with (tmp_path / "grid.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["name"], row["method"], row["seed"]) for row in rows] == [
        ("grid-0-wash-seed_5", "wash", "5"),
        ("grid-1-papa-seed_5", "papa", "5"),
    ]
    assert (tmp_path / "grid.html").is_file()
    assert "grid-2-nosuch-seed_5: there is no such folder" in summary.log


def test_the_smoke_test_passes_on_two_nodes_and_its_run_can_be_judged_again(cluster: Cluster, tmp_path: Path) -> None:
    settings = {**settings_on(cluster), "RUNS": str(tmp_path)}
    smoke = cluster.submit(
        ROOT / "slurm/smoke.sh",
        ["train.steps=20", "train.precision=fp32"],
        options=["--gpus-per-node=0"],
        settings=settings,
    )
    job = cluster.wait_for(smoke, 240)
    assert (job.state, job.exit_code) == ("COMPLETED", "0:0"), job.log
    assert job.log.rstrip().endswith("smoke: all of it works")
    assert "4 ranks on 2 hosts" in job.log or not cluster.separate_hosts
    assert "broken" not in job.log
    judged = cluster.run(
        ROOT / "slurm/evaluate.sh",
        ["--json"],
        options=["--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=0"],
        settings={**settings, "RUN": f"{tmp_path}/smoke-{smoke}.0"},
        seconds=120,
    )
    assert (judged.state, judged.exit_code) == ("COMPLETED", "0:0"), judged.log
    assert '"soup"' in judged.log
