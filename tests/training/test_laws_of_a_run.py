"""The laws that whole runs obey, on real ranks started by mpirun through the command line."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support import TINY, equal_weights, final_weights, mpirun, tiny_config, train
from wash_hpc.config import load_run_config
from wash_hpc.data.regularize import describe_regularization
from wash_hpc.ensemble.flat import Flat
from wash_hpc.methods.drawing import make_drawer
from wash_hpc.models import build_model
from wash_hpc.storage.kept import last_manifest
from wash_hpc.storage.metrics import read_metrics
from wash_hpc.storage.summary import Summary, read_summary

MLP = "model.name=mlp"

# Three values each: every member of a run draws its own combination.
HETEROGENEOUS = [
    "train.mixup=[0.3,0.5,1]",
    "train.cutmix=[0.3,0.5,1]",
    "train.label_smoothing=[0.02,0.05,0.1]",
    "train.random_erasing=[0.3,0.6,0.9]",
]


def initial_weights(config_overrides: list[str], member: int) -> dict[str, torch.Tensor]:
    """A member's weights before the first step, made anew in this process."""
    from wash_hpc.data import open_source
    from wash_hpc.train import make_initial_model

    config = tiny_config(*config_overrides)
    return make_initial_model(
        config, open_source(config, torch.device("cpu")), member, torch.device("cpu")
    ).state_dict()


def test_probability_zero_is_independent_runs_bit_for_bit_and_sends_nothing(tmp_path):
    zero = train(tmp_path, "zero", 3, "method.p=0")
    independent = train(tmp_path, "independent", 3, "method.name=independent")
    assert equal_weights(zero, independent)
    assert read_summary(zero).bytes_sent_per_member == 0
    assert read_metrics(zero).bytes_sent.max() == 0


def test_p_auto_is_the_number_that_it_says_bit_for_bit_and_is_written_down_as_it_was_given(tmp_path):
    given = train(tmp_path, "given", 2, "method.p=1")
    auto = train(tmp_path, "auto", 2, "method.p=auto")  # one, in eight steps
    assert equal_weights(given, auto)
    assert load_run_config(auto).method.p is None


def test_a_single_member_is_left_as_it_is(tmp_path):
    alone = train(tmp_path, "alone", 1)
    independent = train(tmp_path, "independent", 1, "method.name=independent")
    assert equal_weights(alone, independent)
    assert read_summary(alone).bytes_sent_per_member == 0


def test_wash_is_the_serial_shuffle_of_independent_members(tmp_path):
    """With a learning rate of zero a run is nothing but shuffles: the reference, applied to the initial weights."""
    from wash_hpc.shuffle.reference import shuffle_members

    overrides = ["optimizer.lr=0", "optimizer.min_lr=0", MLP, "method.every=2", "method.start=1", "method.stop=6"]
    run = train(tmp_path, "shuffles", 3, *overrides)
    models = [build_model("mlp", (3, 8, 8), 4, 4) for _ in range(3)]
    for member, model in enumerate(models):
        model.load_state_dict(initial_weights(overrides, member))
    flats = [Flat(model) for model in models]
    drawer = make_drawer(tiny_config(*overrides), flats[0], 3)
    values = torch.stack([flat.values.detach() for flat in flats])
    for step in (3, 5):  # after steps 3 and 5: every second one in (1, 6]
        values = shuffle_members(values, drawer.draw(step))
    for flat, model, row, final in zip(flats, models, values, final_weights(run), strict=True):
        flat.values.data.copy_(row)
        assert all(torch.equal(final[name], tensor) for name, tensor in model.state_dict().items())


def test_wash_changes_what_independent_members_would_have_been(tmp_path):
    assert not equal_weights(train(tmp_path, "wash", 2), train(tmp_path, "independent", 2, "method.name=independent"))


def test_two_runs_of_one_seed_are_equal_bit_for_bit_and_of_two_seeds_are_not(tmp_path):
    first, again = (train(tmp_path, name, 2) for name in ("first", "again"))
    assert equal_weights(first, again)
    assert not equal_weights(first, train(tmp_path, "other", 2, "run.seed=1"))


@pytest.mark.parametrize(
    ("optimizer", "overlap", "regularization"),
    [("sgd", "false", HETEROGENEOUS), ("adam", "false", []), ("sgd", "true", [])],
    ids=["sgd-regularised", "adam", "overlapped"],
)
def test_a_run_that_was_stopped_and_continued_equals_one_that_was_not(tmp_path, optimizer, overlap, regularization):
    """k steps + restart + (n - k) steps = n steps, with momentum, statistics, augmentation, in mid-epoch."""
    shared = [f"optimizer.name={optimizer}", "optimizer.schedule=constant", "checkpoint.every_steps=5"]
    shared += ["method.optimizer_state=true", f"method.overlap={overlap}", *regularization]
    num_ranks = 3
    if overlap == "true":  # two members, each on two ranks
        shared += ["ensemble.members=2"]
        num_ranks = 4
    whole = train(tmp_path, "whole", num_ranks, *shared)
    train(tmp_path, "parts", num_ranks, *shared, "train.steps=5")
    parts = train(tmp_path, "parts", num_ranks, *shared, "checkpoint.resume=must")
    assert equal_weights(whole, parts)
    assert sorted(path.name for path in (parts / "metrics").iterdir()) == ["0000.h5", "0001.h5"]
    first, second = read_metrics(whole), read_metrics(parts)
    assert first.bytes_sent[-1].tolist() == second.bytes_sent[-1].tolist()
    assert np.all(np.diff(second.step) > 0)
    keys = (
        "soup_accuracy",
        "ensemble_accuracy",
        "bytes_sent_per_member",
        "steps",
        "samples_seen",
        "consensus_distance",
    )
    assert [getattr(read_summary(whole), key) for key in keys] == [getattr(read_summary(parts), key) for key in keys]


def test_averages_over_steps_survive_a_restart_bit_for_bit_and_change_nothing_else(tmp_path):
    """Snapshots of steps 2, 5 and 8, a checkpoint in their midst; no likelihood may differ in its last bit."""
    averages = ["average.ema=0.7", "average.last=3", "average.last_every=3"]
    shared = ["checkpoint.every_steps=3", "optimizer.schedule=constant"]
    plain = train(tmp_path, "plain", 2, *shared)
    whole = train(tmp_path, "whole", 2, *shared, *averages)
    assert equal_weights(plain, whole)
    parts = tmp_path / "parts"
    shutil.copytree(whole, parts)
    for left in (parts / "summary.json", parts / "checkpoints" / "step-00000008"):
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    train(tmp_path, "parts", 2, *shared, *averages, "checkpoint.resume=must")
    assert (parts / "metrics" / "0001.h5").is_file()
    first, second = read_summary(whole), read_summary(parts)
    assert first.scores == second.scores
    made = {"ema", "ema_soup", "last", "last_soup"}
    assert made <= set(first.scores)
    assert not made & set(read_summary(plain).scores)
    assert len({first.scores[name]["nll"] for name in (*made, "member", "soup")}) == 6


def test_a_run_too_short_for_its_snapshots_is_refused_before_anything_is_written(tmp_path):
    (tmp_path / "c.yaml").write_text("{}\n")
    command = [sys.executable, "-m", "wash_hpc", "train", str(tmp_path / "c.yaml"), *TINY, f"run.dir={tmp_path}/runs"]
    done = mpirun(2, *command, "average.last=4", "average.last_every=3")
    assert done.returncode == 2
    assert (
        done.stderr.count("average.last=4, average.last_every=3: the run has only 8 steps, expected at least 10") == 1
    )
    assert not (tmp_path / "runs").exists()


def test_regularisation_reaches_the_training_and_what_each_member_drew_is_written_down(tmp_path):
    plain, regularised = (
        train(tmp_path, name, 1, *keys) for name, keys in (("plain", []), ("regularised", HETEROGENEOUS))
    )
    assert not equal_weights(plain, regularised)
    drawn = describe_regularization(tiny_config(*HETEROGENEOUS), 1)
    assert drawn.count(", ") == 3
    assert read_metrics(regularised).attributes["regularization"] == drawn
    assert read_metrics(plain).attributes["regularization"] == ""


KILLED = """
import os, signal, sys
from wash_hpc.__main__ import main
from wash_hpc.member import Member
step = Member.step
def die(self, batch, number):
    if number == 6 and self._place == (1, 0):
        os.kill(os.getpid(), signal.SIGKILL)
    step(self, batch, number)
Member.step = die
sys.exit(main(sys.argv[1:]))
"""


def test_a_run_killed_in_mid_step_continues_to_the_same_weights(tmp_path):
    """SIGKILL of one rank in step 7, last checkpoint at 4 or 6, a learning rate that follows a cosine."""
    whole = train(tmp_path, "whole", 2, "checkpoint.every_steps=2")
    where = [f"run.dir={tmp_path}", "run.name=killed", "checkpoint.every_steps=2"]
    done = mpirun(2, sys.executable, "-c", KILLED, "train", str(tmp_path / "tiny.yaml"), *TINY, *where)
    assert done.returncode != 0
    assert not (tmp_path / "killed" / "summary.json").exists()
    manifest = last_manifest(tmp_path / "killed")
    assert manifest is not None
    assert manifest.step in (4, 6)  # that of 6 was begun when that of 4 was complete
    continued = train(tmp_path, "killed", 2, "checkpoint.every_steps=2", "checkpoint.resume=must")
    assert equal_weights(whole, continued)
    assert not list((tmp_path / "killed").rglob("*.new"))
    assert read_metrics(continued).step.tolist() == read_metrics(whole).step.tolist() == [4, 8]


def test_a_finished_run_started_again_stays_as_it_was(tmp_path):
    run = train(tmp_path, "run", 2, "checkpoint.every_steps=4")
    before, records = final_weights(run), read_metrics(run)
    train(tmp_path, "run", 2, "checkpoint.every_steps=4", "checkpoint.resume=auto")
    assert all(torch.equal(a[key], b[key]) for a, b in zip(before, final_weights(run), strict=True) for key in a)
    again = read_metrics(run)
    assert again.step.tolist() == records.step.tolist()
    assert again.evaluate_step.tolist() == records.evaluate_step.tolist()


def test_a_run_is_continued_from_its_start_where_it_has_no_checkpoint_yet(tmp_path):
    first = train(tmp_path, "first", 2)
    second = train(tmp_path, "second", 2, "checkpoint.resume=auto")
    assert equal_weights(first, second)
    (second / "summary.json").unlink()  # as if it had not finished
    assert equal_weights(first, train(tmp_path, "second", 2, "checkpoint.resume=auto"))
    assert (second / "summary.json").exists()


def test_records_can_be_read_by_another_process_while_the_run_goes_on(tmp_path):
    config = tmp_path / "tiny.yaml"
    config.write_text("{}\n")
    where = [f"run.dir={tmp_path}", "run.name=live", "train.steps=400", "log.every_steps=1"]
    command = ["mpirun", "-n", "2", "wash-hpc", "train", str(config), *TINY, *where]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        seen = 0
        deadline = time.monotonic() + 120
        while seen < 3 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
            if list((tmp_path / "live" / "metrics").glob("*.h5")):
                seen = len(read_metrics(tmp_path / "live").step)
        assert process.poll() is None, "the run ended before anything could be read"
        assert seen >= 3
        attributes = read_metrics(tmp_path / "live").attributes
        assert "method:" in str(attributes["config"])
        assert (attributes["num_ranks"], attributes["num_members"], attributes["num_replicas"]) == (2, 2, 1)
        assert attributes["hosts"]
        assert attributes["torch_version"] == torch.__version__
    finally:
        process.terminate()
        process.wait(timeout=60)


@pytest.mark.parametrize(
    ("reducer", "regularization"),
    [("horovod", []), ("mpi", []), ("mpi", HETEROGENEOUS)],
    ids=["horovod", "mpi", "mpi-regularised"],
)
def test_two_replicas_with_half_the_batch_each_equal_one_replica_to_rounding(tmp_path, reducer, regularization):
    """No normalisation: batch statistics of half a batch are not those of the whole."""
    shared = [MLP, f"parallel.reducer={reducer}", "ensemble.members=2", "checkpoint.every_steps=8", *regularization]
    one = train(tmp_path, "one", 2, *shared)
    two = train(tmp_path, "two", 4, *shared)
    assert (read_summary(one).num_replicas, read_summary(two).num_replicas) == (1, 2)
    for first, second in zip(final_weights(one), final_weights(two), strict=True):
        assert all(torch.allclose(first[key], second[key], rtol=1e-4, atol=1e-6) for key in first)
    moved = read_metrics(one).values_moved[-1], read_metrics(two).values_moved[-1]
    assert (2 * moved[0]).tolist() == moved[1].tolist()  # each replica exchanges with its own column


@pytest.mark.parametrize("schedule", ["decreasing", "constant", "increasing"])
def test_bytes_sent_over_a_run_are_within_three_standard_deviations_of_the_formula(tmp_path, schedule):
    overrides = [f"method.schedule={schedule}", "method.p=0.1"]
    run = train(tmp_path, schedule, 4, *overrides)
    model = build_model("resnet_small", (3, 8, 8), 4, 4)
    drawer = make_drawer(tiny_config(*overrides), Flat(model), 4)
    num_steps = 8
    p = drawer.probabilities * 3 / 4  # picked, and not left in place
    deviation = np.sqrt(num_steps * np.sum(p * (1 - p) * drawer.layer_sizes))
    moved, sent = read_metrics(run).values_moved[-1], read_metrics(run).bytes_sent[-1]
    assert (sent == 4 * moved).all()
    assert np.all(np.abs(moved - num_steps * drawer.most_expected_moved) < 3 * deviation)


@pytest.mark.parametrize("same_init", [True, False])
def test_members_start_from_the_same_or_from_different_weights(tmp_path, same_init):
    overrides = ["optimizer.lr=0", "optimizer.min_lr=0", "method.name=independent", f"ensemble.same_init={same_init}"]
    run = train(tmp_path, "run", 2, *overrides)
    first, second = final_weights(run)
    names = [name for name in first if name.endswith("weight") and first[name].dim() == 4]
    assert all(torch.equal(first[name], second[name]) == same_init for name in names)
    assert (read_summary(run).consensus_distance == 0) == same_init


def test_a_run_leaves_the_files_of_the_contract(tmp_path):
    run = train(tmp_path, "run", 2, "checkpoint.every_steps=4", "evaluate.every_epochs=1")
    files = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    parts = ("manifest.json", "member-0000.safetensors", "member-0001.safetensors")
    assert files == {
        "config.yaml",
        "metrics/0000.h5",
        "summary.json",
        "members/member-0000.safetensors",
        "members/member-0001.safetensors",
        "members/soup.safetensors",
        "members/greedy_soup.safetensors",
        *(f"checkpoints/step-{step:08d}/{name}" for step in (4, 8) for name in parts),
    }
    summary = json.loads((run / "summary.json").read_text())
    assert list(summary) == list(Summary.__dataclass_fields__)
    metrics = read_metrics(run)
    assert metrics.step.tolist() == [4, 8]
    assert metrics.evaluate_step.tolist() == [6, 8]  # six batches of eight in 48 training images; the end
    assert np.isfinite(metrics.loss).all()
    assert metrics.soup_accuracy[-1] == summary["soup_accuracy"]
    assert np.isclose(metrics.consensus_distance[-1], summary["consensus_distance"])
    assert np.isclose(np.sqrt(np.sum(metrics.consensus_distance_per_layer[-1] ** 2)), metrics.consensus_distance[-1])


def test_soup_is_the_mean_of_the_members_and_loads_into_the_model(tmp_path):
    from safetensors.torch import load_file

    run = train(tmp_path, "run", 3)
    members = final_weights(run)
    soup = load_file(run / "members" / "soup.safetensors")
    model = build_model("resnet_small", (3, 8, 8), 4, 4)
    model.load_state_dict(soup, strict=True)
    for name, _ in model.named_parameters():
        mean = torch.stack([member[name].double() for member in members]).mean(dim=0)
        assert torch.allclose(soup[name].double(), mean, rtol=0, atol=1e-7)


def test_dali_run_that_was_stopped_and_continued_equals_one_that_was_not(tmp_path, digits_folder: Path):
    shared = ["data.name=image_folder", f"data.path={digits_folder}", "data.image_size=16", "data.resize=16"]
    shared += ["checkpoint.every_steps=3", "optimizer.schedule=constant", "train.steps=6", "data.workers=1"]
    shared += HETEROGENEOUS
    whole = train(tmp_path, "whole", 2, *shared)
    train(tmp_path, "parts", 2, *shared, "train.steps=3")
    assert equal_weights(whole, train(tmp_path, "parts", 2, *shared, "checkpoint.resume=auto"))
