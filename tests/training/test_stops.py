"""What a run does when it is told something while it goes on: signals, STOP and SAVE; it loses nothing by it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import TINY, equal_weights, train
from wash_hpc.config import load_config
from wash_hpc.errors import STATUS_AGAIN, STATUS_STOPPED
from wash_hpc.storage.kept import last_manifest
from wash_hpc.storage.metrics import metrics_files, read_metrics
from wash_hpc.storage.summary import read_summary

LONG = ["train.steps=400", "log.every_steps=10"]


class Going:
    """A run that is going on, in a folder of its own."""

    def __init__(self, folder: Path, name: str, num_ranks: int, *overrides: str) -> None:
        config = folder / "tiny.yaml"
        config.write_text("{}\n")
        self.folder = folder / name
        where = [f"run.dir={folder}", f"run.name={name}", "log.progress=lines"]
        launcher = shutil.which("mpirun")
        assert launcher is not None
        command = [launcher, "-n", str(num_ranks), sys.executable, "-m", "wash_hpc", "train", str(config)]
        self._process = subprocess.Popen(
            [*command, *TINY, *LONG, *where, *overrides], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def wait_until(self, what: str, is_so: Callable[[], bool]) -> None:
        """Wait for something while the run goes on; it fails where the run ends before."""
        deadline = time.monotonic() + 120
        while not is_so():
            assert self._process.poll() is None, f"no {what} before the end: {self._process.communicate()}"
            assert time.monotonic() < deadline, f"no {what} in time"
            time.sleep(0.02)

    def wait_for_steps(self) -> None:
        """Wait until steps have been recorded."""
        self.wait_until("record", lambda: bool(metrics_files(self.folder)) and len(read_metrics(self.folder).step) > 0)

    def signal(self, number: signal.Signals) -> None:
        """To mpirun, which passes it on to all ranks."""
        self._process.send_signal(number)

    def end(self, seconds: float = 60) -> tuple[int, str]:
        """Its exit status and all that it said."""
        try:
            out, errors = self._process.communicate(timeout=seconds)
        finally:
            self._process.kill()
        return self._process.returncode, out + errors

    def ranks(self) -> list[int]:
        """The process ids of its ranks, rank 0 first."""
        found = {}
        for entry in Path("/proc").iterdir():
            try:
                words = (entry / "environ").read_bytes().split(b"\0") if entry.name.isdigit() else []
                command = (entry / "cmdline").read_bytes() if words else b""
            except OSError:
                continue
            ours = f"run.name={self.folder.name}".encode() in command and b"mpirun" not in command.split(b"\0")[0]
            rank = [word for word in words if word.startswith(b"OMPI_COMM_WORLD_RANK=")]
            if ours and rank and str(self.folder.parent).encode() in command:
                found[int(rank[0].partition(b"=")[2])] = int(entry.name)
        return [found[rank] for rank in sorted(found)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_ranks", "overrides"),
    [
        (2, ["method.overlap=true"]),
        (4, ["ensemble.members=2", "evaluate.every_epochs=7", "average.ema=0.9"]),  # replicas: statistics differ
    ],
    ids=["overlap", "replicas"],
)
def test_a_run_that_was_stopped_by_a_signal_ends_as_one_that_was_not(
    tmp_path: Path, num_ranks: int, overrides: list[str]
) -> None:
    whole = train(tmp_path, "whole", num_ranks, *LONG, *overrides)
    going = Going(tmp_path, "stopped", num_ranks, *overrides)
    going.wait_for_steps()
    going.signal(signal.SIGUSR2)
    status, said = going.end()
    assert status == STATUS_AGAIN, said
    manifest = last_manifest(going.folder)
    assert manifest is not None
    assert 0 < manifest.step < 400
    assert said.count(f"stopped: stopped after step {manifest.step} of 400 by SIGUSR2") == 1
    assert "Traceback" not in said
    assert not (going.folder / "summary.json").exists()
    resumed = train(tmp_path, "stopped", num_ranks, *LONG, *overrides, "checkpoint.resume=auto")
    assert equal_weights(whole, resumed)
    assert read_summary(whole).bytes_sent_per_member == read_summary(resumed).bytes_sent_per_member
    assert len(metrics_files(resumed)) == 2
    assert read_metrics(resumed).step.tolist() == read_metrics(whole).step.tolist()


@pytest.mark.slow
def test_the_file_stop_ends_a_run_and_keeps_it_from_starting_and_save_only_writes_a_checkpoint(tmp_path: Path) -> None:
    going = Going(tmp_path, "run", 2)
    going.wait_for_steps()
    (going.folder / "SAVE").touch()
    going.wait_until("checkpoint", lambda: not (going.folder / "SAVE").exists())
    saved = last_manifest(going.folder)
    assert saved is not None
    (going.folder / "STOP").touch()
    status, said = going.end()
    assert status == STATUS_STOPPED, said
    assert "a checkpoint is written, as the file SAVE asked" in said
    stopped = last_manifest(going.folder)
    assert stopped is not None
    assert saved.step < stopped.step < 400
    assert f"stopped after step {stopped.step} of 400 by STOP" in said
    again = Going(tmp_path, "run", 2, "checkpoint.resume=auto")
    status, said = again.end()
    assert status == STATUS_STOPPED
    assert "STOP: this file says that the run is to stop; remove it to go on" in said
    (going.folder / "STOP").unlink()
    train(tmp_path, "run", 2, *LONG, "checkpoint.resume=auto")


@pytest.mark.slow
def test_a_finished_run_that_is_started_again_has_nothing_left_to_do(tmp_path: Path) -> None:
    run = train(tmp_path, "run", 1)
    before = {file: file.stat().st_mtime_ns for file in run.rglob("*") if file.is_file()}
    again = Going(tmp_path, "run", 1, "checkpoint.resume=auto", "train.steps=8", "log.every_steps=4")
    status, said = again.end()
    assert status == 0
    assert said == f"run: has finished before; nothing is left to do, the results are in {run}\n"
    assert {file: file.stat().st_mtime_ns for file in run.rglob("*") if file.is_file()} == before


@pytest.mark.slow
def test_a_run_whose_collective_hangs_is_ended_by_force_soon_after_the_signal(tmp_path: Path) -> None:
    going = Going(tmp_path, "run", 2, "checkpoint.grace_seconds=3", "checkpoint.every_steps=5", "train.steps=100000")
    going.wait_until("checkpoint", lambda: last_manifest(going.folder) is not None)
    first, second = going.ranks()
    os.kill(second, signal.SIGSTOP)  # the other waits for it in the next exchange
    os.kill(first, signal.SIGUSR2)
    status, said = going.end(30)
    assert status == STATUS_AGAIN, said
    assert "rank 0: SIGUSR2 came 3 s ago and the run has not stopped since: ends by force" in said
    assert going.ranks() == []
    assert last_manifest(going.folder) is not None


def test_the_grace_of_a_run_is_in_its_configuration() -> None:
    assert load_config(None, ["checkpoint.grace_seconds=0"]).checkpoint.grace_seconds == 0
