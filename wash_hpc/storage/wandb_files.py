"""The offline run that `wandb sync` reads: one file in `RUN/wandb`, the whole curve of a run in it.

Owns the import of wandb. The records are W&B's own protocol buffers, in the file format of its offline runs (a log in
LevelDB's form). They are not written through `wandb.init`: that starts a server process, which any signal to the job
ends with what it has not written yet, keeps files below the home directory, and puts itself in front of `sys.exit` and
the hook for uncaught errors. Here no process is started, no network is used, and nothing of the environment is written.

W&B can neither take back a step nor, offline, go on with a run. So each start writes one file for the whole run, what
earlier starts wrote until its first step included, and removes theirs.
"""

from __future__ import annotations

import json
import shutil
import struct
import uuid
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO

import wash_hpc
from wash_hpc.config import Config
from wash_hpc.errors import MissingDependencyError
from wash_hpc.storage.scalars import Scalars

_BLOCK_BYTES = 2**15
_HEADER_BYTES = 7  # of a piece of a record: checksum, length, kind
_WHOLE, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4
_FILE_HEADER = b":W&B" + struct.pack("<HB", 0xBEE1, 0)
_OLDEST_READER = "0.70.0"  # what wandb writes as the oldest version that reads its records


def import_wandb() -> Any:
    """W&B's protocol buffers; it takes half a second and starts nothing.

    Raises:
        MissingDependencyError: wandb is not installed.
    """
    try:
        from wandb.proto import wandb_internal_pb2
    except ModuleNotFoundError as error:
        raise MissingDependencyError("W&B", "pip install 'wash_hpc[wandb]'") from error
    return wandb_internal_pb2


class OfflineRun:
    """An offline run of W&B with the configuration, a row of its history for each step, and at the end the summary.

    A row is written when the next step comes; all starts of a run have the same id.

    Args:
        config: the run's.
        first_step: steps already done.
        past: gives the numbers until that step.

    Raises:
        OSError: the file cannot be written.
        MissingDependencyError: wandb is not installed.
    """

    def __init__(self, config: Config, first_step: int, past: Callable[[], Iterable[tuple[int, Scalars]]]) -> None:
        self._wandb = import_wandb()
        self._began = datetime.now(UTC)
        self._step, self._row = first_step, Scalars()
        folder = config.folder / "wandb"
        earlier = sorted(folder.glob("offline-run-*-*"))
        run_id = earlier[-1].name.rsplit("-", 1)[-1] if earlier else uuid.uuid4().hex[:8]
        named = self._began
        while (own := folder / f"offline-run-{named:%Y%m%d_%H%M%S}-{run_id}").exists():
            named += timedelta(seconds=1)
        (own / "files").mkdir(parents=True)
        self._log = RecordLog(own / f"run-{run_id}.wandb")
        self._num_records = 0
        self._has_ended, self._is_past = False, True
        try:
            self._write_start(config, run_id)
            for step, scalars in past():
                self.append(step, scalars)
            self._write_row()
        except BaseException:  # the disk may be full: what earlier starts wrote stays
            shutil.rmtree(own)
            raise
        self._is_past = False
        for place in earlier:
            shutil.rmtree(place)

    def append(self, step: int, scalars: Scalars) -> None:
        """Add numbers to the row of a step. Raises OSError."""
        if step != self._step:
            self._write_row()
            self._step = step
        self._row |= scalars

    def end(self, summary: Mapping[str, Any]) -> None:
        """Write what the run came to, beside the last value of each curve."""
        self._write_row()
        self._write("summary", update=[{"key": name, "value_json": json.dumps(summary[name])} for name in summary])
        self._has_ended = True

    def close(self) -> None:
        """Say how the run has ended, failed unless `end` was called, and close the file; a second call does nothing."""
        if not self._log.closed:
            self._write_row()
            self._write("exit", exit_code=0 if self._has_ended else 1, runtime=int(self._runtime()))
            self._log.close()

    def _write_start(self, config: Config, run_id: str) -> None:
        version = {"producer": f"wash_hpc {wash_hpc.__version__}", "min_consumer": _OLDEST_READER}
        self._write("header", version_info=version)
        settings = [{"key": section, "value_json": json.dumps(values)} for section, values in asdict(config).items()]
        self._write(
            "run",
            run_id=run_id,
            project="wash_hpc",
            display_name=config.run.name,
            config={"update": settings},
            start_time={"seconds": int(self._began.timestamp())},
        )

    def _write_row(self) -> None:
        """Write the row that has been gathered, and its numbers as the latest."""
        if not self._row:
            return
        now = {"_timestamp": datetime.now(UTC).timestamp(), "_runtime": self._runtime()}
        row = {"_step": self._step} | ({} if self._is_past else now) | self._row  # when the past was is not known
        items = [{"nested_key": [name], "value_json": json.dumps(value)} for name, value in row.items()]
        self._write("summary", update=items)
        self._write("history", item=items, step={"num": self._step})
        self._row = Scalars()

    def _runtime(self) -> float:
        return (datetime.now(UTC) - self._began).total_seconds()

    def _write(self, kind: str, **content: Any) -> None:
        self._num_records += 1
        record = self._wandb.Record(num=self._num_records, **{kind: content})
        self._log.append(record.SerializeToString())


class RecordLog:
    """A log of records in LevelDB's form: blocks of 32 KiB, no header of a piece across two of them.

    Args:
        path: a new file.

    Raises:
        OSError: it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = path.open("xb")
        self._file.write(_FILE_HEADER)
        self._position = len(_FILE_HEADER)

    @property
    def closed(self) -> bool:
        """Whether it is."""
        return self._file.closed

    def append(self, record: bytes) -> None:
        """Write a record; it is in the file on return."""
        left, is_first, written = record, True, bytearray()
        while True:
            room = _BLOCK_BYTES - (self._position + len(written)) % _BLOCK_BYTES
            if room < _HEADER_BYTES:
                written += bytes(room)
                room = _BLOCK_BYTES
            piece, left = left[: room - _HEADER_BYTES], left[room - _HEADER_BYTES :]
            kind = (_FIRST if left else _WHOLE) if is_first else (_MIDDLE if left else _LAST)
            checksum = zlib.crc32(piece, zlib.crc32(bytes([kind])))
            written += struct.pack("<IHB", checksum, len(piece), kind) + piece
            is_first = False
            if not left:
                break
        self._file.write(written)
        self._file.flush()
        self._position += len(written)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
