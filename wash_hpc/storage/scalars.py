"""A record of the metrics as named scalars, as programs that draw curves want them. No file is touched here."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from wash_hpc.storage.records import EVALUATE, TRAIN, Dataset, EvaluationRecord, Integers, Metrics, TrainRecord

Scalars = dict[str, float]
"""Finite numbers by their names: a dataset's path, and after it the member, the layer or `mean`."""

MOST_PAST_RECORDS = 1000
"""Of each kind, that a continued run writes anew: TensorBoard shows no more of a curve, W&B's charts hardly more."""


def scalars_of(record: TrainRecord | EvaluationRecord, layer_names: Sequence[str]) -> Scalars:
    """The numbers of a record, but for its step.

    Members' are `train/loss/member-0` ..., and `train/loss/mean`; layers' `ensemble/consensus_distance_per_layer/NAME`.

    Args:
        record: one row; what is not a finite number, or was not due, is left out.
        layer_names: L names.
    """
    table = TRAIN if isinstance(record, TrainRecord) else EVALUATE
    return _scalars(table, {dataset.field: getattr(record, dataset.field) for dataset in table}, layer_names)


def past_scalars(metrics: Metrics, last_step: int) -> Iterator[tuple[int, Scalars]]:
    """What was written until a step, as `scalars_of` says it, by step; of one step, training before evaluation.

    Of records of training, of those with a consensus distance, and of evaluations, each, `MOST_PAST_RECORDS` at most,
    evenly spread, the first and the last among them: what is yielded does not grow with a run's length.
    """
    train, evaluate = (np.flatnonzero(steps <= last_step) for steps in (metrics.step, metrics.evaluate_step))
    with_distance = train[np.isfinite(metrics.consensus_distance[train])]
    rows = [(int(metrics.step[row]), 0, row) for row in np.union1d(_spread(train), _spread(with_distance))]
    rows += [(int(metrics.evaluate_step[row]), 1, row) for row in _spread(evaluate)]
    for step, kind, row in sorted(rows):
        table = (TRAIN, EVALUATE)[kind]
        values = {dataset.field: getattr(metrics, dataset.field)[row] for dataset in table[1:]}
        yield step, _scalars(table, values, metrics.layer_names)


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


def _spread(rows: Integers) -> Integers:
    """At most `MOST_PAST_RECORDS` of these."""
    if len(rows) <= MOST_PAST_RECORDS:
        return rows
    return rows[np.linspace(0, len(rows) - 1, MOST_PAST_RECORDS).round().astype(np.int64)]


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
