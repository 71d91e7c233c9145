"""The figures of what runs came to: quality against bytes, where the time went. Draws nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from wash_hpc.ensemble.scores import perplexity
from wash_hpc.report.columns import format_bytes
from wash_hpc.report.curves import ENSEMBLE, MEMBERS, SOUP, Shown, spans_decades
from wash_hpc.report.figure import COLOURS, Axis, Bars, Curve, Figure, Key, Series, rounded
from wash_hpc.report.runs import Run
from wash_hpc.storage.summary import Summary

_BLUE, _ORANGE, _GREEN, _PINK, _YELLOW, _SKY, _GREY = COLOURS
_SPENT_ON = {
    "data": Key("part-data", "waiting for data", _ORANGE),
    "compute": Key("part-compute", "compute", _BLUE),
    "reduce": Key("part-reduce", "gradients over replicas", _SKY),
    "exchange": Key("part-exchange", "exchange", _YELLOW),
    "checkpoint": Key("part-checkpoint", "checkpoints", _PINK),
    "rest": Key("part-rest", "rest (start, evaluation)", _GREY),
}


def bytes_figures(those: Shown) -> list[Figure]:
    """Quality at the end against payload: of images accuracies, of text perplexities."""
    about = "At the end, on the test {}. Circle: soup; diamond: ensemble; cross: mean of the members."
    kinds: list[tuple[str, str, str, Axis, Callable[[Summary], tuple[float | None, ...]]]] = [
        ("bytes", "accuracy", "Accuracy", Axis("accuracy", "percent"), _accuracies),
        ("bytes-perplexity", "perplexity", "Perplexity", Axis("perplexity"), _perplexities),
    ]
    figures = []
    for name, metric, title, y, scores in kinds:
        chosen = those.judged_by(metric)
        if chosen.runs:
            x, nothing = _bytes_axis([run.summary.bytes_sent_per_member for run in chosen.runs])
            series = _score_series(chosen, scores, nothing)
            said = about.format("images" if metric == "accuracy" else "text")
            y = replace(y, log=metric == "perplexity" and spans_decades(series))
            figures.append(Figure(name, f"{title} against bytes sent", said, x, y, series))
    return [figure for figure in figures if figure.content]


def time_figure(those: Shown) -> Figure | None:
    """Shares of the time of each run, or of many runs the mean by method; None where no run says its times."""
    bars: dict[str, list[dict[str, float]]] = {}
    continued = False
    for run, key in zip(those.runs, those.keys, strict=True):
        seconds = {part: run.summary.seconds.get(part) or 0.0 for part in _SPENT_ON if part != "rest"}
        spent = sum(seconds.values())
        if not 0 < spent < math.inf:
            continue
        whole = _had_one_start(run)
        continued |= not whole
        seconds["rest"] = max(0.0, run.summary.wall_seconds - spent) if whole else 0.0
        shares = {part: value / (spent + seconds["rest"]) for part, value in seconds.items()}
        bars.setdefault(run.label if those.are_few else key.label, []).append(shares)
    if not bars:
        return None
    parts = [
        (key, [value or 0.0 for value in rounded([_mean(of, part) for of in bars.values()])])
        for part, key in _SPENT_ON.items()
        if any(shares[part] > 5e-4 for of in bars.values() for shares in of)
    ]
    mean = "" if those.are_few else " The mean over a method's runs."
    last = " Of a run that was continued, the steps of its last start alone." if continued else ""
    return Figure(
        "time",
        "Where the time goes",
        f"Shares of a run's time on the clock, mean over its ranks.{mean}{last}",
        Axis("share of the time", "percent"),
        Axis(""),
        Bars(list(bars), parts),
        height=130 + 34 * len(bars),
    )


def _had_one_start(run: Run) -> bool:
    """Whether the times of the last start are those of the whole run."""
    return run.metrics is not None and run.metrics.attributes.get("first_step") == 0


def _mean(shares: Sequence[dict[str, float]], part: str) -> float:
    return sum(one[part] for one in shares) / len(shares)


def _score_series(chosen: Shown, scores: Callable[[Summary], tuple[float | None, ...]], nothing: float) -> list[Series]:
    series = []
    for number, what in enumerate((SOUP, ENSEMBLE, MEMBERS)):
        by_key: dict[Key, list[Curve]] = {}
        for run, key in zip(chosen.runs, chosen.keys, strict=True):
            sent, (score,) = run.summary.bytes_sent_per_member, rounded([scores(run.summary)[number]])
            if score is not None:
                curve = Curve(run.label, [sent or nothing], [score], f"{format_bytes(sent)} sent")
                by_key.setdefault(key, []).append(curve)
        series += [Series(key, curves, what, lines=False) for key, curves in by_key.items()]
    return series


def _bytes_axis(sent: Sequence[int]) -> tuple[Axis, float]:
    """A logarithmic axis with a place of its own for nothing sent, and that place."""
    least = min((num_bytes for num_bytes in sent if num_bytes > 0), default=1000)
    nothing = 10.0 ** (math.floor(math.log10(least)) - 1)
    first, last = round(math.log10(nothing)) + 1, math.ceil(math.log10(max([least, *sent])))
    ticks = {10.0**exponent: format_bytes(10.0**exponent) for exponent in range(first, last + 1)}
    none = {nothing: "nothing"} if any(num_bytes <= 0 for num_bytes in sent) else {}
    return Axis("payload sent by one member", "bytes", log=True, ticks={**none, **ticks}), nothing


def _accuracies(summary: Summary) -> tuple[float | None, ...]:
    return summary.soup_accuracy, summary.ensemble_accuracy, summary.mean_member_accuracy


def _perplexities(summary: Summary) -> tuple[float | None, ...]:
    found = (summary.score(judged, "nll") for judged in ("soup", "ensemble", "member"))
    return tuple(None if nll is None else perplexity(nll) for nll in found)
