"""Jobs submitted with sbatch to a real slurmctld, with the scripts of slurm/ as they stand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster, ClusterError
from tests.slurm.jobs import ROOT, SCRIPT, TINY, settings_on

pytestmark = [pytest.mark.slurm, pytest.mark.slow]


def test_a_job_on_two_nodes_trains_to_its_summary(
    cluster: Cluster, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    job = cluster.run(
        SCRIPT,
        [*TINY, f"run.dir={tmp_path}", "run.name=two_nodes", "method.p=0.01"],
        options=["--nodes=2", "--ntasks-per-node=2"],
        settings={**settings_on(cluster), "DATA": str(digits)},
        seconds=300,
    )
    assert (job.state, job.exit_code) == ("COMPLETED", "0:0"), job.log
    assert "Host 0 [node1] ranks 0 - 1" in job.log
    assert "Host 1 [node2] ranks 2 - 3" in job.log
    assert "Traceback" not in job.log
    assert "two_nodes: step 6/6" in job.log
    summary = json.loads((tmp_path / "two_nodes/summary.json").read_text())
    assert (summary["num_members"], summary["num_replicas"], summary["steps"]) == (4, 1, 6)
    assert summary["method"] == "wash"
    assert summary["bytes_sent_per_member"] > 0
    assert "p: 0.01" in (tmp_path / "two_nodes/config.yaml").read_text()


def test_tasks_that_are_no_multiple_of_the_members_end_the_job_with_a_sentence(
    cluster: Cluster, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    job = cluster.run(
        SCRIPT,
        [*TINY, f"run.dir={tmp_path}", "run.name=three_tasks"],
        options=["--nodes=1", "--ntasks-per-node=3"],
        settings={**settings_on(cluster), "DATA": str(digits), "MEMBERS": "2"},
        seconds=300,
    )
    assert (job.state, job.exit_code) == ("FAILED", "2:0"), job.log
    said = [line for line in job.log.splitlines() if "ensemble.members" in line]
    assert len(said) == 1, job.log
    assert "ensemble.members=2: 3 ranks cannot be shared out" in said[0]
    assert "Traceback" not in job.log
    assert not (tmp_path / "three_tasks").exists()


def test_slurms_own_message_is_shown_when_it_refuses_a_job(cluster: Cluster) -> None:
    with pytest.raises(ClusterError, match="Invalid partition name specified"):
        cluster.submit(SCRIPT, options=["--partition=nosuch"])
