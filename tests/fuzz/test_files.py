"""Damaged files of every kind are read right, or refused with a sentence that names them; no traceback, no crash."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

from tests.fuzz.inputs import batch, damaged, damages, examples, random_damages
from tests.support import tiny_config
from wash_hpc.config import dump_config, load_run_config
from wash_hpc.data.cifar import load_cifar100
from wash_hpc.data.fashion_mnist import read_idx
from wash_hpc.data.shard_images import open_shards
from wash_hpc.data.shards import write_index
from wash_hpc.errors import WashError
from wash_hpc.file_soup import make_file_soup
from wash_hpc.models import build_model
from wash_hpc.report.runs import Run, read_runs
from wash_hpc.report.table import csv_text, print_table
from wash_hpc.storage.checkpoint import Manifest, MemberState, read_manifest, read_member, write_manifest, write_member
from wash_hpc.storage.metrics import MetricsWriter
from wash_hpc.storage.records import EVALUATE, TRAIN, EvaluationRecord, TrainRecord
from wash_hpc.storage.summary import Summary, summary_object, write_summary
from wash_hpc.storage.weights import load_model, save_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damaged")


def read_or_refused(read: Callable[[], Any], named: Path) -> Any:
    """What is read, or None where it is refused with the name of the file."""
    refused = ""
    try:
        return read()
    except WashError as error:
        refused = str(error)
    assert str(named) in refused
    assert len(refused.splitlines()) == 1
    return None


MODEL = build_model("mlp", (1, 4, 4), 3, 1)


@examples(60)
@given(how=damages())
def test_weights(folder: Path, how: Any) -> None:
    good, bad = folder / "good.safetensors", folder / "bad.safetensors"
    if not good.exists():
        save_model(good, MODEL)
    bad.write_bytes(damaged(good.read_bytes(), how))
    read_or_refused(lambda: load_model(bad, build_model("mlp", (1, 4, 4), 3, 1)), bad)
    read_or_refused(lambda: make_file_soup([good, bad], folder / "soup.safetensors"), bad)


@examples(40)
@given(how=damages())
def test_files_of_torch_save(folder: Path, how: Any) -> None:
    good, bad = folder / "good.pt", folder / "bad.pt"
    if not good.exists():
        torch.save(MODEL.state_dict(), good)
    bad.write_bytes(damaged(good.read_bytes(), how))
    read_or_refused(lambda: make_file_soup([good, bad], folder / "soup.safetensors"), bad)


@examples(60)
@given(how=damages(), manifest=st.booleans())
def test_checkpoints(folder: Path, how: Any, manifest: bool) -> None:
    run = folder / "checkpointed"
    if not run.exists():
        state = MemberState({"values": torch.arange(40.0)}, {"turn": torch.tensor(3)}, {})
        checksum = write_member(run, 8, 0, state)
        write_manifest(run, Manifest(8, 1, 40, 0, "sgd", [1], [4], 1.0, {"member-0000.safetensors": checksum}))
        shutil.copytree(run, folder / "whole")
    file = run / "checkpoints/step-00000008" / ("manifest.json" if manifest else "member-0000.safetensors")
    whole = (folder / "whole" / file.relative_to(run)).read_bytes()
    file.write_bytes(damaged(whole, how))
    try:
        found = read_or_refused(lambda: read_manifest(run, 8), file)
        assert found in (None, read_manifest(folder / "whole", 8))
        if found is not None and not manifest:
            read = read_or_refused(lambda: read_member(run, found, 0), file)
            assert read is None or torch.equal(read.own["values"], torch.arange(40.0))
    finally:
        file.write_bytes(whole)


@examples(60)
@given(how=damages())
def test_configurations_of_runs(folder: Path, how: Any) -> None:
    file = folder / "config.yaml"
    file.write_bytes(damaged(dump_config(tiny_config()).encode(), how))
    refused = ""
    try:
        load_run_config(folder)
    except WashError as error:
        refused = str(error)
    assert len(refused.splitlines()) <= 1


def summary(**changes: Any) -> Summary:
    of_kind = {
        "str": "x",
        "int": 3,
        "float": 0.5,
        "float | None": 0.5,
        "list[int]": [1],
        "list[float | None]": [0.5, None],
    }
    values = {
        key.name: of_kind.get(str(key.type), {"soup": {"nll": 0.5}} if key.name == "scores" else {"data": 0.1})
        for key in fields(Summary)
    }
    return Summary(**{**values, "metric": "perplexity", **changes})


def show(run: Path) -> None:
    """All that tools/summarize.py makes of a run but its curves, which need metrics."""
    runs, problems = read_runs([run])
    if problems:
        assert len(problems) == 1
        assert str(run) in problems[0]
        return
    summaries = [one.summary for one in runs]
    text = io.StringIO()
    for terminal in (True, False):
        print_table(Console(file=text, force_terminal=terminal, width=100), summaries)
    shown = text.getvalue().replace("\x1b[1m", "").replace("\x1b[2m", "").replace("\x1b[0m", "")
    assert "\x1b" not in shown
    (csv_text([Run(Path("a"), one.name, one, "") for one in summaries]) + text.getvalue()).encode()
    json.dumps([summary_object(one) for one in summaries], allow_nan=False)


@examples(100)
@given(how=damages())
def test_summaries(folder: Path, how: Any) -> None:
    run = folder / "summarized"
    if not run.exists():
        run.mkdir()
        (run / "config.yaml").write_text("{}")
        write_summary(folder, summary())
    (run / "summary.json").write_bytes(damaged((folder / "summary.json").read_bytes(), how))
    show(run)


ODD = (
    st.text(max_size=9)
    | st.integers()
    | st.floats()
    | st.none()
    | st.sampled_from([10**400, "\x1b]0;x\x07", "\ud800", True, [], {}, [{}], {"a": {"b": 1e300}}])
)


@examples(100)
@given(changes=st.dictionaries(st.sampled_from([key.name for key in fields(Summary)]), ODD, max_size=4))
def test_summaries_with_odd_values(folder: Path, changes: dict[str, Any]) -> None:
    run = folder / "odd"
    run.mkdir(exist_ok=True)
    (run / "config.yaml").write_text("{}")
    (run / "summary.json").write_text(json.dumps({**summary_object(summary()), **changes}))
    show(run)


@examples(40)
@given(how=damages())
def test_cifar_files(folder: Path, how: Any) -> None:
    root = folder / "cifar-100-python"
    if not root.exists():
        root.mkdir()
        content = {"data": np.arange(2 * 3072, dtype=np.uint8).reshape(2, 3072), "fine_labels": [3, 99]}
        (root / "train").write_bytes(pickle.dumps(content, protocol=2))
    (root / "test").write_bytes(damaged((root / "train").read_bytes(), how))
    read_or_refused(lambda: load_cifar100(str(folder)), root / "test")


@examples(40)
@given(how=damages(), packed=st.booleans())
def test_idx_files(folder: Path, how: Any, packed: bool) -> None:
    content = bytes([0, 0, 8, 3, *(n for size in (2, 4, 4) for n in (0, 0, 0, size)), *range(32)])
    file = folder / ("idx.gz" if packed else "idx")
    file.write_bytes(damaged(gzip.compress(content) if packed else content, how))
    read_or_refused(lambda: read_idx(file, 3), file)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shards")
    for split in ("train", "val"):
        with tarfile.open(root / f"{split}-0.tar", "w", format=tarfile.PAX_FORMAT) as tar:
            for number in range(4):
                for name, content in (
                    (f"é{number}.jpg", b"\xff\xd8" + bytes(700)),
                    (f"é{number}.cls", b"%d" % (number % 2)),
                ):
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    write_index(root)
    shutil.copytree(root, root / "whole")
    return root


@examples(80)
@given(how=damages(), name=st.sampled_from(["train-0.tar", "index.npz"]))
def test_shards_and_their_index(shards: Path, how: Any, name: str) -> None:
    with_index = name == "index.npz"
    shutil.copy(shards / "whole/train-0.tar", shards)
    shutil.copy(shards / "whole/index.npz", shards)
    (shards / name).write_bytes(damaged((shards / name).read_bytes(), how))
    if not with_index:
        (shards / "index.npz").unlink()

    def read_all() -> None:
        splits = open_shards(str(shards))
        for images in (splits.train, splits.test):
            images.inputs(np.arange(len(images)))
            for position in range(len(images)):
                images.find_fault(position)

    read_or_refused(read_all, shards)


def metrics_record(kind: type[Any], step: int) -> Any:
    shapes = {"": (), "member": (2,), "layer": (2,)}
    table = TRAIN if kind is TrainRecord else EVALUATE
    values = {one.field: np.full(shapes[one.axis], 0.5 * step, one.dtype) for one in table}
    return kind(**{**values, "step": step})


READER = """
import signal, sys
from pathlib import Path
import resource
resource.setrlimit(resource.RLIMIT_AS, (2**32, 2**32))
from wash_hpc.errors import WashError
from wash_hpc.report.page import page_text
from wash_hpc.report.runs import read_runs, with_metrics
signal.alarm(int(sys.argv[2]))
for folder in sorted(Path(sys.argv[1]).iterdir()):
    print(folder.name, flush=True)
    runs, problems = with_metrics(read_runs([folder])[0])
    assert all(str(folder) in problem for problem in problems), problems
    page_text(runs).encode()
    print("refused" if problems else "read", flush=True)
print("all")
"""


def test_metrics(tmp_path_factory: pytest.TempPathFactory) -> None:
    """In a process of its own: HDF5 is C, and a damaged file could end it, or keep it for ever."""
    folder = tmp_path_factory.mktemp("metrics")
    with MetricsWriter(folder / "whole", 2, ["a", "b"], {"config": "run: {}\n" * 40, "first_step": 0}) as writer:
        for step in range(1, 4):
            writer.append_train(metrics_record(TrainRecord, step))
            writer.append_evaluation(metrics_record(EvaluationRecord, step))
    whole = (folder / "whole/metrics/0000.h5").read_bytes()
    num_runs, random = batch(60)
    for number in range(num_runs):
        run = folder / "runs" / f"{number:02d}"
        (run / "metrics").mkdir(parents=True)
        (run / "config.yaml").write_text("{}")
        write_summary(run, summary())
        (run / "metrics/0000.h5").write_bytes(damaged(whole, random_damages(random)))
    command = [sys.executable, "-c", READER, str(folder / "runs"), str(200 + num_runs)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 0, f"{done.stdout[-200:]}\n{done.stderr[-2000:]}"
    assert done.stdout.endswith("all\n")
    assert "refused" in done.stdout


IMAGES = """
import signal, sys
import torch
from wash_hpc.config import load_config
from wash_hpc.data import open_source
from wash_hpc.data.source import Shard
from wash_hpc.errors import DataError
signal.alarm(500)
keys = [f"data.path={sys.argv[1]}", "data.image_size=16", "data.resize=20", "data.held_out=0", "data.workers=1"]
source = open_source(load_config(None, [*keys, "data.on_bad_file=skip"]), torch.device("cpu"))
batches = source.train(0, Shard(), 16, 0)
for step in range(2 * source.num_train // 16):
    batch = next(batches)
    assert bool(batch.images.isfinite().all())
for batch in source.evaluate("test", Shard(), 8):
    assert bool(batch.images.isfinite().all())
skipped = set(source.skipped_files)
try:
    source = open_source(load_config(None, keys), torch.device("cpu"))
    source.check_files(Shard())
    batches = source.train(0, Shard(), 16, 0)
    for step in range(2 * source.num_train // 16):
        next(batches)
    print("all good")
except DataError as error:
    assert any(name in str(error) for name in skipped), error
print(len(skipped), "skipped")
"""


def test_images(tmp_path_factory: pytest.TempPathFactory) -> None:
    """In a process of its own: decoders are C, and a damaged file could end it."""
    root = tmp_path_factory.mktemp("images")
    pixels = np.random.default_rng(0)
    num_images, random = batch(40)
    for split in ("train", "val"):
        (root / split / "a").mkdir(parents=True)
        for number in range(2 * num_images):  # half of them whole, or some batch would have no image left
            content = io.BytesIO()
            image = Image.fromarray(pixels.integers(0, 256, (30, 34, 3), dtype=np.uint8))
            image.save(content, "PNG" if number % 2 else "JPEG")
            whole = content.getvalue()
            bad = damaged(whole, random_damages(random)) if number < num_images else whole
            (root / split / "a" / f"{number:02d}.{'png' if number % 2 else 'jpg'}").write_bytes(bad)
    command = [sys.executable, "-c", IMAGES, str(root)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 0, f"{done.stdout[-500:]}\n{done.stderr[-3000:]}"
    assert "skipped" in done.stdout
