"""The table of finished runs: its columns, and how they look in a terminal and in a CSV file.

Owns which numbers are shown and how they are worded. Does not read run folders.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from wash_hpc.ensemble.scores import perplexity
from wash_hpc.errors import printable
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


def format_metric(run: Summary, judged: str, accuracy: float | None) -> str:
    """An accuracy in percent, or, for a run on text, the perplexity of what was judged; a dash where there is none."""
    if run.metric == "accuracy":
        return format_percent(accuracy)
    nll = run.score(judged, "nll")
    return "-" if nll is None else f"{perplexity(nll):.2f}"


def format_nats(nll: float | None) -> str:
    """A negative log-likelihood; a dash for None."""
    return "-" if nll is None else f"{nll:.3f}"


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
    Column("member\nmean", lambda run: format_metric(run, "member", run.mean_member_accuracy), 7),
    Column("best", lambda run: format_metric(run, "best_member", run.best_member_accuracy), 6),
    Column("ensemble", lambda run: format_metric(run, "ensemble", run.ensemble_accuracy), 8),
    Column("soup", lambda run: format_metric(run, "soup", run.soup_accuracy), 9),
    Column("soup\nraw", lambda run: format_metric(run, "soup_raw", run.soup_accuracy_raw), 0),
    Column("greedy\nsoup", lambda run: format_metric(run, "greedy_soup", run.greedy_soup_accuracy), 2),
    Column("EMA", lambda run: format_metric(run, "ema", run.score("ema", "accuracy")), -1),
    Column("differ", lambda run: format_percent(run.disagreement), -2),
    Column("soup\nNLL", lambda run: format_nats(run.score("soup", "nll")), -3),
    Column("soup\nECE", lambda run: format_percent(run.score("soup", "calibration_error")), -4),
    Column("sent per\nmember", lambda run: format_bytes(run.bytes_sent_per_member), 5),
    Column("time", lambda run: format_seconds(run.wall_seconds), 4),
)
CAPTION = (
    "Accuracy in percent of the test images; soup: statistics recomputed, raw: averaged; EMA: a member's average over "
    "steps; differ: percent on which two members do; NLL: in nats; ECE: calibration error in percent; sent: payload."
)
_TEXT_CAPTION = " Of text: perplexity in place of accuracy ({}), lower is better."


def print_table(console: Console, runs: Sequence[Summary]) -> None:
    """Print the runs, one a line: fitted to a terminal's width, whole and without frames elsewhere."""
    if not console.is_terminal:
        whole = Console(file=console.file, width=_PLAIN_WIDTH)
        whole.print(_rich_table(runs, COLUMNS, name_width=_PLAIN_WIDTH, plain=True))
        whole.print(_text(caption(runs)))
        for line in left_out_lines(runs):
            whole.print(_text(line))
        return
    name_width = max(8, min(30, 2 * console.width // 5))
    columns = _fitting(runs, console, name_width)
    no_room = [column.title.replace("\n", " ") for column in COLUMNS if column not in columns]
    console.print(_rich_table(runs, columns, name_width))
    console.print(_text(caption(runs) + (f" No room for: {', '.join(no_room)}." if no_room else "")), style="dim")
    for line in left_out_lines(runs):
        console.print(_text(line))


def caption(runs: Sequence[Summary]) -> str:
    """What the columns mean, for these runs."""
    names = [run.name for run in runs if run.metric == "perplexity"]
    return CAPTION + (_TEXT_CAPTION.format(", ".join(names)) if names else "")


def left_out_lines(runs: Sequence[Summary]) -> list[str]:
    """A line for each run whose figures are without some of its members, which says which."""
    return [
        f"{run.name}: without member {', '.join(map(str, run.left_out_members))}, whose weights are not finite."
        for run in runs
        if run.left_out_members
    ]


def csv_text(runs: Sequence[Summary]) -> str:
    """The runs as comma-separated values: a line of keys, then one a run; nothing where a value is null or absent.

    Scores have keys such as `scores.soup.nll`, in the order in which they first appear.
    """
    rows = [_flat(summary_object(run)) for run in runs]
    keys = [field.name for field in fields(Summary) if field.name != "scores"]
    keys += dict.fromkeys(key for row in rows for key in row if key not in keys)
    text = io.StringIO()
    writer = csv.DictWriter(text, keys, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _flat(summary: dict[str, Any]) -> dict[str, Any]:
    """A summary's object without its nesting."""
    scores = summary.pop("scores")
    nested = {f"scores.{judged}.{name}": value for judged, found in scores.items() for name, value in found.items()}
    return {**summary, **nested}


def _fitting(runs: Sequence[Summary], console: Console, name_width: int) -> list[Column]:
    """The columns that fit a console side by side."""
    columns = list(COLUMNS)
    unbounded = console.options.update(width=1000)
    for column in sorted(COLUMNS[1:], key=lambda column: column.keep):
        if console.measure(_rich_table(runs, columns, name_width), options=unbounded).maximum <= console.width:
            break
        columns.remove(column)
    return columns


def _text(text: str) -> Text:
    """What a summary says, as it is: no markup, no codes of the terminal."""
    return Text(printable(text))


def _rich_table(runs: Sequence[Summary], columns: Sequence[Column], name_width: int, plain: bool = False) -> Table:
    table = Table(box=None, padding=(0, 2 if plain else 1, 0, 0), header_style="" if plain else "bold")
    for column in columns:
        title = column.title.replace("\n", " ") if plain else column.title
        if column is COLUMNS[0]:  # names have no bound: they fold
            table.add_column(title, overflow="fold", max_width=name_width)
        else:
            table.add_column(title, justify=column.align, no_wrap=True)
    for run in runs:
        table.add_row(*(_text(column.cell(run)) for column in columns))
    return table
