"""A run of which a rank is killed twenty times, at random moments, and that comes to the same end."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.faults.faulty import MAIN, Fault, run
from tests.support import equal_weights
from wash_hpc.storage.checkpoint import read_member
from wash_hpc.storage.kept import last_manifest
from wash_hpc.storage.metrics import metrics_files, read_metrics
from wash_hpc.storage.summary import read_summary

NUM_KILLS = 20
NUM_STEPS = 300
EVERY = 2  # steps a checkpoint: many kills fall into its being written
MOST_STEPS = 8  # until a kill, so that all find the run going on

# Another thread: the moment is in any line, in any part of a step or a checkpoint.
KILL = "threading.Thread(target=lambda: (time.sleep({seconds}), os.kill(os.getpid(), signal.SIGKILL))).start()"


def moment(numbers: random.Random, number: int, first_step: int) -> tuple[list[Fault], str]:
    """When which rank is killed: every fourth time while the run starts, else in one of the next steps."""
    rank = numbers.randrange(2)
    if number % 4 == 0:
        return [], f"if rank == {rank}:\n    {KILL.format(seconds=numbers.uniform(0, 1.5))}\n"
    step = first_step + numbers.randint(1, MOST_STEPS)
    return [(step, rank, KILL.format(seconds=numbers.uniform(0, 0.05)))], ""


@pytest.mark.slow
def test_a_run_killed_twenty_times_ends_as_one_that_was_not_and_can_be_loaded_each_time(tmp_path: Path) -> None:
    shared = [f"train.steps={NUM_STEPS}", f"checkpoint.every_steps={EVERY}", "model.name=mlp"]
    seed = random.randrange(2**32)
    numbers, folder, step = random.Random(seed), tmp_path / "killed", 0
    for number in range(NUM_KILLS):
        faults, before = moment(numbers, number, step)
        done = run(tmp_path, "killed", faults, *shared, program=before + MAIN)
        said = f"seed {seed}, kill {number}: {done.stderr}"
        assert done.returncode == 137, said
        assert "Traceback" not in done.stderr, said
        assert "wash_hpc: error" not in done.stderr, said
        assert not (folder / "summary.json").exists(), said
        manifest = last_manifest(folder)
        if manifest is not None:
            assert manifest.step >= step, said
            step = manifest.step
            for member in range(2):
                read_member(folder, manifest, member)  # checks its checksum
        if metrics_files(folder):
            records = read_metrics(folder).step.tolist()
            assert records == list(range(1, len(records) + 1)), said
            assert len(records) - step <= 2 * EVERY, f"more is lost than the steps since the last checkpoint; {said}"
    assert step > 0
    done = run(tmp_path, "killed", [], *shared)
    assert done.returncode == 0, done.stderr
    assert run(tmp_path, "whole", [], *shared, "checkpoint.every_steps=0").returncode == 0
    whole = tmp_path / "whole"
    assert equal_weights(whole, folder), f"seed {seed}"
    assert read_metrics(folder).loss.tolist() == read_metrics(whole).loss.tolist()
    assert read_summary(folder).bytes_sent_per_member == read_summary(whole).bytes_sent_per_member
    assert not list(folder.glob("LOCK*"))
