"""Jobs submitted with sbatch to a real slurmctld, with the scripts of slurm/ as they stand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster, ClusterError, find_processes, running_cluster

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "slurm/imagenet_resnet50.sh"

TINY = [
    "model.name=resnet_small",
    "data.image_size=32",
    "data.resize=32",
    "data.batch_size=8",
    "data.workers=1",
    "train.steps=6",
    "train.precision=fp32",
    "evaluate.statistics_images=64",
    "log.every_steps=2",
    "parallel.device=cpu",
]

# What four ranks need on a machine with fewer cores, on nodes that share its addresses. A cluster needs none of it.
ON_ONE_MACHINE = {
    "VENV": sys.prefix,
    "OMP_NUM_THREADS": "1",
    "OMPI_MCA_mpi_yield_when_idle": "1",
    "OMPI_MCA_btl_tcp_if_include": "lo",
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    # MPI says which ranks are on which node and how they talk.
    "OMPI_MCA_ompi_display_comm": "mpi_init",
}


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "digits"
    subprocess.run([sys.executable, ROOT / "tools/make_dataset.py", "digits", folder], timeout=120, check=True)
    return folder


def test_a_job_on_two_nodes_trains_to_its_summary(
    cluster: Cluster, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    job = cluster.run(
        SCRIPT,
        [*TINY, f"run.dir={tmp_path}", "run.name=two_nodes", "method.p=0.01"],
        options=["--nodes=2", "--ntasks-per-node=2"],
        settings={**ON_ONE_MACHINE, "DATA": str(digits)},
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
        settings={**ON_ONE_MACHINE, "DATA": str(digits), "MEMBERS": "2"},
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
        cluster.run(SCRIPT, [], options=["--partition=nosuch"], settings={}, seconds=60)


def test_the_end_of_a_cluster_ends_its_jobs_and_leaves_nothing(cluster: Cluster) -> None:
    with running_cluster() as other:
        job_id = other.ask(
            ["sbatch", "--parsable", "--nodes=2", "--output=/dev/null", "--wrap=srun sleep 1000"]
        ).strip()
        other.wait_until("running job", lambda: other.describe(job_id)["JobState"] == "RUNNING")
        assert len(find_processes(other.folder)) > len(other.daemons)
    assert find_processes(other.folder) == []
    assert not other.folder.exists()
    assert len(find_processes(cluster.folder)) >= len(cluster.daemons)


def test_a_daemon_that_ends_by_itself_is_named_and_its_output_shown(cluster: Cluster) -> None:
    with running_cluster() as other:
        other.start("unlucky", ["sh", "-c", "echo no luck today; exit 3"])
        with pytest.raises(ClusterError, match=r"unlucky ended with status 3\n(?s:.*)no luck today"):
            other.wait_until("luck", lambda: False)
    assert not other.folder.exists()
