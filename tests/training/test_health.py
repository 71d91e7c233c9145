"""A member that becomes sick in a whole run: it stops at once and says who, or goes on without it and says so."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.support import TINY, final_weights, mpirun, warm
from wash_hpc.models import build_model
from wash_hpc.storage.metrics import read_metrics
from wash_hpc.storage.summary import read_summary

# The command line, where one replica of a member meets a bad batch at a step, or a fault of its memory after it.
SICK = """
import sys, time
from dataclasses import replace
from pathlib import Path
from wash_hpc.__main__ import main
from wash_hpc.member import Member

moment, place, what, *runs = sys.argv[1:]
step = Member.step

def fall_sick(self, batch, number):
    falls = number + 1 == at and "%d.%d" % self._place == place
    if falls:
        Path(moment).write_text(repr(time.time()))
    if falls and what == "batch":
        batch = replace(batch, images=batch.images * float("nan"))
    step(self, batch, number)
    if falls and what == "memory":
        self.flat.values.fill_(float("nan"))

Member.step = fall_sick
for run in runs:  # of the form STEP KEY=VALUE ...
    at, *overrides = run.split()
    at = int(at)
    status = main(["train", *overrides])
    assert status == 0
"""


def sick_runs(folder: Path, num_ranks: int, place: str, what: str, *runs: str) -> subprocess.CompletedProcess[str]:
    """Runs one after the other in one job; each is the step of sickness and what is to be different from TINY."""
    config = folder / "tiny.yaml"
    config.write_text("{}\n")
    shared = " ".join([str(config), *TINY, f"run.dir={folder}", "optimizer.schedule=constant"])
    given = [f"{run.split()[0]} {shared} {' '.join(run.split()[1:])}" for run in runs]
    return mpirun(num_ranks, sys.executable, "-c", SICK, str(folder / "moment"), place, what, *given)


@pytest.mark.parametrize(
    ("num_ranks", "what", "overrides"),
    [
        (3, "batch", "parallel.reducer=horovod"),
        (4, "batch", "parallel.reducer=horovod ensemble.members=2 method.overlap=true"),
        (4, "memory", "parallel.reducer=mpi ensemble.members=2"),  # one replica alone: the others do not know
        (3, "batch", "parallel.reducer=mpi method.topology=ring method.overlap=true"),  # a member that rests does not
    ],
)
def test_a_run_with_a_sick_member_ends_within_ten_seconds_and_names_step_and_member_once(
    tmp_path, num_ranks, what, overrides
):
    done = sick_runs(tmp_path, num_ranks, "1.0", what, f"4 run.name=sick {overrides}")
    ended = time.time()
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("wash_hpc: error:") == 1
    assert "wash_hpc: error: step 4: member 1 sent values that are not finite; nobody has taken them" in done.stderr
    assert "method.quarantine=true" in done.stderr
    assert "Traceback" not in done.stderr
    assert ended - float((tmp_path / "moment").read_text()) < 10
    assert not (tmp_path / "sick" / "summary.json").exists()


def bits(weights: dict[str, torch.Tensor]) -> dict[str, bytes]:
    """NaN included."""
    return {name: tensor.numpy().tobytes() for name, tensor in weights.items()}


@pytest.fixture(scope="module")
def quarantined(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs in which member 1 is sick from step 3 on, or, overlapped, while the checkpoint of step 5 is written."""
    folder = tmp_path_factory.mktemp("quarantined")
    shared = "method.quarantine=true checkpoint.every_steps=5 parallel.reducer=mpi train.steps=9"
    runs = []
    for name, at, overlap in (("plain", 3, "false"), ("overlapped", 5, "true")):
        run = f"{at} {shared} method.overlap={overlap} run.name={name}"
        resumed = f"{run}-resumed checkpoint.resume=auto"
        runs += [run, f"{resumed} train.steps=5", resumed]
    done = sick_runs(folder, 3, "1.0", "batch", *runs)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("name", ["plain", "overlapped"])
def test_a_run_with_quarantine_goes_on_without_the_sick_member_and_says_so(quarantined, name):
    run = quarantined / name
    members = final_weights(run)
    healthy = [all(bool(torch.isfinite(tensor).all()) for tensor in weights.values()) for weights in members]
    assert healthy == [True, False, True]
    summary = read_summary(run)
    assert summary.left_out_members == [1]
    assert all(value is not None and np.isfinite(value) for value in (summary.soup_accuracy, summary.ensemble_accuracy))
    soup = load_file(run / "members" / "soup.safetensors")
    for key, _ in build_model("resnet_small", (3, 8, 8), 4, 4).named_parameters():
        mean = (members[0][key].double() + members[2][key].double()) / 2
        assert torch.equal(soup[key], mean.float())
    moved = read_metrics(run).values_moved  # at steps 4, 8 and 9
    assert moved[-1][1] == moved[1][1]
    assert np.all(np.diff(moved[:, [0, 2]], axis=0) > 0)


@pytest.mark.parametrize("name", ["plain", "overlapped"])
def test_a_quarantined_run_that_was_stopped_and_continued_equals_one_that_was_not(quarantined, name):
    whole, parts = quarantined / name, quarantined / f"{name}-resumed"
    assert [bits(weights) for weights in final_weights(whole)] == [bits(weights) for weights in final_weights(parts)]
    assert read_metrics(whole).bytes_sent[-1].tolist() == read_metrics(parts).bytes_sent[-1].tolist()
    first, second = read_summary(whole), read_summary(parts)
    assert (first.left_out_members, first.soup_accuracy) == (second.left_out_members, second.soup_accuracy)
    assert len(list((parts / "metrics").iterdir())) == 2


def test_commands_on_a_run_with_quarantine_say_who_was_left_out(quarantined, tmp_path):
    run = str(quarantined / "plain")

    def command(*words: str) -> str:
        done = subprocess.run(warm(*words), capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    table = command(sys.executable, "tools/summarize.py", run).splitlines()
    assert "plain: without member 1, whose weights are not finite." in table
    judged = json.loads(command("wash-hpc", "evaluate", run, "--json"), parse_constant=pytest.fail)
    assert [accuracy is None for accuracy in judged["member_accuracy"]] == [False, True, False]
    soup = command("wash-hpc", "soup", run, "--output", str(tmp_path / "soup.safetensors"))
    assert "uniform soup of members 0, 2;" in soup


@pytest.mark.parametrize(
    "overrides",
    [
        ["method.quarantine=true", "parallel.reducer=horovod"],
        ["method.name=independent", "parallel.reducer=mpi"],  # nobody exchanges: found when they are judged
    ],
)
def test_a_run_in_which_all_members_are_sick_ends_with_a_sentence(tmp_path, overrides):
    config = tmp_path / "tiny.yaml"
    config.write_text("{}\n")
    command = ["wash-hpc", "train", str(config), *TINY, f"run.dir={tmp_path}", "optimizer.lr=1e30", *overrides]
    done = mpirun(3, *command)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("wash_hpc: error:") == 1
    assert "not finite" in done.stderr or "no member has finite weights" in done.stderr
    assert "optimizer.lr" in done.stderr
    assert "Traceback" not in done.stderr
