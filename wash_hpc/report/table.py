"""The table of finished runs, and that of groups, in a terminal and as comma-separated values.

Owns the layout: what fits, and what is left out of a narrow terminal. Which columns there are is `columns`'.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from wash_hpc.errors import printable
from wash_hpc.report.columns import COLUMNS, DERIVED, caption, notes_on_members
from wash_hpc.report.keys import flat
from wash_hpc.report.runs import Run
from wash_hpc.storage.summary import Summary, summary_object

_NESTED = ("seconds", "scores")  # of a summary
_PLAIN_WIDTH = 10_000  # a pipe or a file has no width: nothing is cut there


@dataclass(frozen=True)
class Grid:
    """A table's texts, before it is known how many of its columns there is room for.

    Attributes:
        titles: of the columns; a line break shows where to fold.
        rows: texts, one a column.
        keep: of each column: those with the lowest number go first; the first column never does.
        align: of each column.
    """

    titles: Sequence[str]
    rows: Sequence[Sequence[str]]
    keep: Sequence[float]
    align: Sequence[Literal["left", "right"]]


def print_table(console: Console, runs: Sequence[Summary], lines: Sequence[str] = ()) -> None:
    """Print the runs, one a line: fitted to a terminal's width, whole and without frames elsewhere.

    Args:
        console: where to.
        runs: as they are to be named.
        lines: more to say of them, under the table.
    """
    grid = Grid(
        [column.title for column in COLUMNS],
        [[column.cell(run) for column in COLUMNS] for run in runs],
        [column.keep for column in COLUMNS],
        [column.align for column in COLUMNS],
    )
    print_grid(console, grid, lambda titles: caption(runs, titles), [*notes_on_members(runs), *lines])


def print_grid(
    console: Console, grid: Grid, caption_of: Callable[[Collection[str]], str], lines: Sequence[str]
) -> None:
    """Print a table, what the columns mean for which there is room, and some lines under it."""
    if not console.is_terminal:
        whole = Console(file=console.file, width=_PLAIN_WIDTH)
        whole.print(_rich_table(grid, range(len(grid.titles)), name_width=_PLAIN_WIDTH, plain=True))
        for line in (caption_of(grid.titles), *lines):
            whole.print(_text(line))
        return
    name_width = max(8, min(30, 2 * console.width // 5))
    shown = _fitting(grid, console, name_width)
    no_room = [_in_line(title) for number, title in enumerate(grid.titles) if number not in shown]
    console.print(_rich_table(grid, shown, name_width))
    about = caption_of([grid.titles[column] for column in shown])
    console.print(_text(about + (f" No room for: {', '.join(no_room)}." if no_room else "")), style="dim")
    for line in lines:
        console.print(_text(line))


def csv_text(runs: Sequence[Run]) -> str:
    """The runs as comma-separated values: a line of keys, then one a run; nothing where a value is null or absent.

    The folder, the summary's own keys, and what the table derives; then seconds and scores, whose keys are such as
    `scores.soup.nll`, in the order in which they first appear.
    """
    rows = [{"folder": str(run.folder), **flat_summary(run.summary)} for run in runs]
    keys = ["folder", *(field.name for field in fields(Summary) if field.name not in _NESTED), *DERIVED]
    keys += dict.fromkeys(key for row in rows for key in row if key not in keys)
    return csv_of(keys, rows)


def csv_of(keys: Sequence[str], rows: Sequence[dict[str, Any]]) -> str:
    """Rows as comma-separated values, under a line of keys."""
    text = io.StringIO()
    writer = csv.DictWriter(text, keys, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def flat_summary(run: Summary) -> dict[str, Any]:
    """A summary's object without the nesting of its seconds and scores, and with what the table derives."""
    summary = summary_object(run)
    nested = {key: value for key, value in flat({key: summary.pop(key) for key in _NESTED}) if key not in _NESTED}
    return {**summary, **{key: value(run) for key, value in DERIVED.items()}, **nested}


def _fitting(grid: Grid, console: Console, name_width: int) -> list[int]:
    """The columns that fit a console side by side."""
    shown = list(range(len(grid.titles)))
    unbounded = console.options.update(width=1000)
    for column in sorted(shown[1:], key=lambda column: grid.keep[column]):
        if console.measure(_rich_table(grid, shown, name_width), options=unbounded).maximum <= console.width:
            break
        shown.remove(column)
    return shown


def _in_line(title: str) -> str:
    """A column's heading that is not folded."""
    return title.replace("/\n", "/").replace("\n", " ")


def _text(text: str) -> Text:
    """What a summary says, as it is: no markup, no codes of the terminal."""
    return Text(printable(text))


def _rich_table(grid: Grid, shown: Sequence[int], name_width: int, plain: bool = False) -> Table:
    table = Table(box=None, padding=(0, 2 if plain else 1, 0, 0), header_style="" if plain else "bold")
    for column in shown:
        title = _in_line(grid.titles[column]) if plain else grid.titles[column]
        if column == 0:  # names have no bound: they fold
            table.add_column(title, overflow="fold", max_width=name_width)
        else:
            table.add_column(title, justify=grid.align[column], no_wrap=True)
    for row in grid.rows:
        table.add_row(*(_text(row[column]) for column in shown))
    return table
