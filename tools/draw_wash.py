#!/usr/bin/env python3
"""Draw docs/how_wash_works.png: one shuffle of four members, p over the layers, and why the mean is a good network.

The shuffle is one that the package draws, the schedules are the package's; the two landscapes are made up.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run from a clone that is not installed

from wash_hpc.report.figure import COLOURS
from wash_hpc.report.figure_files import import_figure
from wash_hpc.shuffle.draw import Draw, Drawer
from wash_hpc.shuffle.probability import Schedule, layer_probabilities

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OUTPUT = Path(__file__).resolve().parent.parent / "docs" / "how_wash_works.png"
MEMBERS, LAYERS, LAYER_SIZE, P = 4, 3, 6, 0.5
SEED = 5  # of a draw in which layers 1 and 2 have some positions
INK, PAPER = "#333333", "#ffffff"


def main(arguments: list[str] | None = None) -> int:
    """Draw and write the figure."""
    parser = argparse.ArgumentParser("draw_wash.py", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", type=Path, default=OUTPUT, metavar="FILE", help="PNG or SVG (default: in docs/)")
    output = parser.parse_args(arguments).output
    figure = import_figure()(figsize=(11, 5.4), dpi=110, facecolor=PAPER, layout="constrained")
    parts: NDArray[np.object_] = np.asarray(figure.subfigures(2, 1, height_ratios=(1.0, 1.9)))
    top, bottom = parts
    drawer = Drawer(SEED, MEMBERS, [LAYER_SIZE] * LAYERS, layer_probabilities("decreasing", P, LAYERS))
    draw_shuffle(top.subplots(1, 3, width_ratios=(18, 5, 18)), drawer.draw(1))
    schedule, apart, together = bottom.subplots(1, 3, width_ratios=(1, 1.15, 1.15))
    draw_schedules(schedule)
    draw_basin(apart, "independent members", np.array([[-2.1, 1.4], [2.2, 1.3], [-1.7, -1.6], [1.9, -1.5]]), apart=True)
    draw_basin(together, "members of WASH", np.array([[-1.7, 0.5], [1.6, 0.7], [-1.0, -0.8], [1.2, -0.6]]), apart=False)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output)
    print(output)
    return 0


def draw_shuffle(axes: NDArray[np.object_], draw: Draw) -> None:
    """Three steps of one shuffle: positions are drawn, each gets a permutation, values travel."""
    before, permuted, after = axes
    num_positions = LAYERS * LAYER_SIZE
    own = np.repeat(np.arange(MEMBERS)[:, None], num_positions, axis=1)
    moved = own.copy()
    moved[:, draw.positions] = draw.source
    _draw_cells(before, own, draw.positions, "1  draw: the same positions on every rank")
    _draw_cells(after, moved, draw.positions, "3  exchange: each takes the values it is due")
    for axis in (before, after):
        for layer in range(LAYERS):
            middle = (layer + 0.5) * LAYER_SIZE - 0.5
            axis.text(middle, MEMBERS - 0.2, f"layer {layer + 1}", ha="center", va="top", color=INK, fontsize=9)
            if layer:
                axis.axvline(layer * LAYER_SIZE - 0.5, color=INK, linewidth=1.5, ymin=0.08)
    _draw_cells(permuted, draw.source.astype(np.int64), np.arange(len(draw.positions)), "2  permute")
    for axis, said in ((before, "member"), (permuted, ""), (after, "")):
        axis.set_yticks(range(MEMBERS), [f"{said} {member}" for member in range(MEMBERS)] if said else [])


def _draw_cells(axis: Axes, owners: NDArray[np.int64], picked: NDArray[np.int64], title: str) -> None:
    """A square for each member and position, coloured and numbered by the member in whom the value has grown."""
    for member, position in np.ndindex(owners.shape):
        owner, is_picked = int(owners[member, position]), position in picked
        corner, colour = (position - 0.42, member - 0.42), COLOURS[owner]
        _add_square(axis, corner, colour if is_picked else colour + "30")
        if is_picked:
            axis.text(position, member, str(owner), ha="center", va="center", color=PAPER, fontsize=9, weight="bold")
    axis.set(xlim=(-0.6, owners.shape[1] - 0.4), ylim=(MEMBERS + 0.3, -0.6), aspect="equal", xticks=[])
    axis.set_title(title, fontsize=10, color=INK)
    axis.tick_params(length=0, labelcolor=INK)
    axis.spines[:].set_visible(False)


def _add_square(axis: Axes, corner: tuple[float, float], colour: str) -> None:
    from matplotlib.patches import Rectangle

    axis.add_patch(Rectangle(corner, 0.84, 0.84, facecolor=colour, edgecolor="none"))


def draw_schedules(axis: Axes) -> None:
    """p of each layer of a network of 20 in the three schedules."""
    schedules: tuple[Schedule, ...] = ("decreasing", "constant", "increasing")
    for schedule, style, width in zip(schedules, ("-", "--", ":"), (2.5, 1.5, 1.5), strict=True):
        probabilities = layer_probabilities(schedule, 1.0, 20)
        axis.plot(np.arange(1, 21), probabilities, style, color=COLOURS[0], linewidth=width, label=schedule)
    axis.set(
        xlabel="layer, first to last", ylim=(-0.05, 1.08), yticks=[0, 1], yticklabels=["0", "p"], xticks=[1, 10, 20]
    )
    axis.set_title("share that is drawn, by layer", fontsize=10, color=INK)
    axis.legend(frameon=False, fontsize=9, loc="center right", bbox_to_anchor=(1.04, 0.5))
    axis.spines[["top", "right"]].set_visible(False)


def draw_basin(axis: Axes, title: str, members: NDArray[np.float64], apart: bool) -> None:
    """A loss over two directions in the space of weights, members as points in it, and their mean."""
    x, y = np.meshgrid(np.linspace(-3.2, 3.2, 160), np.linspace(-2.6, 2.6, 130))
    if apart:  # each in a hollow of its own
        loss = 1 - sum(np.exp(-((x - a) ** 2 + (y - b) ** 2) / 0.8) for a, b in members)
    else:  # one long hollow
        loss = 1 - np.exp(-((x / 3.0) ** 4) - (y / 1.5) ** 4)
    axis.contourf(x, y, loss, levels=12, cmap="Greys", vmin=-0.15, vmax=1.6)
    axis.contour(x, y, loss, levels=6, colors=INK, linewidths=0.4)
    soup = members.mean(axis=0)
    for number, (a, b) in enumerate(members):
        axis.plot([a, soup[0]], [b, soup[1]], color=COLOURS[number], linewidth=1, linestyle=":")
        axis.plot(a, b, "o", color=COLOURS[number], markersize=10, markeredgecolor=PAPER)
    axis.plot(*soup, "*", color=INK, markersize=17, markeredgecolor=PAPER)
    axis.annotate("soup", soup, (0, -17), textcoords="offset points", ha="center", color=INK, fontsize=10)
    axis.set_title(f"{title}: the mean lies {'on a hill' if apart else 'in their valley'}", fontsize=10, color=INK)
    axis.set(xticks=[], yticks=[], xlabel="weights (dark: high loss; a sketch)")


if __name__ == "__main__":
    sys.exit(main())
