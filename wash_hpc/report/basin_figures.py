"""The figures of a basin analysis, drawn by matplotlib. How a drawing becomes a file is `figure_files`'."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wash_hpc.ensemble.landscape import Landscape, Line, PlaneTable, Profile
from wash_hpc.report.figure import COLOURS
from wash_hpc.report.figure_files import import_figure, plain, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BLUE, _ORANGE, _GREEN = COLOURS[:3]
_KINDS = ((False, _BLUE, "between members"), (True, _ORANGE, "member to soup"))


def write_figures(folder: Path, landscape: Landscape) -> list[Path]:
    """Draw each part of an analysis; figures of parts that it does not have are removed.

    Args:
        folder: exists.
        landscape: what is drawn.

    Returns:
        The files, a PNG and an SVG for each figure.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        RunFolderError: a file cannot be written.
    """
    files = []
    for name, draw in _DRAWERS.items():
        figure = draw(landscape)
        if figure is not None:
            files += save_figure(folder, name, figure)
            continue
        for kind in ("png", "svg"):
            (folder / f"{name}.{kind}").unlink(missing_ok=True)
    return files


def _draw_lines(landscape: Landscape) -> Figure | None:
    """Loss and error along all lines; a member's own lines have one colour."""
    if not landscape.lines:
        return None
    figure, (loss, error) = _figure(landscape, "along lines", 2)
    for line in landscape.lines:
        to_soup = line.end == "soup"
        colour, label = next((colour, label) for soup, colour, label in _KINDS if soup == to_soup)
        for profile, dash, what in _profiles(line, landscape.num_statistics_images > 0):
            style: dict[str, Any] = {
                "color": colour,
                "linestyle": dash,
                "linewidth": 1.3,
                "alpha": 0.8,
                "label": label + what,
            }
            loss.plot(line.at, profile.loss, **style)
            error.plot(line.at, [100 * (1 - accuracy) for accuracy in profile.accuracy], **style)
    losses = [value for line in landscape.lines for kind in (line.raw, line.recomputed) for value in kind.loss]
    if max(losses) > 10 * min(losses):
        loss.set_yscale("log")
    loss.set_ylabel("loss")
    error.set_ylabel("error, %")
    for axes in (loss, error):
        axes.set_xlabel("place on the line: 0 a member, 1 the other, or the soup")
    _legend_below(figure, error)
    return figure


def _draw_plane(landscape: Landscape) -> Figure | None:
    """Loss and error in the plane of three members."""
    plane = landscape.plane
    if plane is None:
        return None
    figure, (loss, error) = _figure(landscape, f"plane through members {', '.join(map(str, plane.members))}", 2)
    values = np.log10(np.maximum(np.array(plane.loss), 1e-12))
    _contours(figure, loss, plane, values, "loss", lambda value: f"{10**value:.2g}")
    _contours(figure, error, plane, 100 * (1 - np.array(plane.accuracy)), "error, %", lambda value: f"{value:.3g}")
    return figure


def _contours(
    figure: Figure, axes: Axes, plane: PlaneTable, values: NDArray[np.float64], what: str, say: Callable[[float], str]
) -> None:
    filled = axes.contourf(plane.x, plane.y, np.ma.masked_invalid(values), levels=16, cmap="cividis")
    bar = figure.colorbar(filled, ax=axes, label=what, shrink=0.8)
    bar.ax.yaxis.set_major_formatter(lambda value, place: say(value))
    soup = "soup" if plane.soup_height < 1e-3 * (plane.x[-1] - plane.x[0]) else "soup (its projection)"
    marks = [(f"member {member}", corner) for member, corner in zip(plane.members, plane.corners, strict=True)]
    for name, place in [*marks, (soup, plane.soup)]:
        axes.plot(*place, "*" if name == soup else "o", color="white", markeredgecolor="black", markersize=9)
        axes.annotate(
            name,
            place,
            xytext=(0, 7),
            textcoords="offset points",
            horizontalalignment="center",
            fontsize="small",
            bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.7},
        )
    axes.set_aspect("equal")
    axes.set_xlabel("distance")
    axes.set_ylabel("distance")


def _draw_curvature(landscape: Landscape) -> Figure | None:
    """The second derivative along each line at its start, middle and end."""
    if not landscape.curvature:
        return None
    figure, (axes,) = _figure(landscape, "curvature along lines", 1)
    for line in landscape.curvature:
        colour, label = next((colour, label) for soup, colour, label in _KINDS if soup == (line.end == "soup"))
        style: dict[str, Any] = {"color": colour, "alpha": 0.8, "linewidth": 1.3}
        axes.plot(line.at, line.second_derivative, "o-", label=f"{label}, statistics held (Hessian)", **style)
        axes.plot(line.at, line.second_difference, "x:", label=f"{label}, recomputed (differences)", **style)
    axes.axhline(0, color="grey", linewidth=0.8)
    rows = [numbers for line in landscape.curvature for numbers in (line.second_derivative, line.second_difference)]
    axes.set_yscale("symlog", linthresh=_linear_below(rows))
    axes.margins(y=0.1)
    axes.set_xlabel("place on the line: 0 a member, 1 the other, or the soup")
    axes.set_ylabel("second derivative of the loss")
    _legend_below(figure, axes)
    return figure


def _draw_eigenvalues(landscape: Landscape) -> Figure | None:
    """The largest eigenvalues of the Hessian at each point."""
    spectra = [spectrum for spectrum in landscape.eigenvalues or [] if spectrum.eigenvalues]
    if not spectra:
        return None
    figure, (axes,) = _figure(landscape, "largest eigenvalues of the Hessian", 1)
    for place, spectrum in enumerate(spectra):
        colour = _ORANGE if spectrum.point == "soup" else _BLUE
        axes.plot([place] * len(spectrum.eigenvalues), spectrum.eigenvalues, "_", color=colour, markersize=22, mew=2)
    axes.set_xticks(range(len(spectra)), [spectrum.point for spectrum in spectra])
    axes.set_xlim(-0.6, len(spectra) - 0.4)
    axes.set_ylabel("eigenvalue")
    if min(spectrum.eigenvalues[-1] for spectrum in spectra) > 0:
        axes.set_yscale("log")
    axes.margins(y=0.1)
    return figure


def _draw_distances(landscape: Landscape) -> Figure | None:
    """The consensus distance of each layer, relative to the layer's norm."""
    if not landscape.layers:
        return None
    figure, (axes,) = _figure(landscape, "distance of the members to their mean", 1, by_images=False)
    places = range(len(landscape.layers))
    axes.bar(places, [layer.relative for layer in landscape.layers], color=_GREEN)
    unrelated = math.sqrt(1 - 1 / len(landscape.members))
    axes.axhline(unrelated, color="grey", linestyle="--", linewidth=1, label="members that have nothing in common")
    every = -(-len(landscape.layers) // 40)  # names that can still be read
    axes.set_xticks(
        places[::every], [layer.name for layer in landscape.layers[::every]], rotation=90, fontsize="xx-small"
    )
    axes.set_ylabel("distance / norm of the layer")
    axes.legend(fontsize="small", loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0.2)
    return figure


_DRAWERS: dict[str, Callable[[Landscape], Figure | None]] = {
    "lines": _draw_lines,
    "plane": _draw_plane,
    "curvature": _draw_curvature,
    "eigenvalues": _draw_eigenvalues,
    "distance": _draw_distances,
}


def _figure(landscape: Landscape, title: str, num_axes: int, by_images: bool = True) -> tuple[Figure, list[Axes]]:
    figure = import_figure()(figsize=(5.5 * num_axes if num_axes > 1 else 7.5, 4.8), layout="constrained")
    images = f" ({landscape.num_images} {landscape.split} images)" if by_images else ""
    figure.suptitle(plain(f"{landscape.name}: {title}{images}"), fontsize="medium")
    return figure, [figure.add_subplot(1, num_axes, number + 1) for number in range(num_axes)]


def _profiles(line: Line, has_both: bool) -> list[tuple[Profile, str, str]]:
    if not has_both:
        return [(line.recomputed, "-", "")]
    return [(line.recomputed, "-", ", statistics recomputed"), (line.raw, ":", ", statistics interpolated")]


def _legend_below(figure: Figure, axes: Axes) -> None:
    """A legend of `axes` below the whole figure, in which each label stands once."""
    handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(list(handles.values()), list(handles), fontsize="small", loc="outside lower center", ncols=2)


def _linear_below(rows: Sequence[Sequence[float]]) -> float:
    """Where a symmetric logarithmic axis becomes linear: a thousandth of the largest, or nearer to nothing."""
    return max((abs(value) for row in rows for value in row if math.isfinite(value)), default=1.0) / 1000 or 1.0
