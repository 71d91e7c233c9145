"""Metrics files: what is written is read, by another process, after a kill, over several starts, and never silently."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from wash_hpc.errors import MissingDependencyError, RunFolderError, WashError
from wash_hpc.storage.metrics import (
    EvaluationRecord,
    Metrics,
    MetricsError,
    MetricsWriter,
    TrainRecord,
    import_h5py,
    read_metrics,
)

LAYERS = ["conv", "bn", "fc"]
ATTRIBUTES: dict[str, str | int | float] = {
    "config": "run:\n  name: x\n",
    "git_commit": "abc",
    "num_ranks": 6,
    "share": 0.25,
}
TRAIN_FIELDS = [name for name in TrainRecord.__dataclass_fields__ if name != "step"]

# A writer in a process of its own: appends records 1, 2, 3 ... without end and says each on stdout once it is written.
WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_metrics import train_record, LAYERS
from wash_hpc.storage.metrics import MetricsWriter
writer = MetricsWriter(Path(sys.argv[1]), 3, LAYERS, {})
step = 0
while True:
    step += 1
    writer.append_train(train_record(step))
    print(step, flush=True)
"""


def train_record(step: int, num_members: int = 3, mark: float = 0.0) -> TrainRecord:
    """A record whose every value follows from its step, so that a row can be told to be whole."""
    row = step + np.arange(num_members) / 10 + mark
    return TrainRecord(
        step=step,
        epoch=step / 100,
        lr=1 / step,
        loss=row,
        accuracy=row + 1,
        images_per_second=row + 2,
        data_seconds=row + 3,
        compute_seconds=row + 4,
        reduce_seconds=row + 4.5,
        exchange_seconds=row + 5,
        values_moved=np.arange(num_members) + 2**40 * step,
        bytes_sent=np.arange(num_members) + 2**42 * step,
        skipped_files=np.arange(num_members) + step,
        consensus_distance=float(step),
        consensus_distance_per_layer=step + np.arange(len(LAYERS)) / 10,
    )


def evaluation_record(step: int, mark: float = 0.0) -> EvaluationRecord:
    row = step + np.arange(3) / 10 + mark
    return EvaluationRecord(step, row, 0.9 + mark, 0.8 + mark, row + 1, 0.7 + mark, 0.6 + mark, 0.02)


def assert_rows_are_whole(metrics: Metrics) -> None:
    """Every row is what `train_record` says of its step."""
    expected = [train_record(int(step)) for step in metrics.step]
    for field in TRAIN_FIELDS:
        np.testing.assert_array_equal(
            getattr(metrics, field), np.array([getattr(row, field) for row in expected]), field
        )


def write(folder: Path, steps: range, mark: float = 0.0, evaluate: tuple[int, ...] = ()) -> None:
    """One start that writes `steps`, and evaluations at some of them."""
    with MetricsWriter(folder, 3, LAYERS, {"mark": mark}) as writer:
        for step in steps:
            writer.append_train(train_record(step, mark=mark))
            if step in evaluate:
                writer.append_evaluation(evaluation_record(step, mark))


@contextmanager
def endless_writer(folder: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", WRITER, str(folder), str(Path(__file__).parent)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def wait_for(process: subprocess.Popen[str], step: int) -> None:
    """Until the writer has said that `step` is written."""
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) >= step:
            return
    pytest.fail("the writer ended")


def test_what_is_written_is_read(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path, 3, LAYERS, ATTRIBUTES) as writer:
        for step in range(1, 6):
            writer.append_train(train_record(step))
        writer.append_evaluation(evaluation_record(3))
    metrics = read_metrics(tmp_path)
    assert metrics.step.tolist() == [1, 2, 3, 4, 5]
    assert_rows_are_whole(metrics)
    assert metrics.evaluate_step.tolist() == [3]
    assert metrics.member_accuracy.tolist() == [[3.0, 3.1, 3.2]]
    assert (metrics.ensemble_accuracy.tolist(), metrics.soup_accuracy.tolist()) == ([0.9], [0.8])
    assert metrics.member_nll.tolist() == [[4.0, 4.1, 4.2]]
    assert (metrics.ensemble_nll.tolist(), metrics.soup_nll.tolist()) == ([0.7], [0.6])
    assert metrics.disagreement.tolist() == [0.02]
    assert metrics.layer_names == tuple(LAYERS)
    assert metrics.attributes == ATTRIBUTES
    assert metrics.num_members == 3


def test_the_file_has_the_promised_datasets_and_types(tmp_path: Path) -> None:
    write(tmp_path, range(1, 3), evaluate=(2,))
    shapes: dict[str, tuple[tuple[int, ...], str]] = {}
    with h5py.File(tmp_path / "metrics/0000.h5", "r") as file:
        file.visititems(
            lambda name, item: shapes.update({name: (item.shape, item.dtype.name)}) if hasattr(item, "shape") else None
        )
        extendable = {name: file[name].maxshape[0] is None for name in shapes}
    assert shapes == {
        "train/step": ((2,), "int64"),
        "train/epoch": ((2,), "float64"),
        "train/lr": ((2,), "float64"),
        "train/loss": ((2, 3), "float64"),
        "train/accuracy": ((2, 3), "float64"),
        "train/images_per_second": ((2, 3), "float64"),
        "train/data_seconds": ((2, 3), "float64"),
        "train/compute_seconds": ((2, 3), "float64"),
        "train/reduce_seconds": ((2, 3), "float64"),
        "train/exchange_seconds": ((2, 3), "float64"),
        "shuffle/values_moved": ((2, 3), "int64"),
        "shuffle/bytes_sent": ((2, 3), "int64"),
        "data/skipped_files": ((2, 3), "int64"),
        "ensemble/consensus_distance": ((2,), "float64"),
        "ensemble/consensus_distance_per_layer": ((2, 3), "float64"),
        "evaluate/step": ((1,), "int64"),
        "evaluate/member_accuracy": ((1, 3), "float64"),
        "evaluate/ensemble_accuracy": ((1,), "float64"),
        "evaluate/soup_accuracy": ((1,), "float64"),
        "evaluate/member_nll": ((1, 3), "float64"),
        "evaluate/ensemble_nll": ((1,), "float64"),
        "evaluate/soup_nll": ((1,), "float64"),
        "evaluate/disagreement": ((1,), "float64"),
    }
    assert all(extendable.values())


def test_files_of_before_likelihood_was_written_are_read_and_joined_with_later_ones(tmp_path: Path) -> None:
    write(tmp_path, range(1, 3), evaluate=(1, 2))
    with h5py.File(tmp_path / "metrics/0000.h5", "a") as file:
        for name in ("member_nll", "ensemble_nll", "soup_nll", "disagreement"):
            del file[f"evaluate/{name}"]
    write(tmp_path, range(3, 4), evaluate=(3,))
    metrics = read_metrics(tmp_path)
    assert metrics.evaluate_step.tolist() == [1, 2, 3]
    assert np.isnan(metrics.member_nll).all(axis=1).tolist() == [True, True, False]
    assert np.isnan(metrics.disagreement).tolist() == [True, True, False]
    assert np.isnan(metrics.ensemble_nll).tolist() == np.isnan(metrics.soup_nll).tolist() == [True, True, False]


def test_files_of_before_skipped_files_were_counted_are_read_as_none_skipped(tmp_path: Path) -> None:
    write(tmp_path, range(1, 3))
    with h5py.File(tmp_path / "metrics/0000.h5", "a") as file:
        del file["data/skipped_files"]
    write(tmp_path, range(3, 4))
    metrics = read_metrics(tmp_path)
    assert metrics.skipped_files.tolist() == [[0, 0, 0], [0, 0, 0], [3, 4, 5]]
    assert metrics.skipped_files.dtype == np.int64


def test_rows_that_are_not_numbers_are_kept(tmp_path: Path) -> None:
    nan = float("nan")
    with MetricsWriter(tmp_path, 3, LAYERS, {}) as writer:
        writer.append_train(train_record(1))
        writer.append_train(replace(train_record(2), consensus_distance=nan, loss=np.full(3, nan)))
        writer.append_train(train_record(3))
    metrics = read_metrics(tmp_path)
    assert metrics.step.tolist() == [1, 2, 3]
    assert np.isnan(metrics.consensus_distance).tolist() == [False, True, False]
    assert np.isnan(metrics.loss).all(axis=1).tolist() == [False, True, False]


def test_another_process_reads_whole_rows_while_the_writer_goes_on(tmp_path: Path) -> None:
    with endless_writer(tmp_path) as process:
        wait_for(process, 1)
        lengths: list[int] = []
        while not lengths or lengths[-1] < 200:
            metrics = read_metrics(tmp_path)
            assert metrics.step.tolist() == list(range(1, len(metrics.step) + 1))
            assert_rows_are_whole(metrics)
            lengths.append(len(metrics.step))
        assert process.poll() is None
    assert lengths == sorted(lengths)
    assert len(set(lengths)) > 2


def test_each_record_can_be_read_as_soon_as_it_is_appended(tmp_path: Path) -> None:
    read = (
        "import sys, pathlib; from wash_hpc.storage.metrics import read_metrics as r; m = r(pathlib.Path(sys.argv[1]))"
    )
    with MetricsWriter(tmp_path, 3, LAYERS, {}) as writer:
        for step in (1, 2):
            writer.append_train(train_record(step))
            writer.append_evaluation(evaluation_record(step))
            command = [sys.executable, "-c", f"{read}; print(m.step[-1], m.evaluate_step[-1])", str(tmp_path)]
            assert subprocess.check_output(command, text=True).split() == [str(step), str(step)]


def test_a_killed_writer_leaves_every_record_it_had_appended(tmp_path: Path) -> None:
    with endless_writer(tmp_path) as process:
        wait_for(process, 50)
        process.send_signal(signal.SIGKILL)
        assert process.stdout is not None
        last = int((["50", *process.stdout.read().split()])[-1])
    metrics = read_metrics(tmp_path)
    assert metrics.step.tolist() in (list(range(1, last + 1)), list(range(1, last + 2)))
    assert_rows_are_whole(metrics)


def test_a_start_after_a_kill_writes_a_file_of_its_own(tmp_path: Path) -> None:
    with endless_writer(tmp_path) as process:
        wait_for(process, 20)
    write(tmp_path, range(11, 14))
    assert sorted(path.name for path in (tmp_path / "metrics").iterdir()) == ["0000.h5", "0001.h5"]
    metrics = read_metrics(tmp_path)
    assert metrics.step.tolist() == list(range(1, 14))
    assert_rows_are_whole(metrics)


def test_later_files_win_where_steps_overlap(tmp_path: Path) -> None:
    write(tmp_path, range(1, 11), mark=0.0, evaluate=(4, 8))
    write(tmp_path, range(6, 9), mark=100.0, evaluate=(7,))
    write(tmp_path, range(8, 10), mark=200.0)
    metrics = read_metrics(tmp_path)
    assert metrics.step.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert (metrics.loss[:, 0] - metrics.step).tolist() == [0, 0, 0, 0, 0, 100, 100, 200, 200]
    assert metrics.evaluate_step.tolist() == [4, 7]
    assert metrics.member_accuracy[:, 0].tolist() == [4, 107]
    assert metrics.attributes == {"mark": 200.0}


def test_a_later_start_cuts_off_evaluations_that_it_has_not_reached_yet(tmp_path: Path) -> None:
    write(tmp_path, range(1, 11), evaluate=(4, 8))
    write(tmp_path, range(6, 8))
    assert read_metrics(tmp_path).evaluate_step.tolist() == [4]


def tables(metrics: Metrics, last: int | None = None) -> dict[str, Any]:
    """The last records of both tables, as lists."""
    rows = slice(None) if last is None else slice(-last, None)
    return {name: getattr(metrics, name)[rows].tolist() for name in (*TRAIN_FIELDS, "evaluate_step", "member_accuracy")}


@pytest.mark.parametrize("last", [1, 2, 3, 5, 100])
@pytest.mark.parametrize("says_first_step", [True, False])
def test_the_last_records_are_those_at_the_end_of_all(tmp_path: Path, last: int, says_first_step: bool) -> None:
    for first, end, evaluate in ((0, 11, (4, 8)), (5, 9, (7,)), (7, 8, ()), (7, 10, (9,))):
        attributes = {"first_step": first} if says_first_step else {}
        with MetricsWriter(tmp_path, 3, LAYERS, attributes) as writer:
            for step in range(first + 1, end):
                writer.append_train(train_record(step, mark=first))
                if step in evaluate:
                    writer.append_evaluation(evaluation_record(step, first))
    assert tables(read_metrics(tmp_path, last)) == tables(read_metrics(tmp_path), last)
    assert read_metrics(tmp_path, last).starts == (0, 5, 7)


def test_the_last_records_of_tables_that_are_not_whole_are_whole_rows(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path, 3, LAYERS, {"first_step": 0}) as writer:
        for step in range(1, 8):
            writer.append_train(train_record(step))
    with h5py.File(tmp_path / "metrics/0000.h5", "r+") as file:
        file["train/step"].resize(8, axis=0)  # shown before it is written
        file["train/loss"].resize(6, axis=0)
    metrics = read_metrics(tmp_path, last=1)
    assert metrics.step.tolist() == [6]
    assert_rows_are_whole(metrics)


def test_a_look_at_the_end_of_a_long_run_takes_a_small_part_of_reading_it(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path, 1, ["fc"], {"first_step": 0}):
        pass
    with h5py.File(tmp_path / "metrics/0000.h5", "r+") as file:
        for group in ("train", "shuffle", "data", "ensemble"):
            for dataset in file[group].values():
                dataset.resize(200_000, axis=0)
                dataset[:] = np.ones(dataset.shape, dataset.dtype)
        file["train/step"][:] = np.arange(200_000)
    seconds = {None: 0.0, 500: 0.0}
    for last in seconds:
        begin = time.process_time()
        assert read_metrics(tmp_path, last).step[-1] == 199_999
        seconds[last] = time.process_time() - begin
    assert seconds[500] < seconds[None] / 3


def test_a_start_without_records_cuts_nothing_off(tmp_path: Path) -> None:
    write(tmp_path, range(1, 4))
    write(tmp_path, range(0))
    assert read_metrics(tmp_path).step.tolist() == [1, 2, 3]


def test_files_are_taken_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path, range(1, 3), mark=number)
    for old, new in (("0001", "9999"), ("0002", "10000")):
        (tmp_path / f"metrics/{old}.h5").rename(tmp_path / f"metrics/{new}.h5")
    assert read_metrics(tmp_path).attributes == {"mark": 2.0}
    write(tmp_path, range(1, 3), mark=3)
    assert (tmp_path / "metrics/10001.h5").is_file()


def test_tables_of_unequal_length_are_cut_to_their_whole_rows(tmp_path: Path) -> None:
    write(tmp_path, range(1, 6), evaluate=(2, 4))
    with h5py.File(tmp_path / "metrics/0000.h5", "r+") as file:
        file["train/step"].resize(6, axis=0)  # shown before it is written
        file["train/loss"].resize(4, axis=0)
        file["evaluate/soup_accuracy"].resize(3, axis=0)  # of a record whose step is not there yet
    metrics = read_metrics(tmp_path)
    assert metrics.step.tolist() == [1, 2, 3, 4]
    assert_rows_are_whole(metrics)
    assert metrics.evaluate_step.tolist() == [2, 4]
    assert len(metrics.soup_accuracy) == 2


def test_a_step_that_is_allocated_and_not_written_is_no_record(tmp_path: Path) -> None:
    write(tmp_path, range(1, 4))
    with h5py.File(tmp_path / "metrics/0000.h5", "r+") as file:
        for group in ("train", "shuffle", "ensemble"):
            for dataset in file[group].values():
                dataset.resize(4, axis=0)
    assert read_metrics(tmp_path).step.tolist() == [1, 2, 3]


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    write(tmp_path, range(1, 4))
    write(tmp_path, range(4, 6))
    (tmp_path / "metrics/0001.h5").write_bytes(b"no HDF5")
    with pytest.raises(MetricsError, match=r"metrics/0001\.h5: not readable as metrics"):
        read_metrics(tmp_path)


def test_a_file_without_a_dataset_is_named(tmp_path: Path) -> None:
    write(tmp_path, range(1, 4))
    with h5py.File(tmp_path / "metrics/0000.h5", "r+") as file:
        del file["shuffle/bytes_sent"]
    with pytest.raises(MetricsError, match=r"0000\.h5.*bytes_sent"):
        read_metrics(tmp_path)


def test_files_of_other_members_do_not_join(tmp_path: Path) -> None:
    write(tmp_path, range(1, 4))
    with MetricsWriter(tmp_path, 2, LAYERS, {}) as writer:
        writer.append_train(train_record(4, num_members=2))
    with pytest.raises(MetricsError, match=r"0001\.h5: other members or layers than in 0000\.h5"):
        read_metrics(tmp_path)


def test_a_folder_without_metrics_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=f"{tmp_path}: holds no metrics"):
        read_metrics(tmp_path)


@pytest.mark.parametrize("field", ["loss", "bytes_sent", "consensus_distance_per_layer", "lr"])
def test_a_value_of_the_wrong_shape_is_refused_and_leaves_no_row(tmp_path: Path, field: str) -> None:
    wrong: dict[str, Any] = {field: np.zeros(7)}
    with MetricsWriter(tmp_path, 3, LAYERS, {}) as writer:
        with pytest.raises(ValueError, match=field):
            writer.append_train(replace(train_record(1), **wrong))
        assert len(read_metrics(tmp_path).step) == 0


@pytest.mark.parametrize(("num_members", "layers"), [(0, LAYERS), (3, [])])
def test_metrics_of_nothing_are_refused(tmp_path: Path, num_members: int, layers: list[str]) -> None:
    with pytest.raises(ValueError, match="at least one"):
        MetricsWriter(tmp_path, num_members, layers, {})


FULL_DISK = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_metrics import train_record, LAYERS
from wash_hpc.storage.metrics import MetricsError, MetricsWriter
limit = int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    with MetricsWriter(Path(sys.argv[1]), 3, LAYERS, {}) as writer:
        for step in range(1, 100_000):
            writer.append_train(train_record(step))
except MetricsError as error:
    print(error)
    sys.exit(7)
"""


def run_on_full_disk(folder: Path, limit: int) -> subprocess.CompletedProcess[str]:
    """A writer whose files may grow to `limit` bytes: the same errors as a full disk or quota, without root."""
    command = [sys.executable, "-c", FULL_DISK, str(folder), str(Path(__file__).parent), str(limit)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_a_full_disk_is_an_error_that_names_the_file_and_loses_no_record(tmp_path: Path) -> None:
    result = run_on_full_disk(tmp_path, 2**20 + 300_000)
    assert result.returncode == 7, result.stderr  # no crash when the process exits, either
    assert "metrics/0000.h5: cannot be written: [Errno 27] File too large" in result.stdout
    metrics = read_metrics(tmp_path)
    assert len(metrics.step) > 10
    assert_rows_are_whole(metrics)


def test_a_disk_full_from_the_start_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    result = run_on_full_disk(tmp_path, 10_000)
    assert result.returncode == 7, result.stderr
    assert "metrics/0000.h5: cannot be created" in result.stdout
    assert not list((tmp_path / "metrics").glob("*.h5"))


def test_room_kept_on_disk_is_given_back(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path, 3, LAYERS, {}) as writer:
        for step in range(1, 20):
            writer.append_train(train_record(step))
        assert writer.path.stat().st_size < 2**19
    assert writer.path.stat().st_size < 2**19


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "metrics").write_text("a file where the folder should be")
    with pytest.raises(MetricsError, match="cannot be created"):
        MetricsWriter(tmp_path, 3, LAYERS, {})


def test_without_h5py_the_install_command_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write(tmp_path, range(1, 3))
    monkeypatch.setitem(sys.modules, "h5py", None)
    for use in (import_h5py, lambda: read_metrics(tmp_path), lambda: MetricsWriter(tmp_path, 3, LAYERS, {})):
        with pytest.raises(MissingDependencyError, match=r"h5py is not installed.*pip install 'wash_hpc\[hdf5\]'"):
            use()


def test_file_locking_is_off_before_hdf5_is_loaded() -> None:
    code = (
        "import os, sys; from wash_hpc.storage.metrics import import_h5py; assert 'h5py' not in sys.modules; "
        "import_h5py(); print(os.environ['HDF5_USE_FILE_LOCKING'])"
    )
    environment = {**os.environ, "HDF5_USE_FILE_LOCKING": "TRUE"}
    assert subprocess.check_output([sys.executable, "-c", code], env=environment, text=True).strip() == "FALSE"


def test_metrics_errors_are_the_users_to_mend() -> None:
    assert issubclass(MetricsError, WashError)


def test_closing_twice_is_closing_once(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path, 3, LAYERS, {})
    writer.append_train(train_record(1))
    writer.close()
    writer.close()
    assert read_metrics(tmp_path).step.tolist() == [1]
