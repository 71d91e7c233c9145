"""One run that meets one fault after the other; after each it is started again and goes on where it was.

Each fault ends the run with one clear sentence, loses nothing but the steps since the last checkpoint, and in the end
the weights are, bit for bit, those of a run that met none.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.faults.faulty import UNHURRIED, Fault, mount, run, unmount, why_no_mount
from tests.support import equal_weights
from wash_hpc.errors import STATUS_STOPPED
from wash_hpc.storage.kept import last_manifest
from wash_hpc.storage.metrics import read_metrics
from wash_hpc.storage.summary import read_summary

# Fills the disk of the run's folder, also the last bytes.
FILL = """
with open(config.folder / "filler", "wb", buffering=0) as filler:
    for size in (2**16, 2**8, 1):
        try:
            while True:
                filler.write(b"x" * size)
        except OSError:
            pass
"""
READ_ONLY = """
subprocess.run(["mount", "-o", "remount,ro", str(config.folder / "checkpoints")], check=True)
"""
# A clock that is a year behind or ahead, another time whenever it is asked; from the first line of the program on.
JUMPING = """
real, since = time.time, time.monotonic()
time.time = lambda: real() + random.choice([-1, 1]) * 3.15e7
"""


@dataclass(frozen=True)
class Start:
    """One start of the run.

    Attributes:
        ended: how, and what it said.
        checkpoint: the step of the last checkpoint after it.
        records: steps of which there are metrics after it.
    """

    ended: subprocess.CompletedProcess[str]
    checkpoint: int
    records: list[int]

    @property
    def errors(self) -> str:
        return self.ended.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the run is: on a small disk, its checkpoints on another one."""
    folder = tmp_path_factory.mktemp("faults")
    reason = why_no_mount(folder / "probe")
    if reason:
        pytest.skip(reason)
    disk, checkpoints = folder / "disk", folder / "disk" / "run" / "checkpoints"
    mount(disk, 8)
    mount(checkpoints, 8)
    yield folder
    unmount(checkpoints)
    unmount(disk)


@pytest.fixture(scope="module")
def starts(folder: Path) -> dict[str, Start]:
    """All starts of the run, by the fault that they met."""
    disk = folder / "disk"

    def start(*faults: Fault, before: str = "") -> Start:
        program = f"{before}\nsys.exit(main(sys.argv[2:]))"
        ended = run(disk, "run", list(faults), program=program)
        manifest = last_manifest(disk / "run")
        return Start(ended, 0 if manifest is None else manifest.step, read_metrics(disk / "run").step.tolist())

    starts = {"full disk": start((5, 0, FILL))}
    (disk / "run" / "filler").unlink()
    starts["read-only"] = start((5, 0, READ_ONLY))
    subprocess.run(["mount", "-o", "remount,rw", str(disk / "run" / "checkpoints")], check=True)
    starts["data"] = start((8, 1, "raise ValueError('a batch that is no batch')"))
    starts["interrupted"] = start(*UNHURRIED, (8, 1, "os.kill(os.getpid(), signal.SIGINT)"))
    starts["jumping clock"] = start(before=JUMPING)
    return starts


@pytest.mark.small_disk
@pytest.mark.slow
def test_a_disk_that_is_full_for_metrics_ends_the_run_with_one_sentence_and_leaves_all_records(
    starts: dict[str, Start],
) -> None:
    start = starts["full disk"]
    assert start.ended.returncode == 2, start.errors
    assert start.errors.count("wash_hpc: error:") == 1
    assert "metrics/0000.h5: cannot be written: [Errno 28] No space left on device" in start.errors
    assert "Traceback" not in start.errors
    assert (start.checkpoint, start.records) == (3, [1, 2, 3, 4])


@pytest.mark.small_disk
@pytest.mark.slow
def test_a_folder_that_turns_read_only_ends_the_run_with_one_sentence(starts: dict[str, Start]) -> None:
    start = starts["read-only"]
    assert start.ended.returncode == 2, start.errors
    assert start.errors.count("wash_hpc: error:") == 1
    assert "Read-only file system" in start.errors
    assert "checkpoints/step-00000006" in start.errors
    assert "Traceback" not in start.errors
    assert start.checkpoint == 3
    assert start.records[:5] == [1, 2, 3, 4, 5]


@pytest.mark.small_disk
@pytest.mark.slow
def test_a_rank_that_raises_while_it_loads_data_ends_all_ranks_and_is_named_once(starts: dict[str, Start]) -> None:
    start = starts["data"]
    assert start.ended.returncode == 1, start.errors
    assert start.errors.count("wash_hpc: rank 1 (member 1, replica 0) failed; stopping all ranks") == 1
    assert start.errors.count("ValueError: a batch that is no batch") == 1
    assert start.checkpoint == 6


@pytest.mark.small_disk
@pytest.mark.slow
def test_ctrl_c_that_reaches_one_rank_stops_all_with_a_checkpoint(starts: dict[str, Start]) -> None:
    start = starts["interrupted"]
    assert start.ended.returncode == STATUS_STOPPED, start.errors
    assert start.checkpoint >= 8
    assert start.errors.count(f"run: stopped after step {start.checkpoint} of 12 by SIGINT") == 1
    assert "Traceback" not in start.errors


@pytest.mark.small_disk
@pytest.mark.slow
def test_after_all_faults_and_with_a_clock_that_jumps_the_run_ends_as_one_that_met_none(
    folder: Path, starts: dict[str, Start]
) -> None:
    ended = starts["jumping clock"].ended
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    done = run(folder, "whole", [])
    assert done.returncode == 0, done.stderr
    whole = folder / "whole"
    after = folder / "disk" / "run"
    assert equal_weights(whole, after)
    assert read_metrics(after).step.tolist() == read_metrics(whole).step.tolist() == list(range(1, 13))
    assert read_metrics(after).loss.tolist() == read_metrics(whole).loss.tolist()
    first, second = read_summary(whole), read_summary(after)
    assert first.bytes_sent_per_member == second.bytes_sent_per_member
    assert first.scores == second.scores
    assert 0 < second.wall_seconds < 3600
    assert np.all(read_metrics(after).data_seconds >= 0)
