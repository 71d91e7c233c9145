"""Jobs that are stopped, lost or cancelled in mid-run on a real slurmctld, and what becomes of their runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster
from tests.slurm.jobs import SCRIPT, TINY, settings_on
from tests.support import equal_weights
from wash_hpc.storage.kept import last_manifest
from wash_hpc.storage.metrics import metrics_files, read_metrics
from wash_hpc.storage.summary import read_summary

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

# Long enough to be met in mid-run, on images that are made in memory.
LONG = [
    *TINY,
    "data.name=synthetic",
    "data.num_images=256",
    "data.image_size=8",
    "data.resize=8",
    "data.crop_padding=1",
    "model.width=4",
    "train.steps=600",
    "method.p=0.1",
    "log.every_steps=10",
    "evaluate.every_epochs=0",
    "parallel.reducer=mpi",
    "train.channels_last=false",
]
TWO_NODES = ["--nodes=2", "--ntasks-per-node=1"]
SRUN = "srun --mpi=pmix --kill-on-bad-exit=1"


class Submitted:
    """A job of two ranks on two nodes whose run is going on."""

    def __init__(self, cluster: Cluster, folder: Path, name: str, *overrides: str, **settings: str) -> None:
        self.cluster = cluster
        self.folder = folder / name
        self.options = TWO_NODES
        self._arguments = [*LONG, f"run.dir={folder}", f"run.name={name}", *overrides]
        self._settings = {**settings_on(cluster), "MEMBERS": "2", **settings}

    def submit(self, *options: str) -> str:
        """Its id."""
        options = (*self.options, *options)
        self.id = self.cluster.submit(SCRIPT, self._arguments, options=options, settings=self._settings)
        return self.id

    def wait_for_record(self, start: int = 0) -> None:
        """Wait until steps of a start have been recorded; the job's output is shown where none are."""

        def recorded() -> bool:
            files = metrics_files(self.folder)
            return len(files) > start and len(read_metrics(self.folder).step) > 0

        self.wait_until(f"record of start {start}", recorded)

    def wait_for_checkpoint(self) -> None:
        """Wait until a checkpoint is complete."""
        self.wait_until("checkpoint", lambda: last_manifest(self.folder) is not None)

    def wait_until(self, what: str, is_so: Callable[[], bool]) -> None:
        """Wait for something; the job's output is shown where it does not come."""
        try:
            self.cluster.wait_until(what, is_so, 120)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.cluster.log(self.id)}") from error


@pytest.fixture(scope="session")
def whole(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nobody stops."""
    run = Submitted(cluster, tmp_path_factory.mktemp("whole"), "whole")
    job = cluster.wait_for(run.submit(), 180)
    assert job.state == "COMPLETED", job.log
    return run.folder


@pytest.mark.parametrize("settings", [{}, {"LAUNCHER": SRUN}], ids=["mpirun", "srun"])
def test_a_job_that_gets_slurms_signal_is_queued_again_once_and_ends_as_if_nothing_had_been(
    cluster: Cluster, whole: Path, tmp_path: Path, settings: dict[str, str]
) -> None:
    run = Submitted(cluster, tmp_path, "run", **settings)
    job_id = run.submit()
    run.wait_for_record()
    cluster.signal(job_id, "USR2")
    job = cluster.wait_for(job_id, 180)
    assert (job.state, job.num_restarts) == ("COMPLETED", 1), job.log
    assert job.log.count("run: stopped after step") == 1
    assert job.log.count(f"requeue: job {job_id} is back in the queue") == 1
    assert f"(start 2 of Slurm's job {job_id})" in job.log
    assert "Traceback" not in job.log
    assert equal_weights(whole, run.folder)
    assert len(metrics_files(run.folder)) == 2
    assert read_metrics(run.folder).step.tolist() == read_metrics(whole).step.tolist()
    assert read_metrics(run.folder).attributes["slurm_restart_count"] == 1


def test_a_time_limit_is_met_by_the_scripts_own_signal(cluster: Cluster, tmp_path: Path) -> None:
    run = Submitted(cluster, tmp_path, "run", "train.steps=1000000")
    job_id = run.submit("--time=2", "--signal=B:USR2@100")
    run.wait_for_record(start=1)
    cluster.cancel(job_id)
    job = cluster.wait_for(job_id, 60)
    assert job.num_restarts == 1
    assert "by SIGUSR2; its checkpoint is written" in job.log


def test_where_a_job_may_not_be_queued_again_a_chain_goes_on(cluster: Cluster, whole: Path, tmp_path: Path) -> None:
    run = Submitted(cluster, tmp_path, "run")
    job_id = run.submit("--no-requeue", "--array=1-3%1")
    run.wait_for_record()
    # Of a task of an array scancel asks several times, and complains when the first time was enough.
    cluster.try_to(["scancel", "--signal=USR2", "--batch", f"{job_id}_1"])
    first, second, third = cluster.wait_for_tasks(job_id, 240)
    assert (first.state, first.exit_code, first.num_restarts) == ("FAILED", "75:0", 0), first.log
    assert f"requeue: job {job_id}_1 does not go back into the queue:" in first.log
    assert "as a chain, sbatch --array=1-10%1" in first.log
    assert (second.state, third.state) == ("COMPLETED", "COMPLETED"), second.log + third.log
    assert "run: finished" in second.log
    assert "run: has finished before; nothing is left to do" in third.log
    assert equal_weights(whole, run.folder)


def test_a_cancelled_job_leaves_a_folder_that_can_be_read_and_continued(
    cluster: Cluster, whole: Path, tmp_path: Path
) -> None:
    run = Submitted(cluster, tmp_path, "run", "checkpoint.every_steps=20")
    job_id = run.submit()
    run.wait_for_checkpoint()
    cluster.cancel(job_id)
    job = cluster.wait_for(job_id, 60)
    assert (job.state, job.num_restarts) == ("CANCELLED", 0), job.log
    recorded = read_metrics(run.folder).step
    assert 0 < len(recorded) < 60
    assert not (run.folder / "summary.json").exists()
    assert not list(run.folder.rglob("*.new"))
    assert last_manifest(run.folder) is not None
    job = cluster.wait_for(run.submit(), 180)
    assert job.state == "COMPLETED", job.log
    assert equal_weights(whole, run.folder)


@pytest.mark.parametrize("node", ["node1", "node2"])
def test_a_node_that_is_lost_ends_the_job_soon_and_the_next_start_goes_on_from_the_checkpoint(
    cluster: Cluster, whole: Path, tmp_path: Path, node: str
) -> None:
    run = Submitted(cluster, tmp_path, "run", "checkpoint.every_steps=20")
    job_id = run.submit()
    run.wait_for_checkpoint()
    began = time.monotonic()
    cluster.kill_node(node)
    try:
        cluster.wait_until("end of the first start", lambda: cluster.describe(job_id)["JobState"] != "RUNNING", 60)
        ended = time.monotonic()
    finally:
        cluster.start_node(node)
    job = cluster.wait_for(job_id, 240)
    assert (job.state, job.num_restarts) == ("COMPLETED", 1), job.log
    assert ended - began < 45
    assert equal_weights(whole, run.folder)
    assert read_summary(run.folder).steps == 600


@pytest.mark.parametrize("settings", [{}, {"LAUNCHER": SRUN}], ids=["mpirun", "srun"])
def test_a_job_that_gives_way_to_another_goes_on_after_it(
    cluster: Cluster, whole: Path, tmp_path: Path, settings: dict[str, str]
) -> None:
    run = Submitted(cluster, tmp_path, "run", **settings)
    job_id = run.submit()
    run.wait_for_record()
    urgent = cluster.submit(None, options=["--partition=urgent", "--nodes=2", "--exclusive", "--wrap=sleep 5"])
    assert cluster.wait_for(urgent, 60).state == "COMPLETED"
    job = cluster.wait_for(job_id, 180)
    assert (job.state, job.num_restarts) == ("COMPLETED", 1), job.log
    assert equal_weights(whole, run.folder)
    if settings:  # mpirun ends its ranks a second after SIGTERM: then the last checkpoint counts, and here is none
        assert job.log.count("by SIGTERM; its checkpoint is written") == 1, job.log
