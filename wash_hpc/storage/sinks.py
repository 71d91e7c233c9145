"""Where the metrics of a run go besides HDF5 (`log.sinks`): the files that TensorBoard and W&B read.

They are copies. HDF5 is written first and decides whether the run goes on; a copy that cannot be written is said once
and left as it is. What their files look like is `event_files`' and `wandb_files`' business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, Protocol

from wash_hpc.config import Config
from wash_hpc.errors import WashError
from wash_hpc.storage.event_files import EventFile, import_tensorboard
from wash_hpc.storage.metrics import MetricsWriter, metrics_files, read_metrics
from wash_hpc.storage.records import Attribute, EvaluationRecord, TrainRecord
from wash_hpc.storage.scalars import Scalars, past_scalars, scalars_of
from wash_hpc.storage.summary import Summary, summary_object
from wash_hpc.storage.wandb_files import OfflineRun, import_wandb

Past = Callable[[], Iterable[tuple[int, Scalars]]]
"""Gives what earlier starts wrote, by step, until the one from which this start goes on; long ones are thinned."""


class Sink(Protocol):
    """Files of one program, made anew by each start with the whole curve in them: what earlier starts wrote, too.

    The files of an earlier start go when the new ones hold its curve. Methods raise OSError where they cannot write.
    """

    def append(self, step: int, scalars: Scalars) -> None:
        """Write numbers of a step, not earlier than the last one; of one step there may be several calls."""

    def end(self, summary: Mapping[str, Any]) -> None:
        """Write what the run came to: the object of `summary.json`."""

    def close(self) -> None:
        """Finish the files; a second call does nothing."""


_IMPORTS: dict[str, Callable[[], object]] = {"tensorboard": import_tensorboard, "wandb": import_wandb}
_SINKS: dict[str, Callable[[Config, int, Past], Sink]] = {"tensorboard": EventFile, "wandb": OfflineRun}


def import_sinks(names: Sequence[str]) -> None:
    """Import the libraries of the sinks, so that one that is missing is said before a run writes anything.

    Raises:
        MissingDependencyError: one is not installed.
    """
    for name in names:
        _IMPORTS[name]()


class MetricsWriters:
    """Writes records to a new metrics file and to the run's sinks. Used by the root rank only.

    Args:
        config: the run's; `metrics/`, `tensorboard/` and `wandb/` are made in its folder.
        num_members: M, at least 1.
        layer_names: L names, at least one.
        attributes: about the run, kept in the metrics file.
        first_step: steps already done when this start began.
        say: tells the user a sentence.

    Raises:
        MetricsError: the metrics file cannot be created.
        MissingDependencyError: a library is not installed.
    """

    def __init__(
        self,
        config: Config,
        num_members: int,
        layer_names: Sequence[str],
        attributes: Mapping[str, Attribute],
        first_step: int,
        say: Callable[[str], None],
    ) -> None:
        self._layer_names = layer_names
        self._say = say
        self._metrics = MetricsWriter(config.folder, num_members, layer_names, attributes)
        self._sinks: dict[str, Sink] = {}

        earlier = cache(lambda: read_metrics(config.folder))  # once for all sinks

        def past() -> Iterable[tuple[int, Scalars]]:
            is_continued = first_step > 0 and len(metrics_files(config.folder)) > 1
            return past_scalars(earlier(), first_step) if is_continued else ()

        for name in config.log.sinks:
            with self._may_fail(name):
                self._sinks[name] = _SINKS[name](config, first_step, past)

    def append_train(self, record: TrainRecord) -> None:
        """Write one row of training; raises what `MetricsWriter.append_train` raises."""
        self._metrics.append_train(record)
        self._append(record)

    def append_evaluation(self, record: EvaluationRecord) -> None:
        """Write one row of evaluation; raises what `append_train` raises."""
        self._metrics.append_evaluation(record)
        self._append(record)

    def end(self, summary: Summary) -> None:
        """Tell the sinks what the run came to."""
        self._each(lambda sink: sink.end(summary_object(summary)))

    def close(self) -> None:
        """Finish all files; a second call does nothing. Raises what `MetricsWriter.close` raises."""
        self._each(lambda sink: sink.close())
        self._metrics.close()

    def _append(self, record: TrainRecord | EvaluationRecord) -> None:
        if self._sinks:
            scalars = scalars_of(record, self._layer_names)
            self._each(lambda sink: sink.append(record.step, scalars))

    def _each(self, act: Callable[[Sink], None]) -> None:
        for name, sink in list(self._sinks.items()):
            with self._may_fail(name):
                act(sink)

    @contextmanager
    def _may_fail(self, name: str) -> Iterator[None]:
        """Where the block fails the sink is left alone from then on, and the user is told."""
        try:
            yield
        except (OSError, WashError) as error:
            self._sinks.pop(name, None)
            self._say(f"log.sinks={name}: its files are left as they are, the run goes on without them: {error}")
