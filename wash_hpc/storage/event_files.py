"""The event files that TensorBoard reads: scalars by step, the configuration, and at the end what the run came to.

Owns the import of tensorboard. Every start of a run writes a new file, `RUN/tensorboard/events.out.tfevents.NNNN`.
Records are written through TensorBoard's own protocol buffers and framing, but not through its writer, whose thread
would find a full disk long after the call, and which would import TensorFlow where that is installed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

from wash_hpc.config import Config, dump_config
from wash_hpc.errors import MissingDependencyError
from wash_hpc.storage.scalars import Scalars, finite_numbers, flat_settings

_FILE = "events.out.tfevents."  # TensorBoard takes files by this part of their names, and reads them in order


def import_tensorboard() -> SimpleNamespace:
    """What is needed of TensorBoard; it takes half a second.

    Raises:
        MissingDependencyError: tensorboard is not installed.
    """
    try:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.compat.proto.tensor_pb2 import TensorProto
        from tensorboard.compat.proto.types_pb2 import DT_STRING
        from tensorboard.plugins.hparams.summary_v2 import hparams_pb
        from tensorboard.summary.writer.record_writer import RecordWriter
    except ModuleNotFoundError as error:
        raise MissingDependencyError("TensorBoard", "pip install 'wash_hpc[tensorboard]'") from error
    return SimpleNamespace(
        Event=Event,
        SessionLog=SessionLog,
        Summary=Summary,
        TensorProto=TensorProto,
        DT_STRING=DT_STRING,
        hparams_pb=hparams_pb,
        RecordWriter=RecordWriter,
    )


class EventFile:
    """A new event file of a run, each record of which is in the file when `append` returns.

    Where the run goes on from a step, the file says so, and TensorBoard drops what an earlier start wrote beyond it.

    Args:
        config: the run's.
        first_step: steps already done.
        past: gives the numbers until that step, which are written where no earlier start had this sink.

    Raises:
        OSError: the file cannot be written.
        MissingDependencyError: tensorboard is not installed.
    """

    def __init__(self, config: Config, first_step: int, past: Callable[[], list[tuple[int, Scalars]]]) -> None:
        self._board = import_tensorboard()
        self._num_steps = first_step
        folder = config.folder / "tensorboard"
        folder.mkdir(exist_ok=True)
        starts = [int(file.suffix[1:]) for file in folder.glob(f"{_FILE}*") if file.suffix[1:].isdecimal()]
        file = folder / f"{_FILE}{max(starts, default=-1) + 1:04d}"
        self._writer = self._board.RecordWriter(file.open("xb"))
        self._write(file_version="brain.Event:2")
        if starts:
            session = self._board.SessionLog(status=self._board.SessionLog.START)
            self._write(step=first_step + 1, session_log=session)
        self._write_configuration(config)
        for step, scalars in [] if starts else past():
            self.append(step, scalars)

    def append(self, step: int, scalars: Scalars) -> None:
        """Write numbers of a step. Raises OSError."""
        self._num_steps = step
        values = [self._board.Summary.Value(tag=name, simple_value=value) for name, value in scalars.items()]
        self._write(step=step, summary=self._board.Summary(value=values))

    def end(self, summary: Mapping[str, Any]) -> None:
        """Write the numbers of `summary.json` at the last step, which TensorBoard shows beside the settings."""
        numbers = finite_numbers(summary)
        self.append(self._num_steps, {f"summary/{name}": value for name, value in numbers.items()})

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        self._writer.close()

    def _write_configuration(self, config: Config) -> None:
        """As text, and as the settings by which TensorBoard compares runs."""
        board = self._board
        text = "\n".join(f"    {line}" for line in dump_config(config).splitlines())  # of Markdown: as it stands
        tensor = board.TensorProto(dtype=board.DT_STRING, string_val=[text.encode()])
        value = board.Summary.Value(tag="config", tensor=tensor)
        value.metadata.plugin_data.plugin_name = "text"
        self._write(summary=board.Summary(value=[value]))
        self._write(summary=board.hparams_pb(flat_settings(asdict(config)), trial_id=config.run.name))

    def _write(self, **content: Any) -> None:
        event = self._board.Event(wall_time=datetime.now(UTC).timestamp(), **content)
        self._writer.write(event.SerializeToString())
        self._writer.flush()
