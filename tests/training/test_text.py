"""Text and transformers from the command line to the soup, on real ranks."""

from __future__ import annotations

import json
import math
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.support import equal_weights, mpirun, tiny_config, train
from wash_hpc.data import open_source
from wash_hpc.data.source import Shard
from wash_hpc.ensemble.flat import Flat
from wash_hpc.methods.drawing import make_drawer
from wash_hpc.models import build_model
from wash_hpc.storage.metrics import read_metrics
from wash_hpc.storage.summary import read_summary

CONTEXT, WIDTH, STEPS = 16, 4, 30
SENTENCE = b"the quick brown fox jumps over the lazy dog, and the dog sleeps on. "


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A small language model on a text of two sentences a thousand bytes, with AdamW, layers by blocks."""
    file = tmp_path_factory.mktemp("text") / "text"
    file.write_bytes(SENTENCE * 40)
    return [
        *("data.name=text", f"data.path={file}", f"data.context={CONTEXT}", "data.batch_size=8", "data.held_out=0.1"),
        *("model.name=language_model", f"model.width={WIDTH}", f"train.steps={STEPS}"),
        *("optimizer.name=adamw", "optimizer.lr=0.01", "optimizer.schedule=constant", "ensemble.same_init=true"),
        *("method.p=0.2", "method.layer=block", "parallel.reducer=mpi"),
    ]


@pytest.fixture(scope="module")
def runs(keys: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """WASH on three ranks, and WASH+Opt on two."""
    folder = tmp_path_factory.mktemp("runs")
    return {
        "wash": train(folder, "wash", 3, *keys),
        "wash_opt": train(folder, "wash_opt", 2, *keys, "method.optimizer_state=true", "checkpoint.every_steps=10"),
    }


def expected_bytes(keys: list[str], num_members: int, num_rows: int) -> tuple[float, float]:
    """Mean and standard deviation of what a member sends: of what is picked, what moves."""
    flat = Flat(build_model("language_model", (CONTEXT,), 256, WIDTH))
    drawer = make_drawer(tiny_config(*keys), flat, num_members)
    moved = drawer.probabilities * (num_members - 1) / num_members
    mean, variance = moved @ drawer.layer_sizes, (moved * (1 - moved)) @ drawer.layer_sizes
    return 4 * num_rows * STEPS * mean, 4 * num_rows * math.sqrt(STEPS * variance)


@pytest.mark.parametrize(("name", "num_members", "num_rows"), [("wash", 3, 1), ("wash_opt", 2, 3)])
def test_a_language_model_learns_and_sends_what_the_formula_says(runs, keys, name, num_members, num_rows):
    metrics, summary = read_metrics(runs[name]), read_summary(runs[name])
    assert metrics.loss[0].max() < math.log(256)
    assert metrics.loss[-1].max() < 0.6 * math.log(256)
    assert summary.soup_accuracy > 0.2
    assert summary.samples_seen == 8 * STEPS
    mean, deviation = expected_bytes(keys, num_members, num_rows)
    assert abs(metrics.bytes_sent[-1] - mean).max() < 4 * deviation


def test_loss_and_accuracy_are_of_bytes_and_rates_are_of_windows(keys, tmp_path):
    """With a learning rate of zero the first record is the initial model's, on the batches that its member sees."""
    run = train(tmp_path, "still", 2, *keys, "optimizer.lr=0", "optimizer.min_lr=0", "method.name=independent")
    config = tiny_config(*keys)
    source = open_source(config, torch.device("cpu"))
    torch.manual_seed(0)
    model = build_model("language_model", (CONTEXT,), 256, WIDTH)
    model.load_state_dict(load_file(run / "members" / "member-0000.safetensors"))
    metrics = read_metrics(run)
    for member in range(2):
        batches = list(islice(source.train(member, Shard(), 8, 0), 4))
        with torch.no_grad():
            logits = torch.cat([model(batch.images) for batch in batches]).flatten(end_dim=-2)
        labels = torch.cat([batch.labels for batch in batches]).flatten()
        assert metrics.loss[0, member] == pytest.approx(float(torch.nn.functional.cross_entropy(logits, labels)))
        assert metrics.accuracy[0, member] == pytest.approx(float((logits.argmax(dim=1) == labels).double().mean()))
    seconds = metrics.data_seconds + metrics.compute_seconds + metrics.reduce_seconds + metrics.exchange_seconds
    assert np.allclose(metrics.images_per_second * seconds, 8)  # a member's windows a step


def test_a_run_on_text_that_was_stopped_in_mid_epoch_and_continued_equals_one_that_was_not(runs, keys, tmp_path):
    shared = [*keys, "method.optimizer_state=true", "checkpoint.every_steps=10"]
    train(tmp_path, "parts", 2, *shared, "train.steps=10")
    parts = train(tmp_path, "parts", 2, *shared, "checkpoint.resume=must")
    assert open_source(tiny_config(*keys), torch.device("cpu")).num_train // 8 == 17  # 10 steps are no whole epoch
    assert equal_weights(runs["wash_opt"], parts)
    assert read_summary(parts).soup_accuracy == read_summary(runs["wash_opt"]).soup_accuracy


def test_two_replicas_see_the_windows_of_one(keys, tmp_path):
    one = train(tmp_path, "one", 2, *keys, "ensemble.members=2", "train.steps=8")
    two = train(tmp_path, "two", 4, *keys, "ensemble.members=2", "train.steps=8")
    assert np.allclose(read_metrics(one).loss, read_metrics(two).loss, rtol=1e-4)
    assert (2 * read_metrics(one).values_moved[-1]).tolist() == read_metrics(two).values_moved[-1].tolist()


def test_a_finished_run_on_text_is_judged_again_and_averaged_in_every_way(runs):
    run = runs["wash"]
    summary = read_summary(run)
    done = mpirun(2, sys.executable, "-m", "wash_hpc", "evaluate", str(run), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["soup_accuracy"] == pytest.approx(summary.soup_accuracy)
    assert summary.greedy_soup_accuracy > 0.2
    for kind in ("greedy", "repair"):
        done = mpirun(2, sys.executable, "-m", "wash_hpc", "soup", str(run), "--kind", kind)
        assert done.returncode == 0, done.stderr
        weights = load_file(run / "members" / f"{kind}_soup.safetensors")
        build_model("language_model", (CONTEXT,), 256, WIDTH).load_state_dict(weights, strict=True)
    plain = load_file(run / "members" / "soup.safetensors")
    assert any(not torch.equal(tensor, plain[name]) for name, tensor in weights.items())  # no batch normalisation in it
    perplexity = float(done.stdout.split("test perplexity ")[1].split()[0])
    assert perplexity < 1.05 * math.exp(summary.scores["soup"]["nll"])  # REPAIR does members near each other no harm


def test_the_basin_between_members_on_text_is_analysed(runs):
    run = runs["wash"]
    done = mpirun(
        2,
        *(sys.executable, "tools/landscape.py", str(run), "--points=3", "--grid=2", "--eigenvalues=1", "--images=8"),
        "evaluate.batch_size=4",
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((run / "landscape" / "landscape.json").read_text())
    assert [spectrum["point"] for spectrum in found["eigenvalues"]] == ["member 0", "member 1", "member 2", "soup"]
    assert all(math.isfinite(loss) for line in found["lines"] for loss in line["raw"]["loss"])
    assert all(math.isfinite(bend) for line in found["curvature"] for bend in line["second_derivative"])


@pytest.mark.parametrize("model", ["vit_small", "mlp"])
def test_a_transformer_and_a_perceptron_of_images_are_trained_and_averaged(tmp_path, model):
    keys = [f"model.name={model}", "model.width=2", "ensemble.same_init=true", "method.layer=block", "train.steps=96"]
    run = train(tmp_path, model, 2, *keys, "optimizer.name=adamw", "optimizer.lr=0.01", "parallel.reducer=mpi")
    summary = read_summary(run)
    assert read_metrics(run).loss[-1].max() < math.log(4)
    assert summary.soup_accuracy > 0.5  # of four classes
    assert summary.bytes_sent_per_member > 0
