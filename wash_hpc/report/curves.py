"""What the page draws: each figure as the plain JSON that Plotly takes. Owns no HTML and imports no Plotly.

Colour says the run, in Okabe and Ito's colours, which the colour-blind can tell apart; the line's style says what of
the run. Names are escaped, since Plotly reads a part of HTML in every text.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wash_hpc.report.runs import Run
from wash_hpc.report.table import format_bytes
from wash_hpc.storage.metrics import Metrics

Trace = dict[str, Any]
Values = NDArray[Any]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")  # Okabe and Ito's, less black
_HOVER_NAME = "<extra>%{fullData.name}</extra>"
_DASHES = ("solid", "dash", "dot", "dashdot")  # after the colours are used up
_PAGE_POINTS = 40_000  # over all curves: some 20 bytes each
_CURVE_POINTS = (20, 1000)  # of one curve, at least and at most


@dataclass(frozen=True)
class Figure:
    """One figure of the page.

    Attributes:
        key: its id in the page.
        title: its heading.
        about: what is seen, in a sentence or two.
        data: Plotly's traces.
        axes: Plotly's `xaxis` and `yaxis`.
    """

    key: str
    title: str
    about: str
    data: list[Trace]
    axes: dict[str, dict[str, Any]]


def figures(runs: Sequence[Run]) -> list[Figure]:
    """All figures of some runs; runs without metrics are in the last one only."""
    members = "One line a member; click a run in the legend to hide it."
    return [
        _figure(
            "evaluation",
            "Accuracy of members, ensemble and soup",
            "Evaluated while training. Solid: soup; dashed: ensemble; dotted: mean of the members.",
            _evaluation_traces(runs),
            {"title": {"text": "accuracy"}, "tickformat": ".0%"},
        ),
        _figure("loss", "Training loss", members, _member_traces(runs, "loss"), {"title": {"text": "loss"}}),
        _figure(
            "accuracy",
            "Training accuracy",
            members,
            _member_traces(runs, "accuracy"),
            {"title": {"text": "accuracy"}, "tickformat": ".0%"},
        ),
        _figure(
            "consensus",
            "Consensus distance",
            "Root mean square distance of the members to their mean; a shuffle by itself leaves it as it is.",
            _consensus_traces(runs),
            {"title": {"text": "distance"}, "rangemode": "tozero"},
        ),
        _bytes_figure(runs),
    ]


def thinned(length: int, num_points: int) -> NDArray[np.int64]:
    """Which of `length` records a curve of at most `num_points` shows: evenly spread, the first and last among them."""
    if length <= num_points:
        return np.arange(length)
    return np.linspace(0, length - 1, num_points).round().astype(np.int64)


def _figure(key: str, title: str, about: str, data: list[Trace], y_axis: dict[str, Any]) -> Figure:
    return Figure(key, title, about, data, {"xaxis": {"title": {"text": "step"}}, "yaxis": y_axis})


def _member_traces(runs: Sequence[Run], field: str) -> list[Trace]:
    """One curve a run and member, of a [T, M] field."""
    points = _points_per_curve(runs)
    traces = []
    for number, run, metrics in _with_metrics(runs):
        for member, values in enumerate(getattr(metrics, field).T):
            curve = _curve(run, number, metrics.step, values, f"member {member}", points)
            traces.append({**curve, "showlegend": member == 0, "opacity": 0.8})
    return traces


def _evaluation_traces(runs: Sequence[Run]) -> list[Trace]:
    points = _points_per_curve(runs)
    traces = []
    for number, run, metrics in _with_metrics(runs):
        for what, values, dash in (
            ("soup", metrics.soup_accuracy, "solid"),
            ("ensemble", metrics.ensemble_accuracy, "dash"),
            ("members' mean", metrics.member_accuracy.mean(axis=1), "dot"),
        ):
            curve = _curve(run, number, metrics.evaluate_step, values, what, points)
            line = {**curve["line"], "dash": dash, "width": 2}
            traces.append({**curve, "mode": "lines+markers", "line": line, "showlegend": what == "soup"})
    return traces


def _consensus_traces(runs: Sequence[Run]) -> list[Trace]:
    """One curve a run, through the records for which the distance was computed."""
    points = _points_per_curve(runs)
    traces = []
    for number, run, metrics in _with_metrics(runs):
        computed = np.isfinite(metrics.consensus_distance)
        steps, distances = metrics.step[computed], metrics.consensus_distance[computed]
        traces.append(_curve(run, number, steps, distances, "distance", points))
    return traces


def _bytes_figure(runs: Sequence[Run]) -> Figure:
    """Final accuracies against bytes, on a logarithmic axis with a place of its own for nothing sent."""
    sent = [run.summary.bytes_sent_per_member for run in runs]
    least = min((num_bytes for num_bytes in sent if num_bytes), default=1000)
    nothing = 10.0 ** (math.floor(math.log10(least)) - 1)
    traces = []
    for number, run in enumerate(runs):
        accuracies = (run.summary.soup_accuracy, run.summary.ensemble_accuracy, run.summary.mean_member_accuracy)
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": html.escape(run.label),
                "x": [sent[number] or nothing] * 3,
                "y": accuracies,
                "text": ["soup", "ensemble", "members' mean"],
                "hovertemplate": f"%{{text}}: %{{y:.2%}}, {format_bytes(sent[number])} sent" + _HOVER_NAME,
                "marker": {"color": _colour(number), "size": 11, "symbol": ["circle", "diamond-open", "x-thin-open"]},
            }
        )
    exponents = range(round(math.log10(nothing)) + 1, math.ceil(math.log10(max([least, *sent]))) + 1)
    ticks = [nothing, *(10.0**exponent for exponent in exponents)]
    names = ["nothing", *(format_bytes(tick) for tick in ticks[1:])]
    x_axis = {"title": {"text": "payload sent by one member"}, "type": "log", "tickvals": ticks, "ticktext": names}
    return Figure(
        "bytes",
        "Accuracy against bytes sent",
        "At the end, on the test images. Circle: soup; diamond: ensemble; cross: mean of the members.",
        traces,
        {"xaxis": x_axis, "yaxis": {"title": {"text": "accuracy"}, "tickformat": ".0%"}},
    )


def _curve(run: Run, number: int, steps: Values, values: Values, what: str, num_points: int) -> Trace:
    rows = thinned(len(steps), num_points)
    return {
        "type": "scatter",
        "mode": "lines",
        "name": html.escape(run.label),
        "legendgroup": str(number),
        "x": steps[rows].tolist(),
        "y": [float(f"{value:.5g}") if math.isfinite(value) else None for value in values[rows]],
        "line": {"color": _colour(number), "width": 1.5, "dash": _DASHES[number // len(COLOURS) % len(_DASHES)]},
        "hovertemplate": f"step %{{x}}, {what}: %{{y:.4g}}" + _HOVER_NAME,
    }


def _with_metrics(runs: Sequence[Run]) -> list[tuple[int, Run, Metrics]]:
    return [(number, run, run.metrics) for number, run in enumerate(runs) if run.metrics is not None]


def _points_per_curve(runs: Sequence[Run]) -> int:
    num_curves = sum(2 * metrics.num_members + 4 for _, _, metrics in _with_metrics(runs))
    least, most = _CURVE_POINTS
    return max(least, min(most, _PAGE_POINTS // max(1, num_curves)))


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]
