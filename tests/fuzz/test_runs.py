"""Configurations that load: each run of some steps finishes, or ends with a sentence."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.fuzz.inputs import batch
from tests.support import TINY

ANY: dict[str, list[Any]] = {
    "run.seed": [1, 2**63 - 1],
    "model.name": ["mlp", "vit_small", "language_model", "resnet_smal"],
    "model.width": [1, 3],
    "data.name": ["digits", "text", "image_folder", "cifar10"],
    "data.batch_size": [1, 2, 3, 48, 64, 2**24],
    "data.held_out": [0, 0.5, 0.999],
    "data.image_size": [9, 12],
    "data.num_images": [1, 2, 7],
    "data.num_classes": [2, 100],
    "data.crop_padding": [0, 8, 2**10],
    "data.augment": [False],
    "data.context": [1, 7, 4096],
    "train.steps": [1, 2],
    "train.precision": ["bf16", "fp16"],
    "train.channels_last": [True],
    "train.accumulate": [2, 3, 8, 2**53],
    "train.mixup": [0.2, 1e-320, 1e-3, 1e308],
    "train.cutmix": [1, 1e-320, 1e308],
    "train.label_smoothing": [0.1, 0.999],
    "train.random_erasing": [1],
    "optimizer.name": ["adam", "adamw"],
    "optimizer.lr": [0, 1e-320, 1e308],
    "optimizer.min_lr": [0, 1],
    "optimizer.schedule": ["constant"],
    "optimizer.warmup_steps": [1, 100, 2**53],
    "optimizer.momentum": [0, 0.999999],
    "optimizer.nesterov": [True],
    "optimizer.weight_decay": [0, 1e308],
    "method.name": ["papa", "papa_all", "sparta", "diloco", "local_sgd", "independent", "data_parallel"],
    "method.p": [0, 1e-320, 1e-9, 1],
    "method.p_schedule": ["lr", "cosine", "linear"],
    "method.schedule": ["increasing", "constant"],
    "method.layer": ["block", "module"],
    "method.every": [1, 2**53],
    "method.start": [2, 2**53],
    "method.stop": [1, 2],
    "method.draw": ["partitioned"],
    "method.topology": ["node", "ring"],
    "method.overlap": [True],
    "method.optimizer_state": [True],
    "method.quarantine": [True],
    "method.outer_lr": [1e-320, 1e308],
    "method.alpha": [0, 1],
    "method.then": ["[{name: papa, every: 1}]", "[{name: sparta, p: 0.5, every: 1}, {name: wash}]"],
    "average.ema": [0.5, 0.9999],
    "average.last": [2, 2**53],
    "average.last_every": [1, 2**53],
    "log.every_steps": [1, 2**53],
    "log.consensus_every_steps": [0, 1],
    "evaluate.batch_size": [1, 2**24],
    "evaluate.every_epochs": [1, 2**53],
    "evaluate.statistics_images": [1, 2**53],
    "checkpoint.every_steps": [1, 2**53],
    "parallel.reducer": ["mpi"],
    "ensemble.members": [1, 2],
}

RUNNER = """
import json, signal, sys, traceback
from wash_hpc.errors import WashError
from wash_hpc.train import train
signal.alarm(500)
for number, overrides in enumerate(json.load(sys.stdin)):
    print(number, "began", flush=True)
    try:
        train(sys.argv[1], [*overrides, f"run.name=run-{number}"])
        print(number, "finished", flush=True)
    except WashError as error:
        print(number, "refused:", error, flush=True)
    except BaseException as error:
        traceback.print_exc()
        print(number, "FAILED", overrides, flush=True)
print("all")
"""


def test_a_run_of_any_values_finishes_or_ends_with_a_sentence(tmp_path: Path) -> None:
    folder = tmp_path
    num_runs, random = batch(30)
    runs = [
        [f"{key}={random.choice(ANY[key])}" for key in random.sample(sorted(ANY), random.randrange(1, 4))]
        for _ in range(num_runs)
    ]
    (folder / "text.txt").write_text("some words, again and again; " * 400)
    (folder / "tiny.yaml").write_text("{}\n")
    always = [*TINY, "train.steps=3", f"run.dir={folder}", f"data.path={folder}/text.txt", "parallel.device=cpu"]
    given_in = json.dumps([[*always, *run] for run in runs])
    command = [sys.executable, "-c", RUNNER, str(folder / "tiny.yaml")]
    done = subprocess.run(command, input=given_in, capture_output=True, text=True, check=False, cwd=Path.cwd())
    failed = [line for line in done.stdout.splitlines() if " FAILED " in line]
    assert not failed, "\n".join([*failed, done.stderr[-3000:]])
    assert done.stdout.endswith("all\n"), f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    assert "finished" in done.stdout
