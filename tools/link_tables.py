"""The tables of what a slow link costs: a step of each method in each link, and the time to an accuracy.

`docs/evidence/links.json` is what `tools/bench_links.py --json` printed, `docs/evidence/links.csv` has the runs of the
sweep `links`, which train the same network by the same methods. A table stands in a document between
`<!-- links step -->` or `<!-- links time_to=ACCURACY -->` and `<!-- end -->`.
"""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Mapping
from typing import Any

import evidence_tables
from evidence_tables import in_markdown, read_rows
from network_probe import falls_short

from wash_hpc.errors import WashError

_MARK = re.compile(r"(<!-- links (?P<what>[^>]+?) -->\n).*?(<!-- end -->)", re.DOTALL)
_RUN = re.compile(r"(?P<method>\w+)-steps_(?P<steps>\d+)-seed_\d+")


def with_link_tables(text: str) -> str:
    """A document with these tables made anew.

    Raises:
        WashError: a mark that asks for what there is not.
    """
    return _MARK.sub(lambda found: f"{found[1]}{_table(found['what'])}{found[3]}", text)


def _table(what: str) -> str:
    file = evidence_tables.NUMBERS / "links.json"
    if not file.exists():
        return "*Not measured yet.*\n"
    measured = json.loads(file.read_text(encoding="utf-8"))
    if what == "step":
        return _steps(measured)
    word, _, accuracy = what.partition("=")
    if word != "time_to" or not accuracy:
        raise WashError(f"links {what}: expected step or time_to=ACCURACY")
    reached = {method: steps_to(float(accuracy), soups) for method, soups in _mean_soups().items()}
    return _times(measured, reached)


def _steps(measured: Mapping[str, Any]) -> str:
    """Milliseconds of a step, and of them waiting, for each method in each link."""
    cells = {}
    for row in measured["rows"]:
        step, waiting = (_three_digits(1e3 * row[part]) for part in ("seconds", "waiting_seconds"))
        cells[row["method"], row["link"]] = f"{step} ({waiting})"
    return _by_link(measured, cells)


def _times(measured: Mapping[str, Any], reached: Mapping[str, float | None]) -> str:
    """Seconds of so many steps of each method in each link."""
    cells = {}
    for row in measured["rows"]:
        if row["method"] in reached:
            steps = reached[row["method"]]
            cells[row["method"], row["link"]] = "-" if steps is None else _three_digits(steps * row["seconds"])
    return _by_link(measured, cells)


def _by_link(measured: Mapping[str, Any], cells: Mapping[tuple[str, str], str]) -> str:
    links = measured["links"]
    methods = dict.fromkeys(method for method, _ in cells)
    titles = ["", *(_called(name, link) for name, link in links.items())]
    return in_markdown(titles, [[method, *(cells[method, name] for name in links)] for method in methods])


def _three_digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 999.5 else f"{value:.3g}"  # no 1.05e+03


def _called(name: str, link: Mapping[str, Any]) -> str:
    return f"at most {name}" if falls_short(link["rate"], link["found"]["rate"]) else name


def _mean_soups() -> dict[str, dict[int, float]]:
    """By method and number of steps, the soup's accuracy in percent: mean over the runs that there are."""
    found: dict[str, dict[int, list[float]]] = {}
    for row in read_rows("links"):
        name = _RUN.fullmatch(row["run"])
        assert name is not None
        found.setdefault(name["method"], {}).setdefault(int(name["steps"]), []).append(float(row["soup"]))
    return {
        method: {steps: statistics.fmean(soups) for steps, soups in sorted(by_steps.items())}
        for method, by_steps in found.items()
    }


def steps_to(accuracy: float, soups: Mapping[int, float]) -> float | None:
    """How long a run has to be to end with an accuracy: steps, None where no run does.

    Args:
        accuracy: in percent.
        soups: the accuracy at the end of runs of so many steps, shortest first. Between two of them it is taken to
            grow with the logarithm of the steps; of less than the shortest nothing is said, so that is the least.
    """
    before: tuple[int, float] | None = None
    for steps, soup in soups.items():
        if soup >= accuracy:
            if before is None:
                return float(steps)
            share = (accuracy - before[1]) / (soup - before[1])
            return math.exp(math.log(before[0]) + share * (math.log(steps) - math.log(before[0])))
        before = steps, soup
    return None
