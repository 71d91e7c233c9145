"""The numbers of evidence's runs as CSV files, and the tables of the documents made of them.

A table stands in a document between `<!-- evidence SWEEP [columns=A,B] [only=PATTERN,...] [across=KEY] -->` and
`<!-- end -->`. A row is what the runs that differ in their seed alone have in common; a number is mean ± standard
deviation over them. With `across=steps` there is one column for each value of that key in a row's name, of one number.
"""

from __future__ import annotations

import csv
import io
import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from wash_hpc.errors import WashError
from wash_hpc.report.columns import format_bytes, metric_value
from wash_hpc.storage.files import write_atomically
from wash_hpc.storage.summary import Summary, read_summary
from wash_hpc.sweep.grid import Sweep

ROOT = Path(__file__).resolve().parent.parent
NUMBERS = ROOT / "docs/evidence"
DOCUMENTS = [ROOT / "docs/results.md", ROOT / "README.md"]

Row = dict[str, str]


def _judged(name: str) -> Callable[[Summary], float | None]:
    return lambda run: metric_value(run, name, run.score(name, "accuracy"))


_OF_RUN: dict[str, Callable[[Summary], float | None]] = {
    "members": lambda run: run.num_members,
    "steps": lambda run: run.steps,
    "samples": lambda run: run.samples_seen,
    "parameters": lambda run: run.num_parameters,
    "member": _judged("member"),
    "best": _judged("best_member"),
    "ensemble": _judged("ensemble"),
    "soup": _judged("soup"),
    "soup_raw": _judged("soup_raw"),
    "greedy": _judged("greedy_soup"),
    "ema_soup": _judged("ema_soup"),
    "nll": lambda run: run.score("soup", "nll"),
    "differ": lambda run: None if run.disagreement is None else 100 * run.disagreement,
    "consensus": lambda run: run.consensus_distance,
    "sent": lambda run: run.bytes_sent_per_member,
    "seconds": lambda run: run.wall_seconds,  # says something where nothing else ran beside it
}
_TITLES = {
    "samples": "samples a member",
    "member": "mean member",
    "best": "best member",
    "soup_raw": "soup, raw",
    "greedy": "greedy soup",
    "ema_soup": "soup of EMAs",
    "nll": "soup NLL",
    "differ": "members differ on, %",
    "consensus": "consensus distance",
    "sent": "sent per member",
    "gap": "soup - ensemble",
    "seconds": "time",
}
_DEFAULT = ("member", "ensemble", "soup", "soup_raw", "greedy", "gap", "sent")
_SEED = re.compile(r"(?:^|-)seed_(\d+)")
_MARK = re.compile(r"(<!-- evidence (?P<what>[^>]+?) -->\n).*?(<!-- end -->)", re.DOTALL)


def write_rows(name: str, sweep: Sweep, finished: Iterable[str]) -> None:
    """Write the numbers of these runs of a sweep to its CSV file, and keep those that the file has of its others."""
    rows = {row["run"]: row for row in read_rows(name)}
    for run in finished:
        summary = read_summary(sweep.folder / run)
        values = {key: value(summary) for key, value in _OF_RUN.items()}
        rows[run] = {"run": run, "metric": summary.metric, **{key: _number(value) for key, value in values.items()}}
    text = io.StringIO()
    table = csv.DictWriter(text, ["run", "metric", *_OF_RUN], lineterminator="\n")
    table.writeheader()
    table.writerows(rows[run.name] for run in sweep.runs if run.name in rows)
    NUMBERS.mkdir(exist_ok=True)
    write_atomically(NUMBERS / f"{name}.csv", text.getvalue().encode())


def read_rows(name: str) -> list[Row]:
    """The numbers of a sweep's runs as they are in its CSV file; none where there is no such file."""
    file = NUMBERS / f"{name}.csv"
    if not file.exists():
        return []
    with file.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def with_tables(text: str) -> str:
    """A document with its tables made anew.

    Raises:
        WashError: a mark that asks for what there is not.
    """
    return _MARK.sub(lambda found: f"{found[1]}{_table(found['what'])}{found[3]}", text)


def _table(what: str) -> str:
    """The lines of one table in Markdown, by what its mark says."""
    name, *words = what.split()
    options = dict(word.partition("=")[::2] for word in words)
    only = options.get("only", "*").split(",")
    rows = [row for row in read_rows(name) if any(fnmatchcase(_row_name(row), pattern) for pattern in only)]
    if not rows:
        return f"*No run of {name} has finished yet.*\n"
    columns = options.get("columns", ",".join(_DEFAULT)).split(",")
    for column in columns:
        if column not in {*_OF_RUN, "gap"}:
            raise WashError(f"evidence {what}: there is no number {column}")
    if "across" in options:
        return _across(rows, columns[0], options["across"])
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(_row_name(row), []).append(row)
    lines = [[name, str(len(runs)), *(_cell(runs, column) for column in columns)] for name, runs in groups.items()]
    return in_markdown(["", "seeds", *(_TITLES.get(column, column) for column in columns)], lines)


def _across(rows: Sequence[Row], column: str, key: str) -> str:
    """One number, with a column of the table for each value that `KEY_VALUE` has in the rows' names."""
    part = re.compile(rf"(?:^|-){key}_([^-]+(?:e-\d+)?)")
    cells: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        name = _row_name(row)
        found = part.search(name)
        if found is None:
            raise WashError(f"evidence: {name} has no {key}_ in its name")
        cells.setdefault(part.sub("", name).strip("-"), {}).setdefault(found[1], []).append(row)
    values = list(dict.fromkeys(value for of_row in cells.values() for value in of_row))
    lines = [
        [re.sub(r"(?<=-)(\w+?)_(?=\d)", r"\1 = ", name), *(_cell(of_row.get(value, []), column) for value in values)]
        for name, of_row in cells.items()
    ]
    return in_markdown(["", *(f"{key} = {value}" for value in values)], lines)


def in_markdown(titles: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table of these columns and rows."""
    rows = [titles, ["---"] * len(titles), *lines]
    return "".join(f"| {' | '.join(row)} |\n".replace("|  |", "| |") for row in rows)


def _row_name(row: Row) -> str:
    """What the runs of one row have in common: the run's name without its seed."""
    return _SEED.sub("", row["run"]).strip("-")


def _cell(rows: Sequence[Row], column: str) -> str:
    values = [value for value in (_value(row, column) for row in rows) if value is not None]
    if not values:
        return "-"
    mean = statistics.fmean(values)
    if column == "sent":
        return format_bytes(mean)
    if column == "seconds":
        return f"{mean:,.0f} s"
    if column in {"members", "steps", "samples", "parameters"}:
        return f"{mean:,.0f}"
    digits = 3 if column == "nll" else 2
    sign = "+" if column == "gap" else ""
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{mean:{sign}.{digits}f}{spread}"


def _value(row: Row, column: str) -> float | None:
    if column == "gap":
        soup, ensemble = _value(row, "soup"), _value(row, "ensemble")
        return None if soup is None or ensemble is None else soup - ensemble
    return float(row[column]) if row.get(column) else None


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.7g}"
