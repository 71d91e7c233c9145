"""The report's figures as PNG and SVG files, drawn by matplotlib. What they show is `figure`'s and `figures`'.

matplotlib is used through its `Figure` alone: no pyplot, no display, no state that a process would keep.
"""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wash_hpc.errors import MissingDependencyError
from wash_hpc.report.figure import Axis, Bars, Figure, HeatMap, Key, Numbers, Series
from wash_hpc.storage.files import make_folder, write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

_DASHES = {"solid": "-", "dash": "--", "dot": ":", "dashdot": "-."}
_MARKERS = {"": "", "circle": "o", "diamond-open": "D", "x-thin-open": "x"}
_INK = "#404040"  # in a legend, of what is about the line's style alone
_PIXELS = 96  # of a page, to an inch
_MANY_CURVES, _MARKED_POINTS = 16, 60


def import_figure() -> type[Drawing]:
    """matplotlib's `Figure`.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure as Drawing
    except ModuleNotFoundError as error:
        raise MissingDependencyError("matplotlib", "pip install 'wash_hpc[landscape]'") from error
    return Drawing


def save_figure(folder: Path, name: str, drawing: Drawing) -> list[Path]:
    """Write a drawing as PNG and SVG, equal files for equal drawings; returns them.

    Raises:
        RunFolderError: a file cannot be written.
    """
    from matplotlib import rc_context

    files = []
    for kind in ("png", "svg"):
        content = BytesIO()
        with rc_context({"svg.hashsalt": name}):
            drawing.savefig(content, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)
        files.append(folder / f"{name}.{kind}")
        write_atomically(files[-1], content.getvalue())
    return files


def write_report_figures(folder: Path, figures: Sequence[Figure]) -> list[Path]:
    """Draw figures into a folder, which is made where it is missing; returns the files, PNG and SVG of each.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        RunFolderError: the folder or a file cannot be written.
    """
    import_figure()
    make_folder(folder)
    return [file for figure in figures for file in save_figure(folder, figure.key, draw(figure))]


def draw(figure: Figure) -> Drawing:
    """A figure as matplotlib has it."""
    drawing = import_figure()(figsize=(8, max(3.2, figure.height / _PIXELS)), layout="constrained")
    axes = drawing.add_subplot()
    axes.set_title(plain(figure.title), fontsize="medium")
    axes.set_xlabel(plain(figure.x.title))
    axes.set_ylabel(plain(figure.y.title))
    if isinstance(figure.content, HeatMap):
        _draw_heat_map(drawing, axes, figure.content)
        return drawing
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    if isinstance(figure.content, Bars):
        _draw_bars(axes, figure.content)
    else:
        for series in figure.content:
            _draw_series(axes, series)
    for axis, target, scale in ((figure.x, axes.xaxis, axes.set_xscale), (figure.y, axes.yaxis, axes.set_yscale)):
        _set_axis(axis, target, scale)
    if figure.y.from_zero:
        axes.set_ylim(bottom=0)
    _draw_legend(drawing, figure)
    return drawing


def plain(text: str) -> str:
    """A text in which a dollar sign begins no formula."""
    return text.replace("$", r"\$")


def _draw_series(axes: Axes, series: Series) -> None:
    many = len(series.curves) > _MANY_CURVES
    for curve in series.curves:
        marked = not series.lines or len(curve.x) == 1 or (not many and len(curve.x) <= _MARKED_POINTS)
        axes.plot(
            _floats(curve.x),
            _floats(curve.y),
            color=series.who.colour,
            linestyle=_DASHES[series.style.dash] if series.lines else "",
            linewidth=0.7 if many else 1.4,
            alpha=0.55 if many and series.lines else 0.9,
            **_marker(series.style, fallback="o" if not series.lines or len(curve.x) == 1 else "") if marked else {},
        )


def _marker(key: Key, fallback: str = "") -> dict[str, Any]:
    return {
        "marker": _MARKERS[key.marker] or fallback,
        "markersize": 6,
        "markerfacecolor": "none" if key.marker == "diamond-open" else None,
    }


def _draw_heat_map(drawing: Drawing, axes: Axes, content: HeatMap) -> None:
    from matplotlib.colors import LogNorm

    values = np.ma.masked_invalid(np.array([_floats(row) for row in content.values]))
    scale = LogNorm() if values.count() else None
    mesh = axes.pcolormesh(
        _edges(_floats(content.x)), range(len(content.names) + 1), values, norm=scale, cmap="cividis"
    )
    drawing.colorbar(mesh, ax=axes, label=plain(content.title))
    every = -(-len(content.names) // 60)  # names that can still be read
    places = [place + 0.5 for place in range(len(content.names))][::every]
    axes.set_yticks(places, [plain(name) for name in content.names[::every]], fontsize="xx-small")
    axes.invert_yaxis()


def _edges(centres: Sequence[float]) -> list[float]:
    """Where columns around these centres begin and end."""
    if len(centres) == 1:
        return [centres[0] - 0.5, centres[0] + 0.5]
    middles = [(first + second) / 2 for first, second in pairwise(centres)]
    return [2 * centres[0] - middles[0], *middles, 2 * centres[-1] - middles[-1]]


def _draw_bars(axes: Axes, content: Bars) -> None:
    lefts = [0.0] * len(content.names)
    for key, shares in content.parts:
        bars = axes.barh(range(len(content.names)), shares, left=lefts, color=key.colour, edgecolor="white", height=0.7)
        labels = [f"{share:.0%}" if share >= 0.04 else "" for share in shares]
        axes.bar_label(bars, labels, label_type="center", fontsize="small", color="white")
        lefts = [left + share for left, share in zip(lefts, shares, strict=True)]
    axes.set_yticks(range(len(content.names)), [plain(name) for name in content.names])
    axes.set_xlim(0, 1)
    axes.invert_yaxis()


def _set_axis(axis: Axis, target: Any, set_scale: Any) -> None:
    if axis.log:
        set_scale("log")
    if axis.ticks:
        target.set_ticks(list(axis.ticks), labels=list(axis.ticks.values()))
        target.set_ticks([], minor=True)
    elif axis.kind == "percent":
        target.set_major_formatter(lambda value, place: f"{100 * value:.4g} %")
    elif axis.log:
        target.set_major_formatter(lambda value, place: f"{value:g}")


def _draw_legend(drawing: Drawing, figure: Figure) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = []
    for key in figure.legend:
        if isinstance(figure.content, Bars):
            handles.append(Patch(color=key.colour, label=plain(key.label)))
        else:
            style = {"color": key.colour or _INK, "linestyle": _DASHES[key.dash], **_marker(key)}
            handles.append(Line2D([], [], label=plain(key.label), **style))
    drawing.legend(handles=handles, fontsize="small", loc="outside lower center", ncols=3)


def _floats(values: Numbers) -> list[float]:
    return [np.nan if value is None else value for value in values]
