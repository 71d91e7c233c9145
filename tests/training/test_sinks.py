"""`log.sinks`: what TensorBoard and W&B read, by their own readers, is what the metrics hold, over two starts."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from gzip import decompress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import pandas
import polars
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import wash_hpc
from tests.support import TINY, mpirun, train
from wash_hpc.storage.records import EVALUATE, TRAIN, Metrics
from wash_hpc.storage.summary import read_summary

SECRET = "xyzzy-do-not-tell"
HOST = "made-up-host-of-a-test"
SECRETS = ("AWS_SECRET_ACCESS_KEY", "WANDB_API_KEY", "WANDB_NOTES", "TENSORBOARD_TOKEN", "PASSWORD")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 12 steps in two starts; the first wrote 7 and half a record, and the second goes on from step 4."""
    folder = tmp_path_factory.mktemp("runs")
    home = folder / "home"
    home.mkdir()
    secrets = dict.fromkeys(SECRETS, SECRET)
    where = ["train", "configs/digits_wash.yaml", *TINY, f"run.dir={folder}", "run.name=run"]
    sinks = ["log.sinks=[tensorboard,wandb]", "log.every_steps=1", "log.consensus_every_steps=2"]
    more = ["checkpoint.every_steps=4", "checkpoint.resume=auto", "evaluate.every_epochs=1", "log.progress=lines"]
    for steps in (7, 12):
        command = [sys.executable, "-m", "wash_hpc", *where, *sinks, *more, f"train.steps={steps}"]
        done = mpirun(2, *command, HOME=str(home), HOSTNAME=HOST, **secrets)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        assert "log.sinks" not in done.stdout
        if steps == 7:
            (event_file,) = (folder / "run/tensorboard").iterdir()
            with event_file.open("ab") as file:
                file.write(b"\x10\0\0\0")
            shutil.rmtree(folder / "run/checkpoints/step-00000007")
            (first,) = (folder / "run/wandb").iterdir()
    assert "continues from step 4" in done.stdout
    (second,) = (folder / "run/wandb").iterdir()
    assert second != first
    assert second.name[-8:] == first.name[-8:]  # the id, by which W&B knows the run
    assert not list(home.iterdir())
    return folder / "run"


def expected(metrics: Metrics) -> dict[str, list[tuple[int, float]]]:
    """Each curve, by name, as the metrics have it."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for table, steps in ((TRAIN, metrics.step), (EVALUATE, metrics.evaluate_step)):
        for dataset in table[1:]:
            values = getattr(metrics, dataset.field)
            if dataset.axis == "":
                curves[dataset.path] = [*zip(steps.tolist(), values.tolist(), strict=True)]
                continue
            names = metrics.layer_names if dataset.axis == "layer" else [f"member-{m}" for m in range(values.shape[1])]
            for name, column in zip(names, values.T.tolist(), strict=True):
                curves[f"{dataset.path}/{name}"] = [*zip(steps.tolist(), column, strict=True)]
            if dataset.axis == "member":
                curves[f"{dataset.path}/mean"] = [*zip(steps.tolist(), values.mean(axis=1).tolist(), strict=True)]
    return {name: [point for point in curve if np.isfinite(point[1])] for name, curve in curves.items()}


def test_tensorboard_reads_each_step_once_over_two_starts(run):
    board = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    curves = expected(wash_hpc.read_metrics(run))
    assert [step for step, _ in curves["train/loss/mean"]] == list(range(1, 13))
    assert [step for step, _ in curves["ensemble/consensus_distance"]] == [2, 4, 6, 8, 10, 12]
    for name, curve in curves.items():
        read = [(event.step, event.value) for event in board.Scalars(name)]
        assert [step for step, _ in read] == [step for step, _ in curve], name
        np.testing.assert_allclose([value for _, value in read], [value for _, value in curve], 1e-6, err_msg=name)
    text = board.Tensors("config")[0].tensor_proto.string_val[0].decode()
    assert "    method:\n      name: wash\n" in text
    (soup,) = board.Scalars("summary/soup_accuracy")
    assert soup.step == 12
    assert soup.value == pytest.approx(read_summary(run).soup_accuracy)


def test_the_program_tensorboard_finds_the_run_in_the_folder_of_runs(run):
    program = str(Path(sys.executable).with_name("tensorboard"))
    command = [program, "--logdir", str(run.parent), "--host", "localhost", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            address = next(found[0] for line in process.stderr if (found := re.search(r"http://localhost:\d+", line)))
            for _ in range(240):  # it reads the files while it answers
                with urlopen(f"{address}/data/plugin/scalars/tags", timeout=60) as answer:
                    shown = json.load(answer)
                if shown:
                    break
                time.sleep(0.5)
        finally:
            process.terminate()
    assert "train/loss/mean" in shown["run/tensorboard"]


class WandbServer(ThreadingHTTPServer):
    """Answers `wandb sync` and keeps what it is sent. W&B's own server is a container of gigabytes."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Wandb)
        self.files: list[dict[str, Any]] = []
        self.asked: list[dict[str, Any]] = []


class Wandb(BaseHTTPRequestHandler):
    server: WandbServer

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"] or 0))
        content = decompress(body) if self.headers.get("content-encoding") == "gzip" else body
        answer: dict[str, Any] = {}
        if self.path.startswith("/graphql"):
            answer = self._answer(json.loads(content))
        elif self.path.endswith("/file_stream"):
            self.server.files.append(json.loads(content))
        self._send(json.dumps(answer).encode())

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["content-length"] or 0))
        self._send(b"")

    def _answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        self.server.asked.append(asked)
        if "createRunFiles" in asked["query"]:
            url = f"http://127.0.0.1:{self.server.server_address[1]}/file"
            files = [{"name": name, "uploadUrl": url} for name in asked["variables"]["files"]]
            return {"data": {"createRunFiles": {"runID": "x", "uploadHeaders": [], "files": files}}}
        if "upsertBucket" in asked["query"]:
            project = {"id": "p", "name": "wash_hpc", "entity": {"id": "e", "name": "me"}}
            bucket = {"id": "x", "name": "run", "displayName": "run", "historyLineCount": 0, "project": project}
            return {"data": {"upsertBucket": {"bucket": bucket, "inserted": True}}}
        return {"data": {"serverInfo": {"features": []}}}

    def _send(self, content: bytes) -> None:
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def wandb_server() -> Iterator[WandbServer]:
    server = WandbServer()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_wandb_sync_sends_each_step_once_over_two_starts(run, tmp_path):
    (offline,) = (run / "wandb").iterdir()
    copy = Path(shutil.copytree(offline, tmp_path / "wandb" / offline.name))  # sync leaves a mark beside the file
    with wandb_server() as server:
        environment = {
            **os.environ,
            "HOME": str(tmp_path),
            "WANDB_BASE_URL": f"http://127.0.0.1:{server.server_address[1]}",
            "WANDB_API_KEY": "0" * 40,
            "WANDB_ERROR_REPORTING": "false",
        }
        command = [str(Path(sys.executable).with_name("wandb")), "sync", str(copy)]
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=120, check=False
        )
    assert done.returncode == 0, done.stderr
    lines = [line for sent in server.files for line in lines_of(sent, "wandb-history.jsonl")]
    rows = [json.loads(line) for line in lines]
    assert [row["_step"] for row in rows] == list(range(1, 13))
    for name, curve in expected(wash_hpc.read_metrics(run)).items():
        read = [(row["_step"], row[name]) for row in rows if name in row]
        assert [step for step, _ in read] == [step for step, _ in curve], name
        np.testing.assert_allclose([value for _, value in read], [value for _, value in curve], 1e-12, err_msg=name)
    summary = json.loads([line for sent in server.files for line in lines_of(sent, "wandb-summary.json")][-1])
    assert summary["soup_accuracy"] == read_summary(run).soup_accuracy
    upserts = [asked["variables"] for asked in server.asked if "upsertBucket" in asked["query"]]
    assert upserts[0]["name"] == offline.name.rsplit("-", 1)[-1]
    assert upserts[0]["displayName"] == "run"
    assert json.loads(upserts[0]["config"])["method"]["value"]["p"] == 0.3


def lines_of(sent: dict[str, Any], name: str) -> list[str]:
    lines: list[str] = sent.get("files", {}).get(name, {}).get("content", [])
    return lines


def test_no_secret_of_the_environment_and_nothing_of_the_host_is_in_the_files(run):
    files = [file for sink in ("tensorboard", "wandb") for file in (run / sink).rglob("*") if file.is_file()]
    assert len(files) == 2
    content = b"".join(file.read_bytes() for file in files)
    assert SECRET.encode() not in content
    assert HOST.encode() not in content


def test_pandas_and_polars_take_the_tables_of_a_run(run):
    metrics = wash_hpc.read_metrics(run)
    frame = pandas.DataFrame(wash_hpc.read_table(run))
    assert frame.shape[0] == 2 * 12
    assert frame.columns[:6].tolist() == ["step", "epoch", "lr", "consensus_distance", "member", "loss"]
    by_member = frame.pivot(index="step", columns="member", values="loss")
    np.testing.assert_array_equal(by_member.to_numpy(), metrics.loss)
    judged = polars.DataFrame(wash_hpc.read_table(run, "evaluate"))
    assert judged.height == 2 * len(metrics.evaluate_step)
    second = judged.filter(polars.col("member") == 1).sort("step")
    np.testing.assert_array_equal(second["member_accuracy"].to_numpy(), metrics.member_accuracy[:, 1])
    np.testing.assert_array_equal(second["soup_nll"].to_numpy(), metrics.soup_nll)
    layers = polars.DataFrame(wash_hpc.read_table(run, "layers"))
    assert layers["step"].unique().sort().to_list() == [2, 4, 6, 8, 10, 12]
    last = layers.filter(polars.col("step") == 12)
    assert last["layer"].to_list() == list(metrics.layer_names)
    np.testing.assert_array_equal(last["distance"].to_numpy(), metrics.consensus_distance_per_layer[-1])
    with pytest.raises(ValueError, match="expected train, evaluate or layers"):
        wash_hpc.read_table(run, "no")


def test_a_missing_library_is_said_before_anything_is_written(tmp_path):
    code = "import sys; sys.modules['wandb'] = None; from wash_hpc.__main__ import main; main(sys.argv[1:])"
    where = [f"run.dir={tmp_path}", "run.name=run", "log.sinks=[tensorboard,wandb]"]
    command = [sys.executable, "-c", code, "train", "configs/digits_wash.yaml", *TINY, *where]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "wash_hpc: error: W&B is not installed; install it with: pip install 'wash_hpc[wandb]'\n"
    assert not (tmp_path / "run").exists()


def test_a_sink_that_cannot_be_written_is_said_and_the_run_goes_on(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "tensorboard").write_text("a file where the folder should be")
    train(tmp_path, "run", 1, "log.sinks=[tensorboard,wandb]", "checkpoint.resume=auto", "train.steps=4")
    assert len(wash_hpc.read_metrics(folder).step) == 1
    assert read_summary(folder).steps == 4
    assert list((folder / "wandb").iterdir())
