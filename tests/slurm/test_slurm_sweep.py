"""The other scripts of slurm/ on a real slurmctld: a sweep with its summary, an evaluation, the smoke test."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster
from tests.slurm.jobs import ROOT, settings_on
from tests.support import mpirun

SWEEP = """\
config: configs/smoke.yaml
ranks: 2
common: {train.steps: 6, log.every_steps: 2, parallel.reducer: mpi, log.progress: lines}
variants:
  wash: {method.name: wash}
  papa: {method.name: papa}
  broken: {data.name: cifar10, data.path: /nowhere}
  alone: {method.name: independent, ranks: 1}
grid: {run.seed: [5]}
"""

pytestmark = [pytest.mark.slurm, pytest.mark.slow]


def test_a_sweep_trains_what_has_not_finished_and_its_last_job_puts_all_into_one_table(
    cluster: Cluster, tmp_path: Path
) -> None:
    file = tmp_path / "grid.yaml"
    file.write_text(SWEEP)
    words = [str(file), f"run.dir={tmp_path}"]
    arguments = train_first(tmp_path, words)
    options = "--cpus-per-task=1 --gpus-per-node=0 --time=10 --job-name=mine"
    logs = f"--output={tmp_path}/%x-%A_%a.log"
    command = ["wash-hpc", "sweep", *words, "--slurm", f"--sbatch={options} {logs}", "--at-once=1"]
    environment = {**cluster.environment, **settings_on(cluster)}
    refused = cluster.try_to([*command, "--sbatch=--hold", "--sbatch-report=--partition=nosuch"], environment)
    assert refused.returncode == 2
    assert "--partition=nosuch" in refused.stderr
    assert "what was submitted before it has been cancelled: job " in refused.stderr
    command.append("--sbatch-report=--time=5")
    said = cluster.ask(command, environment)
    assert said.startswith("1 of 4 runs have finished before\n"), arguments
    one, two, report = (word.partition(":")[0] for word in said.split("job ")[1:])
    assert f"job {one}: 1 tasks (3) of 1 ranks each" in said
    assert f"job {two}: 2 tasks (1-2) of 2 ranks each" in said
    again = cluster.try_to(command, environment)
    assert again.returncode == 2
    assert f"job {one} of this sweep is in the queue" in again.stderr
    (alone,) = cluster.wait_for_tasks(one, 240)
    papa, broken = cluster.wait_for_tasks(two, 240)
    assert (alone.state, papa.state) == ("COMPLETED", "COMPLETED"), alone.log + papa.log
    assert (broken.state, broken.exit_code) == ("FAILED", "2:0"), broken.log
    assert "/nowhere" in broken.log
    reported = cluster.wait_for(report, 120)
    assert (reported.state, reported.exit_code) == ("FAILED", "1:0"), reported.log
    assert "not in the table: broken-seed_5: missing" in reported.log
    with (tmp_path / "grid.csv").open() as table:
        rows = [(row["name"], row["method"], row["seed"], row["num_members"]) for row in csv.DictReader(table)]
    assert rows == [
        ("wash-seed_5", "wash", "5", "2"),
        ("papa-seed_5", "papa", "5", "2"),
        ("alone-seed_5", "independent", "5", "1"),
    ]
    assert (tmp_path / "grid.html").is_file()
    assert "papa-seed_5" in reported.log


def train_first(folder: Path, words: list[str]) -> list[str]:
    """Train the first run here and now, with the arguments that a task is given."""
    task = subprocess.run(["wash-hpc", "sweep", *words, "--task", "0"], capture_output=True, text=True, check=True)
    arguments = task.stdout.splitlines()
    done = mpirun(2, sys.executable, "-m", "wash_hpc", "train", *arguments)
    assert done.returncode == 0, done.stderr
    assert (folder / "grid/wash-seed_5/summary.json").is_file()
    return arguments


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
