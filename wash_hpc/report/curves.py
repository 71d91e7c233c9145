"""The figures over a run's steps: quality, loss, accuracy, consensus distance, learning rate. Draws nothing.

A few runs have a colour each and a curve for each member. Many runs could not be told apart like that: then colour says
the method, and a run's curve is its members' mean.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from wash_hpc.report.figure import COLOURS, DASHES, Axis, Curve, Figure, HeatMap, Key, Series, Values, rounded, thinned
from wash_hpc.report.runs import NUM_LAYERED, Run, has_distances_by_layer
from wash_hpc.storage.metrics import Metrics

_FEW_RUNS = 12
_FIGURE_POINTS = 20_000  # over all curves of one: some 15 bytes each, and quick to draw
_CURVE_POINTS = (20, 2000)  # of one curve, at least and at most
_HEAT_CELLS, _HEAT_COLUMNS = 16_000, 300

SOUP = Key("what-soup", "soup", "", "solid", "circle")
ENSEMBLE = Key("what-ensemble", "ensemble", "", "dash", "diamond-open")
MEMBERS = Key("what-members", "members' mean", "", "dot", "x-thin-open")


@dataclass(frozen=True)
class Shown:
    """Runs and what gives each its colour.

    Attributes:
        runs: in the order of the report.
        keys: one a run; equal ones where they share a colour.
        are_few: whether each run of the report has a colour of its own.
    """

    runs: Sequence[Run]
    keys: Sequence[Key]
    are_few: bool

    def judged_by(self, metric: str) -> Shown:
        """Those whose summaries say this metric."""
        pairs = [pair for pair in zip(self.runs, self.keys, strict=True) if pair[0].summary.metric == metric]
        return Shown([run for run, _ in pairs], [key for _, key in pairs], self.are_few)

    @property
    def with_metrics(self) -> list[tuple[Run, Key, Metrics]]:
        """Those whose curves are known."""
        pairs = zip(self.runs, self.keys, strict=True)
        return [(run, key, run.metrics) for run, key in pairs if run.metrics is not None]


def shown(runs: Sequence[Run]) -> Shown:
    """Runs with their colours: each its own or, where there are many, its method's."""
    if len(runs) <= _FEW_RUNS:
        keys = [_key(f"run-{number}", run.label, number) for number, run in enumerate(runs)]
        return Shown(runs, keys, are_few=True)
    numbers = Counter(run.methods for run in runs)
    by_method = {
        method: _key(f"method-{number}", f"{method} ({count} runs)" if count > 1 else method, number)
        for number, (method, count) in enumerate(numbers.items())
    }
    return Shown(runs, [by_method[run.methods] for run in runs], are_few=False)


def curve_figures(those: Shown) -> list[Figure]:
    """All figures over steps that these runs have something for, without the heat maps."""
    whose = (
        "One line a member." if those.are_few else "One line a run, the mean of its members; colour says the method."
    )
    step = Axis("step")
    on_images = those.judged_by("accuracy")
    on_text = those.judged_by("perplexity")
    evaluated = "Of the whole evaluation split, while training. Solid: soup; dashed: ensemble; dotted: mean of members."
    apart = "Root mean square distance of the members to their mean; a shuffle by itself leaves it as it is."
    loss = _member_series(those, "loss")
    perplexities = _evaluation_series(on_text, "nll")
    wanted = [
        ("evaluation", "Accuracy of members, ensemble and soup", evaluated, Axis("accuracy", "percent"),
         _evaluation_series(on_images, "accuracy")),
        ("perplexity", "Perplexity of members, ensemble and soup", f"{evaluated} Lower is better.",
         Axis("perplexity", log=spans_decades(perplexities)), perplexities),
        ("loss", "Training loss", whose, Axis("loss", log=spans_decades(loss)), loss),
        ("accuracy", "Training accuracy", whose, Axis("accuracy", "percent"), _member_series(on_images, "accuracy")),
        ("consensus", "Consensus distance", apart, Axis("distance", from_zero=True), _run_series(those, _consensus)),
        ("lr", "Learning rate", "Of the optimizer, at each record.", Axis("learning rate", from_zero=True),
         _run_series(those, lambda metrics: (metrics.step, metrics.lr))),
    ]  # fmt: skip
    return [Figure(key, title, about, step, y, series) for key, title, about, y, series in wanted if series]


def heat_figures(those: Shown) -> list[Figure]:
    """The consensus distance of every layer over time, of the first runs that have it."""
    found = []
    for run, _, metrics in those.with_metrics:
        if has_distances_by_layer(metrics):
            found.append((run, metrics, np.flatnonzero(np.isfinite(metrics.consensus_distance))))
    chosen = found[:NUM_LAYERED]
    rest = f" Shown for the first {NUM_LAYERED} of {len(found)} runs." if len(found) > NUM_LAYERED else ""
    return [
        Figure(
            f"layers-{number}",
            f"Consensus distance of each layer: {run.label}",
            "Depth from top (the input) to bottom (the output); brighter is farther apart. Parameters that the method "
            f"holds together stay dark.{rest}",
            Axis("step"),
            Axis(""),
            _heat_map(metrics, rows),
            height=min(1100, max(260, 90 + 13 * len(metrics.layer_names))),
        )
        for number, (run, metrics, rows) in enumerate(chosen)
    ]


def _heat_map(metrics: Metrics, rows: Values) -> HeatMap:
    num_columns = min(_HEAT_COLUMNS, max(20, _HEAT_CELLS // len(metrics.layer_names)))
    if len(rows) > num_columns:  # colours are read for their trend: evenly spread
        rows = rows[np.linspace(0, len(rows) - 1, num_columns).round().astype(np.int64)]
    table = metrics.consensus_distance_per_layer[rows].T
    values = [[value if value is not None and value > 0 else None for value in rounded(layer)] for layer in table]
    return HeatMap(metrics.step[rows].tolist(), list(metrics.layer_names), values, "distance")


def _key(name: str, label: str, number: int) -> Key:
    dash = DASHES[number // len(COLOURS) % len(DASHES)]
    return Key(name, label, COLOURS[number % len(COLOURS)], dash)


def _member_series(those: Shown, field: str) -> list[Series]:
    """Of a [T, M] field: each member's curve, or the members' mean."""

    def curves_of(run: Run, metrics: Metrics) -> list[tuple[str, Values, Values]]:
        table = getattr(metrics, field)
        if not those.are_few:
            return [(run.label, metrics.step, _mean(table))]
        return [(f"{run.label}, member {member}", metrics.step, values) for member, values in enumerate(table.T)]

    return _series(those, None, curves_of)


def _run_series(those: Shown, values_of: Callable[[Metrics], tuple[Values, Values]]) -> list[Series]:
    """One curve a run."""
    return _series(those, None, lambda run, metrics: [(run.label, *values_of(metrics))])


def _evaluation_series(those: Shown, kind: str) -> list[Series]:
    """Soup, ensemble and members' mean of each run: accuracies, or perplexities from likelihoods."""
    told = (lambda values: values) if kind == "accuracy" else _perplexity

    def of(what: str) -> Callable[[Run, Metrics], list[tuple[str, Values, Values]]]:
        def curves_of(run: Run, metrics: Metrics) -> list[tuple[str, Values, Values]]:
            values = getattr(metrics, f"{what}_{kind}")
            return [(run.label, metrics.evaluate_step, told(_mean(values) if values.ndim == 2 else values))]

        return curves_of

    kinds = (("soup", SOUP), ("ensemble", ENSEMBLE), ("member", MEMBERS))
    return [series for what, key in kinds for series in _series(those, key, of(what), num_kinds=len(kinds))]


def _consensus(metrics: Metrics) -> tuple[Values, Values]:
    """The distance at the records for which it was computed."""
    computed = np.isfinite(metrics.consensus_distance)
    return metrics.step[computed], metrics.consensus_distance[computed]


def _series(
    those: Shown,
    what: Key | None,
    curves_of: Callable[[Run, Metrics], list[tuple[str, Values, Values]]],
    num_kinds: int = 1,
) -> list[Series]:
    """One series for each colour, of all curves (name, steps, values) that have something to show."""
    found = [
        (key, curve)
        for run, key, metrics in those.with_metrics
        for curve in curves_of(run, metrics)
        if np.isfinite(curve[2]).any()
    ]
    least, most = _CURVE_POINTS
    num_points = max(least, min(most, _FIGURE_POINTS // max(1, num_kinds * len(found))))
    by_key: dict[Key, list[Curve]] = {}
    for key, (name, steps, values) in found:
        rows = thinned(values, num_points)
        by_key.setdefault(key, []).append(Curve(name, steps[rows].tolist(), rounded(values[rows])))
    return [Series(key, curves, what) for key, curves in by_key.items()]


def _mean(table: Values) -> Values:
    """[T] the mean of [T, M] over the members that are numbers; NaN where none is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a row of NaN is no surprise here
        mean: Values = np.nanmean(table, axis=1)
    return mean


def _perplexity(nll: Values) -> Values:
    """Of likelihoods in nats; an infinite one is none that a figure can show."""
    with np.errstate(over="ignore"):
        return np.exp(nll)


def spans_decades(series: Sequence[Series]) -> bool:
    """Whether all numbers are above nothing and the largest is more than thirty times the least."""
    values = [value for one in series for curve in one.curves for value in curve.y if value is not None]
    return bool(values) and min(values) > 0 and max(values) > 30 * min(values)
