"""The metrics of a run, in HDF5: one writer on the root rank, any number of readers while it writes.

Owns the layout of `metrics/NNNN.h5`. Does not own what is measured, when, or the reduction
over ranks that comes before.

Every start of a run writes a new file, because a file that a killed writer left open cannot be opened for writing
again; where the steps of two files overlap, the later file wins. A file is in HDF5's SWMR mode from the moment it has
its name. A record counts once its step is there: the step is written after everything else of the record has been
flushed, so a reader never takes a half-written record for a whole one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wash_hpc.errors import RunFolderError
from wash_hpc.storage import hdf5
from wash_hpc.storage.hdf5 import MetricsError, import_h5py, open_to_read
from wash_hpc.storage.records import EVALUATE, TRAIN, Attribute, Dataset, EvaluationRecord, Metrics, TrainRecord

__all__ = ["EvaluationRecord", "Metrics", "MetricsError", "MetricsWriter", "TrainRecord", "import_h5py", "read_metrics"]

_NO_STEP = -1  # what HDF5 shows where a step is allocated and not yet written
_RESERVE_BYTES = 2**20  # more than one record can make a file grow by, its row aside
_RACE = 2  # rows at the end of a table that may not be whole while somebody writes
_MOST_STARTS = 8  # that are looked into for a few last records; a run may have been started a hundred times
_CHUNK_BYTES = 8192  # a flush rewrites the last chunk of every dataset: small ones keep it cheap


def metrics_files(folder: Path) -> list[Path]:
    """The metrics files of a run folder, oldest start first."""
    files = [path for path in (folder / "metrics").glob("*.h5") if path.stem.isdecimal()]
    return sorted(files, key=lambda path: int(path.stem))


class MetricsWriter:
    """Appends records to a new metrics file. Used by the root rank only; a context manager.

    Every append is flushed to the operating system: a record is what a killed run leaves and what a reader on the same
    file system sees at once, and records are written every `log.every_steps`, so a flush (about a millisecond) is rare.

    Args:
        folder: the run's folder; `metrics/` is made in it.
        num_members: M, at least 1.
        layer_names: L names, at least one.
        attributes: about the run, kept as attributes of the file's root.

    Raises:
        MetricsError: the file cannot be created.
        MissingDependencyError: h5py is not installed.
    """

    def __init__(
        self, folder: Path, num_members: int, layer_names: Sequence[str], attributes: Mapping[str, Attribute]
    ) -> None:
        if num_members < 1 or not layer_names:
            raise ValueError(f"metrics of {num_members} members and {len(layer_names)} layers: at least one of each")
        self._width = {"": (), "member": (num_members,), "layer": (len(layer_names),)}
        files = metrics_files(folder)
        self.path = folder / "metrics" / f"{int(files[-1].stem) + 1 if files else 0:04d}.h5"
        try:
            self._file = self._create({**attributes, "layer_names": list(layer_names)})
        except OSError as error:
            raise MetricsError(f"{self.path}: cannot be created: {error}") from error
        self._datasets = {dataset.path: self._file[dataset.path] for dataset in TRAIN + EVALUATE}

    def append_train(self, record: TrainRecord) -> None:
        """Write one row of training.

        Raises:
            MetricsError: it cannot be written; the disk is full, for instance.
            ValueError: an array of the wrong shape.
        """
        self._append(TRAIN, record)

    def append_evaluation(self, record: EvaluationRecord) -> None:
        """Write one row of evaluation; raises what `append_train` raises."""
        self._append(EVALUATE, record)

    def close(self) -> None:
        """Finish the file; a second call does nothing.

        Raises:
            MetricsError: what was left could not be written.
        """
        try:
            self._file.close()
        except (OSError, RuntimeError) as error:  # h5py raises either, by the call that fails
            raise MetricsError(f"{self.path}: cannot be closed: {error}") from error

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _create(self, attributes: Mapping[str, Any]) -> Any:
        """The open file, which gets its name when readers can open it: before SWMR is on they could not."""
        h5py = import_h5py()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        unnamed = self.path.with_suffix(".h5.new")
        file = h5py.File(unnamed, "w", libver="latest", locking=False)
        with _room_for(file, 2 * sum(len(str(value)) for value in attributes.values())):
            hdf5.write_attributes(file, attributes)
            for dataset in TRAIN + EVALUATE:
                width = self._width[dataset.axis]
                rows = max(1, _CHUNK_BYTES // (8 * int(np.prod(width, dtype=np.int64))))
                fill = _NO_STEP if dataset.field == "step" else None
                file.create_dataset(
                    dataset.path,
                    (0, *width),
                    dataset.dtype,
                    maxshape=(None, *width),
                    chunks=(rows, *width),
                    fillvalue=fill,
                )
            file.flush()
        file.swmr_mode = True
        unnamed.rename(self.path)
        return file

    def _append(self, table: Sequence[Dataset], record: TrainRecord | EvaluationRecord) -> None:
        row = {dataset.path: np.asarray(getattr(record, dataset.field), dataset.dtype) for dataset in table}
        for dataset in table:
            if row[dataset.path].shape != self._width[dataset.axis]:
                shape = row[dataset.path].shape
                raise ValueError(f"{dataset.field} has shape {shape}, not {self._width[dataset.axis]}")
        step, *rest = (dataset.path for dataset in table)
        try:
            with _room_for(self._file, sum(value.nbytes for value in row.values())):
                position = len(self._datasets[step])
                for path in rest:
                    self._write_row(path, position, row[path])
                self._file.flush()
                self._write_row(step, position, row[step])
                self._datasets[step].flush()
        except (OSError, RuntimeError) as error:
            raise MetricsError(f"{self.path}: cannot be written: {error}") from error

    def _write_row(self, path: str, position: int, value: NDArray[Any]) -> None:
        target = self._datasets[path]
        target.resize(position + 1, axis=0)
        target[position] = value


@contextmanager
def _room_for(file: Any, num_bytes: int) -> Iterator[None]:
    """Have room on disk before HDF5 needs it, and give back what it did not take.

    Where HDF5 itself finds a disk or a quota full, it loses its place and crashes the process as it exits.

    Raises:
        OSError: the disk is full.
    """
    descriptor = file.id.get_vfd_handle()
    os.posix_fallocate(descriptor, file.id.get_filesize(), 2 * num_bytes + _RESERVE_BYTES)
    yield
    os.ftruncate(descriptor, file.id.get_filesize())


def read_metrics(folder: str | Path, last: int | None = None) -> Metrics:
    """Records of a run, while it is being written or after; changes nothing.

    A start that continued from step s (its attribute `first_step`) replaces all earlier records after s. NaN rows are
    kept.

    Args:
        folder: the run's folder.
        last: so many records of training and of evaluation at most, the last ones, which takes no longer for a longer
            run; None: all. Starts before the last eight are looked into only for records of training.

    Raises:
        RunFolderError: there is no metrics file.
        MetricsError: a file is unreadable, or does not fit the first one; it is named.
        MissingDependencyError: h5py is not installed.
    """
    files = metrics_files(Path(folder))
    if not files:
        raise RunFolderError(f"{folder}: holds no metrics (metrics/0000.h5)")
    parts: list[Metrics] = []
    for file in reversed(files):
        if last is not None and len(parts) >= _MOST_STARTS and sum(len(part.step) for part in parts) >= last:
            break
        ends = min(map(_step_before, parts), default=None)
        parts = [_read_file(file, last, ends), *parts]
    for file, part in zip(files[-len(parts) :], parts, strict=True):
        if part.num_members != parts[0].num_members or part.layer_names != parts[0].layer_names:
            raise MetricsError(f"{file}: other members or layers than in {files[0].name}")
    joined = _join(parts)
    return joined if last is None else _cut(joined, last)


def read_attributes(folder: Path) -> Mapping[str, Attribute]:
    """What a run's last start wrote about itself; no older file is looked at.

    Raises:
        RunFolderError, MetricsError, MissingDependencyError: as `read_metrics`.
    """
    files = metrics_files(folder)
    if not files:
        raise RunFolderError(f"{folder}: holds no metrics (metrics/0000.h5)")
    return _read_file(files[-1], last=1).attributes


def _read_file(path: Path, last: int | None = None, ends: int | None = None) -> Metrics:
    """One start's records.

    Args:
        path: of the file.
        last: at most so many of each table.
        ends: the last step that counts of those, where later starts went on from before this one's end.
    """
    with open_to_read(path) as file:
        attributes = hdf5.read_attributes(file)
        layer_names = attributes.pop("layer_names")
        if "first_step" not in attributes:  # of an early version: where it began is in its first record
            last = None
        train, evaluate = (_read_table(file, table, last, ends) for table in (TRAIN, EVALUATE))
        table: dict[str, Any] = {**train, "evaluate_step": evaluate.pop("step"), **evaluate}
        _check_widths(table, layer_names)
        return Metrics(**table, layer_names=tuple(layer_names), attributes=attributes)


def _read_table(
    file: Any, table: Sequence[Dataset], last: int | None = None, ends: int | None = None
) -> dict[str, NDArray[Any]]:
    """The whole records of a table by field name; `last` and `ends` as of `_read_file`."""
    rows = slice(None)
    if last is not None:
        stop = hdf5.num_rows(file, table[0].path)
        if ends is not None:
            step = hdf5.read_column(file, table[0].path, np.int64, 1)
            stop = int(np.searchsorted(step[step != _NO_STEP], ends, side="right"))
        rows = slice(max(0, stop - last - _RACE), stop)
    columns = {dataset.field: _column(file, dataset, rows) for dataset in table}
    unwritten = np.flatnonzero(columns["step"] == _NO_STEP)
    num_rows = min([*map(len, columns.values()), *unwritten[:1].tolist()])
    return {name: column[:num_rows] for name, column in columns.items()}


def _column(file: Any, dataset: Dataset, rows: slice) -> NDArray[Any]:
    """What a dataset holds in some rows; NaN, or of integers 0, where the file is older than the dataset."""
    if dataset.like is not None and not hdf5.has_own(file, dataset.path):
        like = hdf5.read_column(file, dataset.like, np.float64, 2 if dataset.axis else 1, rows)
        return np.full(like.shape, np.nan if dataset.dtype is np.float64 else 0, dataset.dtype)
    return hdf5.read_column(file, dataset.path, dataset.dtype, 2 if dataset.axis else 1, rows)


def _check_widths(table: Mapping[str, NDArray[Any]], layer_names: Any) -> None:
    """Refuse columns that are of other members or layers than the rest.

    Raises:
        ValueError: naming the field.
    """
    if not isinstance(layer_names, list) or not all(isinstance(name, str) for name in layer_names):
        raise ValueError("layer_names: expected a list of names")
    widths = {"member": table["loss"].shape[1], "layer": len(layer_names)}
    for dataset in TRAIN + EVALUATE:
        if dataset.axis and (width := table[dataset.field].shape[1]) != widths[dataset.axis]:
            raise ValueError(f"{dataset.path}: {width} columns; expected one a {dataset.axis}, {widths[dataset.axis]}")


def _join(parts: Sequence[Metrics]) -> Metrics:
    """One table out of several starts; each start ends where a later one begins."""
    begins = [_step_before(part) for part in parts]
    joined: dict[str, Any] = {}
    for table, step in ((TRAIN, "step"), (EVALUATE, "evaluate_step")):
        kept = [_outlives(getattr(part, step), parts[n + 1 :], begins[n + 1 :], step) for n, part in enumerate(parts)]
        for name in (step if dataset.field == "step" else dataset.field for dataset in table):
            joined[name] = np.concatenate([getattr(part, name)[rows] for part, rows in zip(parts, kept, strict=True)])
    starts = tuple(begin for part, begin in zip(parts, begins, strict=True) if len(part.step))
    return replace(parts[-1], **joined, starts=starts)


def _cut(metrics: Metrics, last: int) -> Metrics:
    """The last records of each table."""
    names = ["evaluate_step" if dataset.path == "evaluate/step" else dataset.field for dataset in (*TRAIN, *EVALUATE)]
    return replace(metrics, **{name: getattr(metrics, name)[-last:] for name in names})


def _outlives(steps: NDArray[Any], later: Sequence[Metrics], begins: Sequence[int], name: str) -> NDArray[Any]:
    """Which records of a start later ones do not replace: none of these went on from before them, or has them too."""
    replaced = np.isin(steps, [number for part in later for number in getattr(part, name).tolist()])
    outlives: NDArray[Any] = ~replaced & (steps <= min(begins, default=int(np.iinfo(np.int64).max)))
    return outlives


def _step_before(part: Metrics) -> int:
    """The step from which a start went on; files that do not say it began just before their first record."""
    if "first_step" in part.attributes:
        return int(part.attributes["first_step"])
    return min([*part.step[:1].tolist(), *part.evaluate_step[:1].tolist()], default=int(np.iinfo(np.int64).max)) - 1
