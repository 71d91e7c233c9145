"""All figures of a report, in the order in which they are read. Draws nothing."""

from __future__ import annotations

from collections.abc import Sequence

from wash_hpc.report.barriers import barrier_figures
from wash_hpc.report.curves import curve_figures, heat_figures, shown
from wash_hpc.report.figure import Figure
from wash_hpc.report.runs import Run
from wash_hpc.report.totals import bytes_figures, time_figure


def figures(runs: Sequence[Run]) -> tuple[list[Figure], list[str]]:
    """The figures of some runs, with their metrics, and a sentence for each file that could not be read on the way."""
    those = shown(runs)
    over_steps = {figure.key: figure for figure in curve_figures(those)}
    rate = over_steps.pop("lr", None)
    time = time_figure(those)
    barriers, problems = barrier_figures(runs)
    found = [*over_steps.values(), *heat_figures(those), *bytes_figures(those), time, *barriers, rate]
    return [figure for figure in found if figure is not None], problems
