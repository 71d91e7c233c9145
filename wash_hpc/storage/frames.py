"""The metrics of a run as tidy tables, which pandas and polars take as they are. Imports neither."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from wash_hpc.storage.metrics import read_metrics
from wash_hpc.storage.records import EVALUATE, TRAIN, Metrics

Kind = Literal["train", "evaluate", "layers"]
Table = dict[str, NDArray[Any]]
"""Columns of equal length by their names."""


def read_table(folder: str | Path, kind: Kind = "train") -> Table:
    """Metrics of a run, while it is being written or after, as in `pandas.DataFrame(read_table("runs/x"))`.

    Args:
        folder: the run's folder.
        kind: `train`: one row a record and member, with the columns step, epoch, lr, member, loss, ...;
            `evaluate`: one row an evaluation and member, with step, member, member_accuracy, ensemble_accuracy, ...;
            `layers`: one row a layer of each record in which the consensus distance was computed, with step, layer,
            distance. They mean what `records.TrainRecord` and `records.EvaluationRecord` say; what is of no member
            stands in the rows of all.

    Returns:
        Columns, 1-D and of one length: int64, float64, or text for `layer`.

    Raises:
        RunFolderError: there is no metrics file.
        MetricsError: a file is unreadable.
        MissingDependencyError: h5py is not installed.
        ValueError: another `kind`.
    """
    metrics = read_metrics(folder)
    if kind == "layers":
        return _table_of_layers(metrics)
    if kind not in {"train", "evaluate"}:
        raise ValueError(f"kind={kind!r}: expected train, evaluate or layers")
    return _table_of_members(metrics, kind)


def _table_of_members(metrics: Metrics, kind: Kind) -> Table:
    steps, datasets = (metrics.step, TRAIN) if kind == "train" else (metrics.evaluate_step, EVALUATE)
    num_members = metrics.num_members
    single, by_member = {"step": np.repeat(steps, num_members)}, {"member": np.tile(np.arange(num_members), len(steps))}
    for dataset in datasets[1:]:  # the first is the step
        column = getattr(metrics, dataset.field)
        if dataset.axis == "":
            single[dataset.field] = np.repeat(column, num_members)
        elif dataset.axis == "member":
            by_member[dataset.field] = column.reshape(-1)
    return single | by_member


def _table_of_layers(metrics: Metrics) -> Table:
    computed = np.isfinite(metrics.consensus_distance)
    distances = metrics.consensus_distance_per_layer[computed]
    return {
        "step": np.repeat(metrics.step[computed], distances.shape[1]),
        "layer": np.tile(np.array(metrics.layer_names), len(distances)),
        "distance": distances.reshape(-1),
    }
