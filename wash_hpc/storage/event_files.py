"""The event files that TensorBoard reads: scalars by step, the configuration, and at the end what the run came to.

Owns the import of tensorboard. Every start of a run writes one file for the whole run, what earlier starts wrote until
its first step included, and removes theirs: `RUN/tensorboard/events.out.tfevents.NNNN`.
Records are written through TensorBoard's own protocol buffers and framing, but not through its writer, whose thread
would find a full disk long after the call, and which would import TensorFlow where that is installed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
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

    The file says that it begins anew, so that a TensorBoard which looks on drops what it has read of an earlier one.

    Args:
        config: the run's.
        first_step: steps already done.
        past: gives the numbers until that step.

    Raises:
        OSError: the file cannot be written.
        MissingDependencyError: tensorboard is not installed.
    """

    def __init__(self, config: Config, first_step: int, past: Callable[[], Iterable[tuple[int, Scalars]]]) -> None:
        self._board = import_tensorboard()
        self._num_steps = first_step
        folder = config.folder / "tensorboard"
        folder.mkdir(exist_ok=True)
        earlier = [file for file in folder.glob(f"{_FILE}*") if file.suffix[1:].isdecimal()]
        number = max((int(file.suffix[1:]) for file in earlier), default=-1) + 1
        file = folder / f"{_FILE}{number:04d}"
        self._writer = self._board.RecordWriter(file.open("xb"))
        try:
            self._write_beginning(config)
            for step, scalars in past():
                self.append(step, scalars)
        except BaseException:  # the disk may be full: what earlier starts wrote is then still what TensorBoard shows
            file.unlink()
            raise
        for place in earlier:
            place.unlink()

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

    def _write_beginning(self, config: Config) -> None:
        """That nothing before it counts, and the configuration: as text, and as settings by which runs are compared."""
        board = self._board
        self._write(file_version="brain.Event:2")
        self._write(step=0, session_log=board.SessionLog(status=board.SessionLog.START))
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
