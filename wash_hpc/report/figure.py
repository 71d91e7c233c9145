"""A figure of the report as plain data, which Plotly draws in the page and matplotlib into files. Draws nothing itself.

Colour says the run (of many runs: the method), in Okabe and Ito's colours, which the colour-blind can tell apart; of
one run the line's style or the marker says what is shown. Yellow is left out, for it cannot be seen on white, and so is
black, for it cannot be seen on black: a grey stands for both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from wash_hpc.report.columns import format_bytes

Values = NDArray[Any]
Numbers = list[float | None]
Dash = Literal["solid", "dash", "dot", "dashdot"]
Marker = Literal["", "circle", "diamond-open", "x-thin-open"]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#808080")
DASHES: tuple[Dash, ...] = ("solid", "dash", "dot", "dashdot")  # after the colours are used up
_TABLE_ROWS = 60


@dataclass(frozen=True)
class Key:
    """What a legend names, and what is hidden together: a run, a method, or one of the things shown of each.

    Attributes:
        id: the same in all figures in which it is the same.
        label: what the legend says.
        colour: empty where the key is about the line's style alone.
        dash: of lines.
        marker: of points.
    """

    id: str
    label: str
    colour: str = ""
    dash: Dash = "solid"
    marker: Marker = ""


@dataclass(frozen=True)
class Curve:
    """One line, or some points.

    Attributes:
        name: of what it is.
        x: ascending where it is a line.
        y: None where it is not a number.
        note: more that is said where one points at it.
    """

    name: str
    x: Numbers
    y: Numbers
    note: str = ""


@dataclass(frozen=True)
class Series:
    """Curves that look alike and are hidden together.

    Attributes:
        who: gives the colour.
        curves: at least one.
        what: gives dash and marker, where the figure shows several things of each; else `who` does.
        lines: whether points are joined.
    """

    who: Key
    curves: list[Curve]
    what: Key | None = None
    lines: bool = True

    @property
    def keys(self) -> list[Key]:
        """All that can hide it."""
        return [self.who] if self.what is None else [self.who, self.what]

    @property
    def style(self) -> Key:
        """Whose dash and marker it has."""
        return self.what or self.who


@dataclass(frozen=True)
class HeatMap:
    """Positive numbers over two axes, on a logarithmic scale of colours.

    Attributes:
        x: [X].
        names: [Y] of the rows, the first on top.
        values: [Y][X]; None where there is nothing to show.
        title: of the scale.
    """

    x: Numbers
    names: list[str]
    values: list[Numbers]
    title: str


@dataclass(frozen=True)
class Bars:
    """Lying bars of stacked shares.

    Attributes:
        names: [B] of the bars, the first on top.
        parts: what they are made of, in order, each with [B] fractions.
    """

    names: list[str]
    parts: list[tuple[Key, list[float]]]


@dataclass(frozen=True)
class Axis:
    """An axis.

    Attributes:
        title: with the unit.
        kind: how its numbers are said.
        log: whether it is logarithmic.
        from_zero: whether zero is always on it.
        ticks: places and their texts, where these are not found by the drawing library.
    """

    title: str
    kind: Literal["number", "percent", "bytes"] = "number"
    log: bool = False
    from_zero: bool = False
    ticks: Mapping[float, str] = field(default_factory=dict)

    def say(self, value: float | None) -> str:
        """A number of this axis in words."""
        if value is None:
            return "-"
        if self.kind == "percent":
            return f"{100 * value:.2f} %"
        return format_bytes(value) if self.kind == "bytes" else f"{value:.4g}"


@dataclass(frozen=True)
class Figure:
    """One figure.

    Attributes:
        key: its id in a page, and its file's name.
        title: its heading.
        about: what is seen and how to read it, in a few sentences.
        x: horizontal axis.
        y: vertical axis.
        content: what is drawn: series, or one heat map, or bars.
        height: in pixels of a page.
    """

    key: str
    title: str
    about: str
    x: Axis
    y: Axis
    content: list[Series] | HeatMap | Bars
    height: int = 420

    @property
    def legend(self) -> list[Key]:
        """What can be hidden in it, each once."""
        if isinstance(self.content, HeatMap):
            return []
        if isinstance(self.content, Bars):
            return [key for key, _ in self.content.parts]
        whose = {series.who.id: series.who for series in self.content}
        what = {series.what.id: series.what for series in self.content if series.what is not None}
        return [*whose.values(), *what.values()]

    def table(self) -> tuple[list[str], list[list[str]], int]:
        """The numbers of the figure for those who cannot see it: headings, rows, and how many rows are left out."""
        if isinstance(self.content, HeatMap):
            rows = [[name, *map(_plain, (row[0], row[-1]))] for name, row in self._heat_rows(self.content)]
            heads = ["", *(f"{self.x.title} {_plain(x)}" for x in (self.content.x[0], self.content.x[-1]))]
        elif isinstance(self.content, Bars):
            heads = ["", *(key.label for key, _ in self.content.parts)]
            shares = zip(*(values for _, values in self.content.parts), strict=True)
            rows = [[name, *map(self.x.say, row)] for name, row in zip(self.content.names, shares, strict=True)]
        elif all(series.lines for series in self.content):
            heads = ["", "first", "lowest", "highest", "last"]
            rows = [[_name(series, curve), *self._extent(curve)] for series in self.content for curve in series.curves]
        else:
            heads = ["", self.x.title, self.y.title]
            rows = [
                [_name(series, curve), curve.note or self.x.say(curve.x[0]), self.y.say(curve.y[0])]
                for series in self.content
                for curve in series.curves
            ]
        return heads, rows[:_TABLE_ROWS], max(0, len(rows) - _TABLE_ROWS)

    @staticmethod
    def _heat_rows(content: HeatMap) -> list[tuple[str, Numbers]]:
        return list(zip(content.names, content.values, strict=True))

    def _extent(self, curve: Curve) -> list[str]:
        there = [value for value in curve.y if value is not None]
        if not there:
            return ["-"] * 4
        return [self.y.say(value) for value in (there[0], min(there), max(there), there[-1])]


def _name(series: Series, curve: Curve) -> str:
    return curve.name if series.what is None else f"{curve.name}: {series.what.label}"


def _plain(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def rounded(values: Values | Sequence[float | None]) -> Numbers:
    """Numbers to five digits, which no eye can tell from all; None for what is none."""
    return [float(f"{value:.5g}") if value is not None and math.isfinite(value) else None for value in values]


def thinned(values: Values, num_points: int) -> NDArray[np.int64]:
    """Which records of a curve of some `num_points` are shown: of each stretch the lowest, the highest, the first gap.

    So a spike of a single record is seen in a curve of any length, which evenly spread records would step over; the
    price is that a noisy curve shows its whole width.

    Args:
        values: [T].
        num_points: about how many; a half more where there are gaps.

    Returns:
        Ascending positions, the first and the last among them.
    """
    length = len(values)
    if length <= num_points:
        return np.arange(length)
    width = -(-length // (num_points // 2))
    padded = np.full(-(-length // width) * width, np.nan)
    padded[:length] = values
    stretches = padded.reshape(-1, width)
    finite = np.isfinite(stretches)
    starts = np.arange(len(stretches)) * width
    lowest = np.where(finite, stretches, np.inf).argmin(axis=1)
    highest = np.where(finite, stretches, -np.inf).argmax(axis=1)
    gaps = (~finite).argmax(axis=1)[~finite.all(axis=1) & (~finite).any(axis=1)]
    gap_starts = starts[~finite.all(axis=1) & (~finite).any(axis=1)]
    rows = np.unique(np.concatenate([[0, length - 1], starts + lowest, starts + highest, gap_starts + gaps]))
    return rows[rows < length].astype(np.int64)
