"""The report's figures as the plain JSON that Plotly takes. Imports no Plotly.

Names are escaped, since Plotly reads a part of HTML in every text. The page's script fills in what would only make the
file larger: `names` of curves become the texts of their points.
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Sequence
from typing import Any

from wash_hpc.report.figure import Axis, Bars, Curve, Figure, HeatMap, Series

Trace = dict[str, Any]

_GRID = {
    "gridcolor": "rgba(128,128,128,.3)",
    "zerolinecolor": "rgba(128,128,128,.5)",
    "automargin": True,
    "ticks": "outside",
    "ticklen": 4,
    "tickcolor": "rgba(0,0,0,0)",
}
_LAYOUT: dict[str, Any] = {
    "paper_bgcolor": "rgba(0,0,0,0)",
    "plot_bgcolor": "rgba(0,0,0,0)",
    "margin": {"l": 60, "r": 20, "t": 14, "b": 40},
    "hovermode": "closest",
    "hoverlabel": {"namelength": -1},
    "showlegend": False,
    "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": "#808080", "activecolor": "#0072B2"},
}
_FORMATS = {"percent": ".2~%", "bytes": "", "number": ""}
_HOVER_FORMATS = {"percent": ":.2%", "bytes": ":.3s", "number": ":.4~g"}
_MARKED_POINTS = 60  # more of them on a curve are a caterpillar, and each is an element to draw
_NAME_LENGTH = 28


def figures_json(figures: Sequence[Figure]) -> str:
    """The figures as JSON that cannot end the script element it stands in."""
    content = [{"key": figure.key, "data": _traces(figure), "layout": _layout(figure)} for figure in figures]
    return json.dumps(content, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _traces(figure: Figure) -> list[Trace]:
    if isinstance(figure.content, HeatMap):
        return [_heat_trace(figure, figure.content)]
    if isinstance(figure.content, Bars):
        return _bar_traces(figure.content)
    return [_series_trace(figure, series) for series in figure.content]


def _series_trace(figure: Figure, series: Series) -> Trace:
    """All curves of a series as one trace, with a gap between two: a browser draws few traces faster than many."""
    style, many = series.style, len(series.curves) > 16
    x: list[float | None] = []
    y: list[float | None] = []
    for number, curve in enumerate(series.curves):
        gap: list[None] = [None] if number and series.lines else []
        x += [*gap, *curve.x]
        y += [*gap, *curve.y]
    longest = max(len(curve.x) for curve in series.curves)
    sparse = longest <= _MARKED_POINTS and not many
    marked = not series.lines or longest == 1 or (sparse and bool(style.marker))  # one point has no line
    what = f"{_text(series.what.label)}: " if series.what is not None else ""
    place = f"{_HOVER_FORMATS[figure.x.kind]}" if not figure.x.ticks else ""
    at = "" if figure.x.ticks else f"<br>{_text(figure.x.title)} %{{x{place}}}"
    trace: Trace = {
        "type": "scatter",
        "mode": "+".join(["lines"] * series.lines + ["markers"] * marked),
        "keys": [key.id for key in series.keys],
        "names": [[_hover_name(curve), len(curve.x) + (1 if number and series.lines else 0)]
                  for number, curve in enumerate(series.curves)],
        "x": x,
        "y": y,
        "opacity": 0.55 if many and series.lines else 0.9,
        "hovertemplate": f"{what}%{{y{_HOVER_FORMATS[figure.y.kind]}}}{at}<extra>%{{text}}</extra>",
    }  # fmt: skip
    if series.lines:
        trace["line"] = {"color": series.who.colour, "width": 1 if many else 1.8, "dash": style.dash}
    if marked:
        line = {"color": series.who.colour, "width": 1.8}
        trace["marker"] = {
            "color": series.who.colour,
            "symbol": style.marker or "circle",
            "size": 7 if series.lines else 11,
            "line": line,
        }
    return trace


def _heat_trace(figure: Figure, content: HeatMap) -> Trace:
    logarithms = [[None if value is None else round(math.log10(value), 3) for value in row] for row in content.values]
    there = [value for row in logarithms for value in row if value is not None] or [0.0]
    ticks = _decades(min(there), max(there))
    return {
        "type": "heatmap",
        "keys": [],
        "x": content.x,
        "y": [_text(name) for name in content.names],
        "z": logarithms,
        "customdata": content.values,
        "colorscale": "Cividis",
        "hoverongaps": False,
        "colorbar": {
            "title": {"text": content.title, "side": "right"},
            "thickness": 14,
            "tickvals": [math.log10(tick) for tick in ticks],
            "ticktext": [f"{tick:g}" for tick in ticks],
        },
        "hovertemplate": f"%{{y}}<br>{_text(figure.x.title)} %{{x}}: %{{customdata:.4~g}}<extra></extra>",
    }


def _bar_traces(content: Bars) -> list[Trace]:
    names = [_text(name) for name in content.names]
    return [
        {
            "type": "bar",
            "orientation": "h",
            "keys": [key.id],
            "x": shares,
            "y": list(range(len(names))),
            "customdata": names,
            "marker": {"color": key.colour, "line": {"color": "#ffffff", "width": 1}},
            "texttemplate": "%{x:.0%}",
            "textposition": "inside",
            "textangle": 0,
            "insidetextanchor": "middle",
            "hovertemplate": f"{_text(key.label)}: %{{x:.2%}}<extra>%{{customdata}}</extra>",
        }
        for key, shares in content.parts
    ]


def _layout(figure: Figure) -> dict[str, Any]:
    layout = {**_LAYOUT, "xaxis": _axis(figure.x), "yaxis": _axis(figure.y)}
    if isinstance(figure.content, HeatMap):
        every = max(1, round(len(figure.content.names) / max(1, (figure.height - 70) // 13)))
        shown = figure.content.names[::every]
        layout["yaxis"] |= {
            "type": "category",
            "autorange": "reversed",
            "tickvals": [_text(name) for name in shown],
            "ticktext": [_text(_clipped(name)) for name in shown],
            "tickfont": {"size": 10},
            "showgrid": False,
        }
    if isinstance(figure.content, Bars):
        names = [_text(_clipped(name)) for name in figure.content.names]
        layout |= {"barmode": "stack", "bargap": 0.3, "uniformtext": {"minsize": 10, "mode": "hide"}}
        layout["xaxis"] |= {"range": [0, 1.001]}
        layout["yaxis"] |= {"autorange": "reversed", "tickvals": list(range(len(names))), "ticktext": names}
    return layout


def _axis(axis: Axis) -> dict[str, Any]:
    drawn: dict[str, Any] = {**_GRID, "title": {"text": _text(axis.title)}, "tickformat": _FORMATS[axis.kind]}
    if axis.log:
        drawn |= {"type": "log", "dtick": "D2"} if not axis.ticks else {"type": "log"}
    if axis.from_zero:
        drawn["rangemode"] = "tozero"
    if axis.ticks:
        ends = [math.log10(place) for place in (min(axis.ticks), max(axis.ticks))]
        drawn |= {"tickvals": list(axis.ticks), "ticktext": list(axis.ticks.values())}
        drawn["range"] = [ends[0] - 0.15, ends[1] + 0.15]
    return drawn


def _decades(least: float, most: float) -> list[float]:
    """Ticks of a logarithmic scale between two exponents: 1, 2 and 5 of each decade, or the ends where that is none."""
    places = [factor * 10.0**decade for decade in range(math.floor(least), math.ceil(most) + 1) for factor in (1, 2, 5)]
    wide = most - least > 3
    inside = [place for place in places if least <= math.log10(place) <= most and not (wide and f"{place:e}"[0] != "1")]
    return inside or [10.0**least]


def _hover_name(curve: Curve) -> str:
    return _text(f"{curve.name}, {curve.note}" if curve.note else curve.name)


def _clipped(name: str) -> str:
    """The ends of a name where there is no room for all of it: the block comes first, the parameter last."""
    return name if len(name) <= _NAME_LENGTH else f"{name[:9]}…{name[10 - _NAME_LENGTH :]}"


def _text(text: str) -> str:
    """A text as Plotly takes it; quotes are themselves, for it knows no escape of theirs."""
    return html.escape(text, quote=False)
