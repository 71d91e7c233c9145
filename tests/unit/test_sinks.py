"""Files of sinks without a run: the log of W&B at its blocks' ends, a full disk, names of sinks."""

from __future__ import annotations

import struct
import sys
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.faults.faulty import mount, unmount, why_no_mount
from tests.unit.test_metrics import LAYERS, evaluation_record, train_record
from wash_hpc.config import load_config
from wash_hpc.errors import ConfigError, MissingDependencyError
from wash_hpc.ranges import SINKS
from wash_hpc.storage.metrics import read_metrics
from wash_hpc.storage.scalars import scalars_of
from wash_hpc.storage.sinks import MetricsWriters, import_sinks
from wash_hpc.storage.wandb_files import RecordLog

BLOCK = 2**15


def records_in(content: bytes) -> list[bytes]:
    """The records of a log, as LevelDB's format describes it."""
    assert content[:7] == b":W&B\xe1\xbe\x00"
    records, record, position = [], b"", 7
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
        assert (kind in {1, 2}) == (not record)
        record += piece
        if kind in {1, 4}:
            records.append(record)
            record = b""
        position += 7 + length
    assert not record
    return records


@settings(max_examples=60, deadline=None)
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
    config = load_config(None, [f"run.dir={tmp_path}", "run.name=run", "log.sinks=[tensorboard,wandb]"])
    writers = MetricsWriters(config, 3, LAYERS, {"config": ""}, 0, said.append)
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
