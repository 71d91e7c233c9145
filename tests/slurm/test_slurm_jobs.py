"""Jobs submitted with sbatch to a real slurmctld, with the scripts of slurm/ as they stand."""

from __future__ import annotations

import json
import platform
import re
import shutil
from pathlib import Path

import h5py
import pytest

from tests.slurm.cluster import Cluster, ClusterError
from tests.slurm.configuration import NODES
from tests.slurm.jobs import SCRIPT, TINY, settings_on

pytestmark = [pytest.mark.slurm, pytest.mark.slow]


def test_a_job_on_two_nodes_trains_to_its_summary(cluster: Cluster, digits: Path, tmp_path: Path) -> None:
    job = cluster.run(
        SCRIPT,
        [*TINY, f"run.dir={tmp_path}", "run.name=two_nodes", "method.p=0.01"],
        options=["--nodes=2", "--ntasks-per-node=2"],
        settings={**settings_on(cluster), "DATA": str(digits)},
        seconds=300,
    )
    assert (job.state, job.exit_code) == ("COMPLETED", "0:0"), job.log
    assert ranks_by_node(job.log) == {"node1": [0, 1], "node2": [2, 3]}
    assert hosts_in_metrics(tmp_path / "two_nodes") == hosts_of(cluster)
    assert "Traceback" not in job.log
    assert "two_nodes: step 6/6" in job.log
    summary = json.loads((tmp_path / "two_nodes/summary.json").read_text())
    assert (summary["num_members"], summary["num_replicas"], summary["steps"]) == (4, 1, 6)
    assert summary["method"] == "wash"
    assert summary["bytes_sent_per_member"] > 0
    assert "p: 0.01" in (tmp_path / "two_nodes/config.yaml").read_text()


def test_srun_starts_the_ranks_and_horovod_averages_gradients_between_the_nodes(
    cluster: Cluster, digits: Path, tmp_path: Path
) -> None:
    job = cluster.run(
        SCRIPT,
        [*TINY, f"run.dir={tmp_path}", "run.name=by_srun", "method.p=0.01", "parallel.reducer=horovod"],
        # Ranks go to the nodes in turn, so that each member has a replica on either.
        options=["--nodes=2", "--ntasks-per-node=2", "--distribution=cyclic"],
        settings={**settings_on(cluster), "DATA": str(digits), "MEMBERS": "2", "LAUNCHER": "srun --mpi=pmix"},
        seconds=300,
    )
    assert (job.state, job.exit_code) == ("COMPLETED", "0:0"), f"{job.log}\n{cluster.logs()}"
    assert ranks_by_node(job.log) == {"node1": [0, 2], "node2": [1, 3]}
    assert hosts_in_metrics(tmp_path / "by_srun") == hosts_of(cluster)
    assert "Traceback" not in job.log
    summary = json.loads((tmp_path / "by_srun/summary.json").read_text())
    assert (summary["num_members"], summary["num_replicas"], summary["steps"]) == (2, 2, 6)
    assert summary["bytes_sent_per_member"] > 0


def test_tasks_that_are_no_multiple_of_the_members_end_the_job_with_a_sentence(
    cluster: Cluster, digits: Path, tmp_path: Path
) -> None:
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


def ranks_by_node(log: str) -> dict[str, list[int]]:
    """From what Open MPI says at its start, such as `Host 0 [node1] ranks 0 - 1`, one line a host or a rank."""
    found: dict[str, list[int]] = {}
    for node, ranks in re.findall(r"Host \d+ \[(\w+)\] ranks ([\d, -]+)$", log, re.MULTILINE):
        first, *last = (int(number) for number in re.split(r" - |, ", ranks))
        found.setdefault(node, []).extend(range(first, last[-1] + 1) if " - " in ranks else [first, *last])
    return found


def hosts_in_metrics(run: Path) -> set[str]:
    with h5py.File(run / "metrics/0000.h5") as file:
        return set(file.attrs["hosts"].split())


def hosts_of(cluster: Cluster) -> set[str]:
    """The host names that ranks on both nodes of the cluster see."""
    return set(NODES) if cluster.separate_hosts else {platform.node()}


def test_data_that_one_node_lacks_end_the_job_with_a_sentence_that_names_the_node(
    cluster: Cluster, digits: Path, tmp_path: Path
) -> None:
    if not cluster.separate_hosts:
        pytest.skip(f"nodes that share one file system have the same data: {cluster.form}")
    copy = tmp_path / "digits"
    shutil.copytree(digits, copy)
    cluster.hide("node2", copy)
    job = cluster.run(
        SCRIPT,
        [*TINY, f"run.dir={tmp_path}", "run.name=one_node", "parallel.reducer=mpi"],
        options=["--nodes=2", "--ntasks-per-node=1"],
        settings={**settings_on(cluster), "DATA": str(copy), "MEMBERS": "2"},
        seconds=120,
    )
    assert (job.state, job.exit_code) == ("FAILED", "2:0"), job.log
    said = [line for line in job.log.splitlines() if line.startswith("wash_hpc: error:")]
    assert len(said) == 1, job.log
    assert str(copy) in said[0]
    assert "node2" in said[0]
    assert "node1" not in said[0]
    assert not (tmp_path / "one_node").exists()
