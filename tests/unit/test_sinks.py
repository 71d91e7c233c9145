"""Files of sinks without a run: the log of W&B at its blocks' ends, a full disk, names of sinks."""

from __future__ import annotations

import json
import platform
import socket
import struct
import sys
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto.wandb_internal_pb2 import Record

from tests.faults.faulty import mount, unmount, why_no_mount
from tests.unit.test_metrics import LAYERS, evaluation_record, train_record
from tools.bench_report import make_run
from wash_hpc.config import Config, load_config
from wash_hpc.errors import ConfigError, MissingDependencyError
from wash_hpc.ranges import SINKS
from wash_hpc.storage.event_files import EventFile
from wash_hpc.storage.metrics import read_metrics
from wash_hpc.storage.scalars import MOST_PAST_RECORDS, Scalars, past_scalars, scalars_of
from wash_hpc.storage.sinks import MetricsWriters, import_sinks
from wash_hpc.storage.wandb_files import OfflineRun, RecordLog

BLOCK = 2**15


def records_in(content: bytes) -> list[bytes]:
    """The records of a log, as LevelDB's format describes it."""
    assert content[:7] == b":W&B\xe1\xbe\x00"
    records, record, position, is_whole = [], b"", 7, True
    while position < len(content):
        left = BLOCK - position % BLOCK
        if left < 7:
            assert content[position : position + left] == bytes(left)
            position += left
            continue
        checksum, length, kind = struct.unpack("<IHB", content[position : position + 7])
        piece = content[position + 7 : position + 7 + length]
        assert len(piece) == length <= left - 7
        assert zlib.crc32(bytes([kind]) + piece) == checksum
        assert (kind in {1, 2}) == is_whole  # the first piece of a record may be of no bytes
        record += piece
        is_whole = kind in {1, 4}
        if is_whole:
            records.append(record)
            record = b""
        position += 7 + length
    assert is_whole
    return records


@settings(max_examples=60, deadline=None)
@example([32728, 32773, 1])  # seven bytes left: room for a header alone
@given(
    st.lists(st.one_of(st.integers(1, 200), st.integers(BLOCK - 40, BLOCK + 10), st.integers(1, 3 * BLOCK)), max_size=8)
)
def test_a_log_holds_the_records_that_were_written_whatever_their_sizes(sizes):
    records = [bytes([number + 1]) * size for number, size in enumerate(sizes)]
    with tempfile.TemporaryDirectory() as folder:
        log = RecordLog(Path(folder) / "run.wandb")
        for record in records:
            log.append(record)
            assert records_in((Path(folder) / "run.wandb").read_bytes())[-1] == record
        log.close()
        assert records_in((Path(folder) / "run.wandb").read_bytes()) == records


def test_what_is_not_finite_is_left_out_of_the_scalars():
    record = train_record(3)
    record.loss[1] = float("nan")
    record.consensus_distance_per_layer[0] = float("inf")
    scalars = scalars_of(record, LAYERS)
    assert "train/loss/member-0" in scalars
    assert not {"train/loss/member-1", "train/loss/mean", "ensemble/consensus_distance_per_layer/conv"} & set(scalars)
    assert scalars["shuffle/bytes_sent/member-2"] == 3 * 2**42 + 2


def config_in(folder: Path, sinks: str = "tensorboard,wandb") -> Config:
    return load_config(None, [f"run.dir={folder}", "run.name=run", f"log.sinks=[{sinks}]"])


def start(folder: Path, sinks: str, first_step: int, last_step: int, mark: float) -> None:
    """A start of a run that goes on from a step; its numbers are its own."""
    writers = MetricsWriters(config_in(folder, sinks), 3, LAYERS, {"first_step": first_step}, first_step, pytest.fail)
    for step in range(first_step + 1, last_step + 1):
        writers.append_train(train_record(step, mark=mark))
    writers.append_evaluation(evaluation_record(last_step, mark=mark))
    writers.close()


def wandb_records(folder: Path) -> list[Record]:
    (file,) = (folder / "run/wandb").glob("offline-run-*/run-*.wandb")
    return [Record.FromString(content) for content in records_in(file.read_bytes())]


def test_a_sink_that_a_start_in_between_was_without_holds_the_curve_of_the_metrics(tmp_path):
    start(tmp_path, "tensorboard,wandb", 0, 6, mark=0)
    start(tmp_path, "", 4, 8, mark=0.25)
    start(tmp_path, "tensorboard,wandb", 8, 9, mark=0.5)
    curve = [*zip(range(1, 10), read_metrics(tmp_path / "run").loss[:, 1].tolist(), strict=True)]
    assert [value % 1 for _, value in curve] == pytest.approx([0.1] * 4 + [0.35] * 4 + [0.6])
    board = EventAccumulator(str(tmp_path / "run/tensorboard"), size_guidance={"scalars": 0}).Reload()
    read = [(event.step, event.value) for event in board.Scalars("train/loss/member-1")]
    assert [step for step, _ in read] == [*range(1, 10)]
    assert [value for _, value in read] == pytest.approx([value for _, value in curve], rel=1e-6)
    assert [event.step for event in board.Scalars("evaluate/soup_nll")] == [8, 9]
    rows = [record.history for record in wandb_records(tmp_path) if record.HasField("history")]
    items = [{item.nested_key[0]: json.loads(item.value_json) for item in row.item} for row in rows]
    assert [(row["_step"], row["train/loss/member-1"]) for row in items] == curve
    assert ["_timestamp" in row for row in items] == [False] * 8 + [True]  # when the past was is not known


@pytest.mark.parametrize(("kind", "name"), [(EventFile, "tensorboard"), (OfflineRun, "wandb")])
def test_a_start_that_cannot_write_the_past_leaves_what_there_was(tmp_path, kind, name):
    def past() -> Iterable[tuple[int, Scalars]]:
        yield 1, {"loss": 1.0}
        raise OSError(28, "No space left on device")

    start(tmp_path, name, 0, 3, mark=0)
    before = {file: file.read_bytes() for file in (tmp_path / "run" / name).rglob("*") if file.is_file()}
    with pytest.raises(OSError, match="No space"):
        kind(config_in(tmp_path), 2, past)
    assert {file: file.read_bytes() for file in (tmp_path / "run" / name).rglob("*") if file.is_file()} == before


def test_the_host_is_in_no_file_and_no_name_of_one(tmp_path, monkeypatch):
    host = "made-up-host-of-a-test"
    monkeypatch.setattr(socket, "gethostname", lambda: host)
    monkeypatch.setattr(platform, "node", lambda: host)
    start(tmp_path, "tensorboard,wandb", 0, 2, mark=0)
    files = [*(tmp_path / "run/tensorboard").rglob("*"), *(tmp_path / "run/wandb").rglob("*")]
    assert host.encode() not in b"".join(file.name.encode() + file.read_bytes() for file in files if file.is_file())
    assert [record.run.host for record in wandb_records(tmp_path) if record.HasField("run")] == [""]


@pytest.mark.parametrize("ends", [True, False])
def test_wandb_says_that_a_run_has_finished_only_after_its_end(tmp_path, ends):
    (tmp_path / "run").mkdir()
    run = OfflineRun(config_in(tmp_path), 0, tuple)
    run.append(1, {"loss": 1.0})
    if ends:
        run.end({"soup_accuracy": 0.5})
    run.close()
    assert wandb_records(tmp_path)[-1].HasField("exit")
    assert wandb_records(tmp_path)[-1].exit.exit_code == (0 if ends else 1)


def test_the_past_of_a_long_run_is_thinned_to_its_first_its_last_and_evenly_between(tmp_path):
    metrics = read_metrics(make_run(tmp_path, 0, 5000))
    sparse = replace(metrics, consensus_distance=np.where(np.arange(5000) % 7 == 6, 1.0, np.nan))
    rows = [*past_scalars(sparse, 4000)]
    trained = [step for step, scalars in rows if "train/loss/mean" in scalars]
    assert [trained[0], trained[-1]] == [1, 4000]
    assert len(trained) <= 2 * MOST_PAST_RECORDS
    assert max(after - before for before, after in pairwise(trained)) <= 5
    distances = [step for step, scalars in rows if "ensemble/consensus_distance" in scalars]
    assert distances == [*range(7, 4001, 7)]
    assert [step for step, scalars in rows if "evaluate/soup_nll" in scalars] == [*range(100, 4001, 100)]


@pytest.mark.parametrize("sink", SINKS)
def test_a_missing_library_is_said_with_the_command_that_installs_it(monkeypatch, sink):
    monkeypatch.setitem(sys.modules, sink, None)
    for module in [module for module in sys.modules if module.startswith(f"{sink}.")]:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependencyError, match=rf"pip install 'wash_hpc\[{sink}\]'"):
        import_sinks([sink])


@pytest.fixture(params=SINKS)
def full_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A sink whose folder is a file system of a megabyte, with hardly any room left in it."""
    reason = why_no_mount(tmp_path / "probe")
    if reason:
        pytest.skip(reason)
    folder = tmp_path / "run" / request.param
    mount(folder, 1)
    (folder / "ballast").write_bytes(bytes(2**20 - 2**15))
    yield request.param
    unmount(folder)


@pytest.mark.small_disk
def test_a_sink_whose_disk_is_full_is_said_once_and_the_metrics_go_on(full_disk, tmp_path):
    said: list[str] = []
    writers = MetricsWriters(config_in(tmp_path), 3, LAYERS, {"config": ""}, 0, said.append)
    for step in range(1, 101):
        writers.append_train(train_record(step))
        writers.append_evaluation(evaluation_record(step))
    writers.close()
    (sentence,) = said
    assert sentence.startswith(f"log.sinks={full_disk}: ")
    assert "No space left on device" in sentence
    metrics = read_metrics(tmp_path / "run")
    assert metrics.step.tolist() == metrics.evaluate_step.tolist() == list(range(1, 101))


def test_sinks_are_named_in_a_list_or_alone():
    assert load_config(None).log.sinks == []
    assert load_config(None, ["log.sinks=wandb"]).log.sinks == ["wandb"]
    assert load_config(None, ["log.sinks=[tensorboard,wandb]"]).log.sinks == ["tensorboard", "wandb"]


@pytest.mark.parametrize("value", ["tensorbord", "[wandb,wandb]", "[1]", "[[wandb]]", "{a: 1}", "null", "'a\\tb'"])
def test_a_sink_that_there_is_not_is_refused_with_those_that_there_are(value):
    with pytest.raises(ConfigError, match=r"log\.sinks"):
        load_config(None, [f"log.sinks={value}"])
    with pytest.raises(ConfigError, match="among tensorboard, wandb"):
        load_config(None, ["log.sinks=tensorbord"])
