"""Which jobs `wash-hpc requeue` leaves alone, and why. That others come back is shown in tests/slurm."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from wash_hpc.requeue import requeue
from wash_hpc.storage.metrics import MetricsWriter


@pytest.fixture
def in_job_42(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In job 42, on its second start, on a machine whose scontrol always fails."""
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)
    (tmp_path / "scontrol").write_text("#!/bin/sh\necho no such thing here >&2\nexit 1\n")
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")


def ask(folder: Path, status: int) -> list[str]:
    lines, given = requeue(Path("configs/digits_wash.yaml"), [f"run.dir={folder}", "run.name=run"], status)
    assert given == (status or (0 if (folder / "run/summary.json").exists() else 1))
    return lines


def start(folder: Path, first_step: int, job: str = "42", restart_count: int = 1) -> None:
    about = {"first_step": first_step, "slurm_job_id": job, "slurm_restart_count": restart_count}
    MetricsWriter(folder / "run", 2, ["layer"], about).close()


def checkpoint(folder: Path, step: int) -> None:
    manifest = folder / f"run/checkpoints/step-{step:08d}/manifest.json"
    manifest.parent.mkdir(parents=True)
    manifest.write_text(
        json.dumps(
            {
                "step": step,
                "num_members": 2,
                "num_parameters": 3,
                "seed": 0,
                "optimizer": "sgd",
                "values_moved": [0, 0],
                "bytes_sent": [0, 0],
                "wall_seconds": 1.0,
                "checksums": {},
            }
        )
    )


@pytest.mark.usefixtures("in_job_42")
@pytest.mark.parametrize("status", [0, 2, 3])
def test_what_has_finished_or_was_stopped_for_good_or_met_wrong_input_stays_so(tmp_path: Path, status: int) -> None:
    start(tmp_path, 0)
    checkpoint(tmp_path, 5)
    (tmp_path / "run/summary.json").touch()
    assert ask(tmp_path, status) == []


@pytest.mark.usefixtures("in_job_42")
def test_a_run_that_has_not_finished_is_not_believed_to_have_because_its_launcher_says_so(tmp_path: Path) -> None:
    start(tmp_path, 0)
    checkpoint(tmp_path, 5)
    assert ask(tmp_path, 0)[0].startswith("requeue: job 42 does not go back into the queue: no such thing here")


def test_outside_of_a_job_nothing_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert ask(tmp_path, 75) == []


@pytest.mark.usefixtures("in_job_42")
@pytest.mark.parametrize("status", [0, 1, 75, 137])
def test_a_start_that_came_no_further_is_not_made_again(tmp_path: Path, status: int) -> None:
    assert "run holds no checkpoint" in ask(tmp_path, status)[0]
    checkpoint(tmp_path, 5)
    start(tmp_path, 0, restart_count=0)
    assert ask(tmp_path, status) == [
        "requeue: job 42 does not go back into the queue: this start has not come to its first step"
    ]
    start(tmp_path, 5)
    assert ask(tmp_path, status) == [
        "requeue: job 42 does not go back into the queue: this start has left no checkpoint beyond step 5, "
        "from which it began"
    ]


@pytest.mark.usefixtures("in_job_42")
def test_where_slurm_refuses_its_own_words_are_shown_and_the_way_out(tmp_path: Path) -> None:
    start(tmp_path, 0)
    checkpoint(tmp_path, 5)
    assert ask(tmp_path, 75) == [
        "requeue: job 42 does not go back into the queue: no such thing here",
        "requeue: submit it again to go on, or as a chain, sbatch --array=1-10%1 ..., which goes on by itself",
    ]


@pytest.mark.usefixtures("in_job_42")
def test_a_task_of_an_array_is_named_as_such_since_its_id_may_stand_for_the_array(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "42")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    start(tmp_path, 0)
    checkpoint(tmp_path, 5)
    assert ask(tmp_path, 75)[0].startswith("requeue: job 42_3 does not go back into the queue: no such thing here")


@pytest.mark.usefixtures("in_job_42")
def test_a_file_stop_and_metrics_that_cannot_be_read_are_said(tmp_path: Path) -> None:
    start(tmp_path, 0)
    checkpoint(tmp_path, 5)
    (tmp_path / "run/STOP").touch()
    assert ask(tmp_path, 143)[0].endswith("STOP says that the run is to stop")
    (tmp_path / "run/STOP").unlink()
    (tmp_path / "run/metrics/0001.h5").write_bytes(b"cut short")
    assert "0001.h5: not readable as metrics" in ask(tmp_path, 75)[0]


@pytest.mark.usefixtures("in_job_42")
def test_an_older_file_of_metrics_that_cannot_be_read_is_not_asked(tmp_path: Path) -> None:
    start(tmp_path, 0, restart_count=0)
    start(tmp_path, 0)
    checkpoint(tmp_path, 5)
    (tmp_path / "run/metrics/0000.h5").write_bytes(b"cut short")
    assert ask(tmp_path, 75)[0].endswith("no such thing here")


@pytest.mark.usefixtures("in_job_42")
@pytest.mark.parametrize(
    ("facts", "status", "answer"),
    [
        ("JobState=CANCELLED PreemptTime=None", 143, "does not go back into the queue: it was cancelled"),
        ("JobState=RUNNING PreemptTime=2026-01-01T00:00:00", 3, "job 42 is back in the queue"),
        ("JobState=RUNNING PreemptTime=2026-01-01T00:00:00", 137, "job 42 is back in the queue"),
        ("JobState=PENDING PreemptTime=2026-01-01T00:00:00", 1, "job 42 is back in the queue"),
    ],
    ids=["cancelled", "preempted and stopped", "preempted and killed", "brought back by Slurm"],
)
def test_what_slurm_says_of_the_job_counts(tmp_path: Path, facts: str, status: int, answer: str) -> None:
    answers = f'case "$*" in *requeue*) exit {int("PENDING" in facts)};; *) echo "JobId=42 {facts}";; esac'
    (tmp_path / "scontrol").write_text(f"#!/bin/sh\n{answers}\n")
    assert ask(tmp_path, status)[0].endswith(answer)
