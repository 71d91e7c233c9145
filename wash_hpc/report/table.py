"""The table of finished runs: its columns, and how they look in a terminal and in a CSV file.

Owns which numbers are shown and how they are worded. Does not read run folders.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from wash_hpc.storage.summary import Summary, summary_object

_PLAIN_WIDTH = 10_000  # a pipe or a file has no width: nothing is cut there


@dataclass(frozen=True)
class Column:
    """One column of the table.

    Attributes:
        title: its heading; a line break shows where to fold it.
        cell: a summary's text in it.
        keep: columns with the lowest number go first where a terminal is too narrow; the first column never does.
        align: of the text.
    """

    title: str
    cell: Callable[[Summary], str]
    keep: int
    align: Literal["left", "right"] = "right"


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


def format_seconds(seconds: float) -> str:
    """A duration: `12.3 s`, `4 min 05 s`, `3 h 07 min`."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


COLUMNS = (
    Column("run", lambda run: run.name, 9, "left"),
    Column("method", lambda run: run.method, 3, "left"),
    Column("members", lambda run: str(run.num_members), 1),
    Column("member\nmean", lambda run: format_percent(run.mean_member_accuracy), 7),
    Column("best", lambda run: format_percent(run.best_member_accuracy), 6),
    Column("ensemble", lambda run: format_percent(run.ensemble_accuracy), 8),
    Column("soup", lambda run: format_percent(run.soup_accuracy), 9),
    Column("soup\nraw", lambda run: format_percent(run.soup_accuracy_raw), 0),
    Column("greedy\nsoup", lambda run: format_percent(run.greedy_soup_accuracy), 2),
    Column("sent per\nmember", lambda run: format_bytes(run.bytes_sent_per_member), 5),
    Column("time", lambda run: format_seconds(run.wall_seconds), 4),
)
CAPTION = "Accuracy in percent of the test images; soup: statistics recomputed, raw: averaged; sent: payload."


def print_table(console: Console, runs: Sequence[Summary]) -> None:
    """Print the runs, one a line: fitted to a terminal's width, whole and without frames elsewhere."""
    if not console.is_terminal:
        whole = Console(file=console.file, width=_PLAIN_WIDTH)
        whole.print(_rich_table(runs, COLUMNS, name_width=_PLAIN_WIDTH, plain=True))
        whole.print(CAPTION)
        for line in left_out_lines(runs):
            whole.print(Text(line))
        return
    name_width = max(8, min(30, 2 * console.width // 5))
    columns = _fitting(runs, console, name_width)
    no_room = [column.title.replace("\n", " ") for column in COLUMNS if column not in columns]
    console.print(_rich_table(runs, columns, name_width))
    console.print(CAPTION + (f" No room for: {', '.join(no_room)}." if no_room else ""), style="dim")
    for line in left_out_lines(runs):
        console.print(Text(line))


def left_out_lines(runs: Sequence[Summary]) -> list[str]:
    """A line for each run whose figures are without some of its members, which says which."""
    return [
        f"{run.name}: without member {', '.join(map(str, run.left_out_members))}, whose weights are not finite."
        for run in runs
        if run.left_out_members
    ]


def csv_text(runs: Sequence[Summary]) -> str:
    """The runs as comma-separated values: a line of keys, then one a run; nothing where a value is null."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Summary)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(summary_object(run) for run in runs)
    return text.getvalue()


def _fitting(runs: Sequence[Summary], console: Console, name_width: int) -> list[Column]:
    """The columns that fit a console side by side."""
    columns = list(COLUMNS)
    unbounded = console.options.update(width=1000)
    for column in sorted(COLUMNS[1:], key=lambda column: column.keep):
        if console.measure(_rich_table(runs, columns, name_width), options=unbounded).maximum <= console.width:
            break
        columns.remove(column)
    return columns


def _rich_table(runs: Sequence[Summary], columns: Sequence[Column], name_width: int, plain: bool = False) -> Table:
    table = Table(box=None, padding=(0, 2 if plain else 1, 0, 0), header_style="" if plain else "bold")
    for column in columns:
        title = column.title.replace("\n", " ") if plain else column.title
        if column is COLUMNS[0]:  # names have no bound: they fold
            table.add_column(title, overflow="fold", max_width=name_width)
        else:
            table.add_column(title, justify=column.align, no_wrap=True)
    for run in runs:
        table.add_row(*(Text(column.cell(run)) for column in columns))
    return table
