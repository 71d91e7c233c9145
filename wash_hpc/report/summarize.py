"""The command line of `tools/summarize.py`: which runs, which outputs, which exit status."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from wash_hpc.errors import MissingDependencyError, WashError
from wash_hpc.report.alarms import alarms
from wash_hpc.report.figure_files import write_report_figures
from wash_hpc.report.figures import figures
from wash_hpc.report.follow import follow
from wash_hpc.report.groups import Group, differing, group_caption, group_csv, group_grid, group_objects, group_runs
from wash_hpc.report.keys import Condition, check_keys, sort_items, value_of
from wash_hpc.report.page import write_page
from wash_hpc.report.runs import Run, read_runs, run_folders, with_metrics
from wash_hpc.report.table import csv_text, print_grid, print_table
from wash_hpc.storage.files import write_atomically
from wash_hpc.storage.metrics import metrics_files
from wash_hpc.storage.summary import summary_object

_ALL_SHOWN, _SOME_LEFT_OUT, _NOTHING_SHOWN, _INTERRUPTED = 0, 1, 2, 130
_MOST_LOOKED_INTO = 40  # runs whose metrics are read for alarms unasked: that takes up to 30 ms each
_ALARM_RECORDS = 5000  # of a run, the last ones

_EXAMPLES = """\
examples:
  tools/summarize.py runs                             a table of all runs in a folder, a sweep's too
  tools/summarize.py runs/a runs/b --html report.html   the same, and a page with their curves
  tools/summarize.py runs --group method,method.p --sort=-soup_accuracy    mean and spread over seeds
  tools/summarize.py runs --filter 'method.p>=0.1' --filter method=wash
  tools/summarize.py runs/a --json | jq '.[0].soup_accuracy'
  tools/summarize.py runs/a --follow                  watch a run that is going, then the table

A KEY is one of summary.json (soup_accuracy, scores.soup.nll), of the configuration (method.p, optimizer.lr), or what
the table derives: gap, member_spread, gb_per_point, data_share, exchange_share. docs/reading_results.md says more.

exit status: 0 all runs shown; 1 some left out, or ended before their end, each named on stderr; 2 nothing shown or bad
arguments
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says.

    Args:
        arguments: without the program's name; None: the process's own.

    Returns:
        The exit status.
    """
    options = _parser().parse_args(arguments)
    try:
        return _summarize(options)
    except WashError as error:
        return _complain([str(error)], _NOTHING_SHOWN)
    except KeyboardInterrupt:
        return _INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="summarize.py",
        description="Show finished runs side by side: members, ensemble, soups, bytes sent and time.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("runs", metavar="RUN", nargs="+", type=Path, help="a run's folder, or one that holds runs")
    add("--group", metavar="KEYS", type=_keys, help="one row for all runs that agree in these keys: KEY,KEY")
    add("--sort", metavar="KEYS", type=_keys, default=[], help="KEY,KEY; --sort=-KEY is descending")
    add(
        *("--filter",),
        metavar="CONDITION",
        action="append",
        default=[],
        help="only runs for which KEY=VALUE, or with != < > <= >=; given several times, all must hold",
    )
    add("--json", action="store_true", help="print a list of the runs' summary.json, or of groups, not the table")
    add("--html", metavar="FILE", type=Path, help="also write one page with curves that opens offline")
    add("--csv", metavar="FILE", type=Path, help="also write the table's runs or groups as comma-separated values")
    add("--follow", action="store_true", help="first watch runs that are going until all have ended")
    add(
        *("--alarms",),
        action=argparse.BooleanOptionalAction,
        help=f"say under the table what is wrong with runs; unasked for up to {_MOST_LOOKED_INTO} runs",
    )
    add("--figures", metavar="DIR", type=Path, help="also draw each figure of that page as PNG and SVG into a folder")
    return parser


def _keys(text: str) -> list[str]:
    keys = [key.strip() for key in text.split(",") if key.strip()]
    if not keys:
        raise argparse.ArgumentTypeError("expected KEY,KEY")
    return keys


def _summarize(options: argparse.Namespace) -> int:
    conditions = [Condition.parse(text) for text in options.filter]
    folders = run_folders(options.runs)
    has_ended_early = options.follow and not follow(folders, Console(stderr=True))
    runs, problems = read_runs(folders)
    if not runs:
        return _complain(problems, _SOME_LEFT_OUT if has_ended_early else _NOTHING_SHOWN)
    check_keys(runs, [condition.key for condition in conditions] + [key.removeprefix("-") for key in options.sort])
    check_keys(runs, options.group or [])
    runs = [run for run in runs if all(condition.holds(value_of(run, condition.key)) for condition in conditions)]
    runs = sort_items(runs, options.sort, value_of)
    if not runs:
        return _complain([*problems, "no run passes --filter"], _NOTHING_SHOWN)
    if options.html or options.figures:
        runs, unreadable = with_metrics(runs)
        problems += unreadable
        drawn = figures(runs)
        problems += drawn[1]
        if options.html:
            write_page(options.html, runs, drawn)
        if options.figures:
            write_report_figures(options.figures, drawn[0])
    groups = sort_items(group_runs(runs, options.group), options.sort, Group.value) if options.group else []
    if options.csv:
        text = group_csv(groups) if groups else csv_text(runs)
        write_atomically(options.csv, text)
    if options.json:
        _print_json(group_objects(groups) if groups else [summary_object(run.summary) for run in runs])
    else:
        lines, unreadable = _alarm_lines(runs, options.alarms)
        problems += [problem for problem in unreadable if problem not in problems]
        _print_table(runs, groups, lines)
    return _complain(problems, _SOME_LEFT_OUT) if problems else _ALL_SHOWN


def _print_json(objects: list[dict[str, Any]]) -> None:
    sys.stdout.write(json.dumps(objects, indent=2, allow_nan=False) + "\n")


def _print_table(runs: Sequence[Run], groups: Sequence[Group], lines: Sequence[str]) -> None:
    if groups:
        print_grid(Console(), group_grid(groups), partial(group_caption, groups), [*differing(groups), *lines])
    else:
        print_table(Console(), [run.shown for run in runs], lines)


def _alarm_lines(runs: Sequence[Run], asked: bool | None) -> tuple[list[str], list[str]]:
    """A line for each alarm of the runs, and a sentence for each run whose metrics cannot be read.

    A run whose metrics were not kept has none; that h5py is missing is said where alarms were asked for.
    """
    if asked is False or (asked is None and len(runs) > _MOST_LOOKED_INTO):
        return [], []
    lines: list[str] = []
    problems: list[str] = []
    for run in runs:
        if run.metrics is None and not metrics_files(run.folder):
            continue
        try:
            [read], unreadable = ([run], []) if run.metrics is not None else with_metrics([run], _ALARM_RECORDS)
        except MissingDependencyError:
            if asked:
                raise
            return [], []
        problems += unreadable
        if read.metrics is not None:
            lines += [f"{run.label}: {alarm}" for alarm in alarms(read.metrics, run.summary, run.sections)]
    return lines, problems


def _complain(problems: Sequence[str], status: int) -> int:
    """Say on stderr what was left out; returns the status."""
    console = Console(stderr=True)
    for problem in problems:
        console.print(Text(f"summarize.py: {problem}"), soft_wrap=True)
    return status
