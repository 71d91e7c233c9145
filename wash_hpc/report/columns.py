"""The columns of the table of finished runs: which numbers there are, how they follow from a summary and are worded.

Owns no layout. The terminal's table, that of groups and the page all show these.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from wash_hpc.durations import format_seconds
from wash_hpc.ensemble.scores import perplexity
from wash_hpc.rates import PARTS
from wash_hpc.storage.summary import Summary

Value = Callable[[Summary], float | None]
Form = Callable[[float], str]


@dataclass(frozen=True)
class Column:
    """One column of the table.

    Attributes:
        title: its heading; a line break shows where to fold it.
        cell: a summary's text in it.
        keep: columns with the lowest number go first where a terminal is too narrow; the first column never does.
        align: of the text.
        value: the number behind the text, in the table's unit; None where the column is text, or several numbers.
        form: the number's text.
    """

    title: str
    cell: Callable[[Summary], str]
    keep: float
    align: Literal["left", "right"] = "right"
    value: Value | None = None
    form: Form = str


def metric_value(run: Summary, judged: str, accuracy: float | None) -> float | None:
    """An accuracy in percent, or of a text the perplexity of what was judged; None where there is none."""
    if run.metric == "accuracy":
        return None if accuracy is None else 100 * accuracy
    nll = run.score(judged, "nll")
    return None if nll is None else perplexity(nll)


def format_nats(nll: float | None) -> str:
    """A negative log-likelihood; a dash for None."""
    return "-" if nll is None else f"{nll:.3f}"


def format_percent(fraction: float | None) -> str:
    """A fraction as percent without the sign; a dash for None."""
    return "-" if fraction is None else f"{100 * fraction:.2f}"


def format_bytes(num_bytes: float) -> str:
    """Bytes in decimal units, three significant digits: `1.23 GB`."""
    value = float(num_bytes)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(value) < 999.5:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.4g} PB"


def member_spread(run: Summary) -> float | None:
    """Standard deviation over the members of accuracy in points, or of perplexity; None for fewer than two."""
    if run.metric == "accuracy":
        values = [100 * accuracy for accuracy in run.member_accuracies if accuracy is not None]
    else:
        values = [perplexity(nll) for nll in run.member_nlls if nll is not None]
    return std(values)


def std(values: Sequence[float]) -> float | None:
    """Standard deviation of a sample; None for fewer than two values, or where one is not finite."""
    return statistics.stdev(values) if len(values) > 1 and all(map(math.isfinite, values)) else None


def gap(run: Summary) -> float | None:
    """The soup's accuracy less the ensemble's, in points; of perplexities likewise, where more is worse."""
    soup = metric_value(run, "soup", run.soup_accuracy)
    ensemble = metric_value(run, "ensemble", run.ensemble_accuracy)
    if soup is None or ensemble is None or not math.isfinite(soup - ensemble):
        return None
    return soup - ensemble


def gb_per_point(run: Summary) -> float | None:
    """Gigabytes that one member sent for each point of accuracy by which the soup is better than members are.

    Returns:
        None where nothing was sent, the soup is no better than the members' mean, or of text.
    """
    if run.metric != "accuracy" or run.soup_accuracy is None or run.mean_member_accuracy is None:
        return None
    points = 100 * (run.soup_accuracy - run.mean_member_accuracy)
    return run.bytes_sent_per_member / 1e9 / points if points > 0 and run.bytes_sent_per_member > 0 else None


def share(part: str) -> Value:
    """Of a training step, in percent: what a part of it takes."""

    def value(run: Summary) -> float | None:
        seconds = [run.seconds.get(name) or 0.0 for name in PARTS]
        whole = sum(seconds)
        return 100 * seconds[PARTS.index(part)] / whole if whole > 0 else None

    return value


def _shares(run: Summary) -> str:
    values = [share(part)(run) for part in PARTS]
    return "/".join("-" if value is None else f"{value:.0f}" for value in values) if None not in values else "-"


def _number(title: str, value: Value, form: Form, keep: float) -> Column:
    def cell(run: Summary) -> str:
        found = value(run)
        return "-" if found is None else form(found)

    return Column(title, cell, keep, "right", value, form)


def _percent(fraction: float | None) -> float | None:
    return None if fraction is None else 100 * fraction


def _two(value: float) -> str:
    return f"{value:.2f}"


def _three(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 99.95 else f"{value:.0f}"


SHARE_COLUMNS = tuple(_number(f"{part}\n%", share(part), "{:.0f}".format, 3.4) for part in PARTS)
COLUMNS = (
    Column("run", lambda run: run.name, 9, "left"),
    Column("method", lambda run: run.method, 5.6, "left"),
    Column("members", lambda run: str(run.num_members), 1),
    _number("member\nmean", lambda run: metric_value(run, "member", run.mean_member_accuracy), _two, 7),
    _number("spread", member_spread, _two, 5.5),
    _number("best", lambda run: metric_value(run, "best_member", run.best_member_accuracy), _two, 6),
    _number("ensemble", lambda run: metric_value(run, "ensemble", run.ensemble_accuracy), _two, 8),
    _number("soup", lambda run: metric_value(run, "soup", run.soup_accuracy), _two, 9),
    _number("soup\nraw", lambda run: metric_value(run, "soup_raw", run.soup_accuracy_raw), _two, 0),
    _number("greedy\nsoup", lambda run: metric_value(run, "greedy_soup", run.greedy_soup_accuracy), _two, 4.5),
    _number("gap", gap, "{:+.2f}".format, 6.5),
    _number("EMA", lambda run: metric_value(run, "ema", run.score("ema", "accuracy")), _two, -1),
    _number("differ", lambda run: _percent(run.disagreement), _two, -2),
    _number("soup\nNLL", lambda run: run.score("soup", "nll"), format_nats, -3),
    _number("soup\nECE", lambda run: _percent(run.score("soup", "calibration_error")), _two, -4),
    _number("sent per\nmember", lambda run: run.bytes_sent_per_member, format_bytes, 5),
    _number("sent per\npoint", gb_per_point, lambda gigabytes: format_bytes(1e9 * gigabytes), 4.2),
    _number("img/s", lambda run: run.images_per_second_per_member, _three, 3.2),
    Column("data/comp/\nred/exch %", _shares, 3.4),
    _number("time", lambda run: run.wall_seconds, format_seconds, 4),
)
DERIVED: dict[str, Value] = {
    "member_spread": member_spread,
    "gap": gap,
    "gb_per_point": gb_per_point,
    **{f"{part}_share": share(part) for part in PARTS},
}
"""What follows from a summary and stands in the table, by the names by which runs are sorted and filtered."""

_OF_IMAGES, _OF_TEXT = "Accuracy in percent of the test images", "Perplexity on the test text, lower is better"
_MEANS = {  # of columns, what their headings do not say
    "spread": "spread: standard deviation over members",
    "soup": "soup: statistics recomputed",
    "soup\nraw": "raw: averaged",
    "gap": "gap: soup less ensemble, in points",
    "EMA": "EMA: a member's average over steps",
    "differ": "differ: percent on which two members do",
    "soup\nNLL": "NLL: in nats",
    "soup\nECE": "ECE: calibration error in percent",
    "sent per\nmember": "sent: payload",
    "sent per\npoint": "per point: by one member for each point by which the soup is better than the mean member",
    "img/s": "img/s: of one member",
    "data/comp/\nred/exch %": "data, compute, reduce, exchange: percent of a step",
    SHARE_COLUMNS[0].title: "data, compute, reduce, exchange: percent of a step",
}
_TEXT_CAPTION = " Of text: perplexity in place of accuracy ({}), lower is better."


def caption(runs: Sequence[Summary], titles: Collection[str]) -> str:
    """What the columns of these titles mean, for these runs."""
    means = "; ".join([_OF_IMAGES, *(meaning for title, meaning in _MEANS.items() if title in titles)]) + "."
    names = [run.name for run in runs if run.metric == "perplexity"]
    if names and len(names) == len(runs):
        return means.replace(_OF_IMAGES, _OF_TEXT).replace(", in points", "")
    return means + (_TEXT_CAPTION.format(", ".join(names)) if names else "")


def notes_on_members(runs: Sequence[Summary]) -> list[str]:
    """A line for each run that leaves some of its members out, and one on greedy soups that are a member alone."""
    left_out = [
        f"{run.name}: without member {', '.join(map(str, run.left_out_members))}, whose weights are not finite."
        for run in runs
        if run.left_out_members
    ]
    alone = [run.name for run in runs if run.num_members > 1 and len(run.greedy_soup_members) == 1]
    return left_out + ([f"The greedy soup is one member, no average, of: {', '.join(alone)}."] if alone else [])
