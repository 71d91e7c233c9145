"""A record of the metrics as named scalars, as programs that draw curves want them. No file is touched here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from wash_hpc.storage.records import EVALUATE, TRAIN, Dataset, EvaluationRecord, Metrics, TrainRecord

Scalars = dict[str, float]
"""Finite numbers by their names: a dataset's path, and after it the member, the layer or `mean`."""


def scalars_of(record: TrainRecord | EvaluationRecord, layer_names: Sequence[str]) -> Scalars:
    """The numbers of a record, but for its step.

    Members' are `train/loss/member-0` ..., and `train/loss/mean`; layers' `ensemble/consensus_distance_per_layer/NAME`.

    Args:
        record: one row; what is not a finite number, or was not due, is left out.
        layer_names: L names.
    """
    table = TRAIN if isinstance(record, TrainRecord) else EVALUATE
    return _scalars(table, {dataset.field: getattr(record, dataset.field) for dataset in table}, layer_names)


def past_scalars(metrics: Metrics, last_step: int) -> list[tuple[int, Scalars]]:
    """What was written until a step, as `scalars_of` says it, by step; of one step, training before evaluation."""
    rows = []
    for table, steps in ((TRAIN, metrics.step), (EVALUATE, metrics.evaluate_step)):
        columns = {dataset.field: getattr(metrics, dataset.field) for dataset in table[1:]}
        for row, step in enumerate(steps.tolist()):
            if step <= last_step:
                values = {field: column[row] for field, column in columns.items()}
                rows.append((step, _scalars(table, values, metrics.layer_names)))
    return sorted(rows, key=lambda row: row[0])


def flat_settings(sections: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The values of a configuration by their full keys, as in `method.p`; None and lists are written out as text."""
    return {
        f"{section}.{key}": value if isinstance(value, str | bool | int | float) else str(value)
        for section, values in sections.items()
        for key, value in values.items()
    }


def finite_numbers(values: Mapping[str, Any]) -> Scalars:
    """Those of the values that are finite numbers."""
    numbers = {name: value for name, value in values.items() if type(value) in {int, float}}
    return {name: float(value) for name, value in numbers.items() if math.isfinite(value)}


def _scalars(table: Sequence[Dataset], values: Mapping[str, Any], layer_names: Sequence[str]) -> Scalars:
    named: dict[str, Any] = {}
    for dataset in table[1:]:  # the first is the step
        value = np.asarray(values[dataset.field], np.float64).tolist()
        if dataset.axis == "member":
            named |= {f"{dataset.path}/member-{member}": item for member, item in enumerate(value)}
            named[f"{dataset.path}/mean"] = sum(value) / len(value)
        elif dataset.axis == "layer":
            named |= {f"{dataset.path}/{name}": item for name, item in zip(layer_names, value, strict=True)}
        else:
            named[dataset.path] = value
    return finite_numbers(named)
