"""The command line of `tools/summarize.py`: which runs, which outputs, which exit status."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from wash_hpc.errors import WashError
from wash_hpc.report.follow import follow
from wash_hpc.report.page import write_page
from wash_hpc.report.runs import read_runs, with_metrics
from wash_hpc.report.table import csv_text, print_table
from wash_hpc.storage.files import write_atomically
from wash_hpc.storage.summary import summary_object

_ALL_SHOWN, _SOME_LEFT_OUT, _NOTHING_SHOWN, _INTERRUPTED = 0, 1, 2, 130

_EXAMPLES = """\
examples:
  tools/summarize.py runs/*                           a table of all runs
  tools/summarize.py runs/a runs/b --html report.html   the same, and a page with their curves
  tools/summarize.py runs/a --json | jq '.[0].soup_accuracy'
  tools/summarize.py runs/a --follow                  watch a run that is going, then the table

exit status: 0 all runs shown; 1 some left out, each named on stderr; 2 nothing shown or bad arguments
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
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="a run's folder, such as runs/demo-wash")
    parser.add_argument(
        "--json", action="store_true", help="print a list of the runs' summary.json instead of the table"
    )
    parser.add_argument("--html", metavar="FILE", type=Path, help="also write one page with curves that opens offline")
    parser.add_argument("--csv", metavar="FILE", type=Path, help="also write the runs as comma-separated values")
    parser.add_argument("--follow", action="store_true", help="first watch runs that are going until all have finished")
    return parser


def _summarize(options: argparse.Namespace) -> int:
    if options.follow:
        follow([folder for folder in options.runs if folder.is_dir()], Console(stderr=True))
    runs, problems = read_runs(options.runs)
    if not runs:
        return _complain(problems, _NOTHING_SHOWN)
    if options.html:
        runs, unreadable = with_metrics(runs)
        problems += unreadable
        write_page(options.html, runs)
    summaries = [run.summary for run in runs]
    if options.csv:
        write_atomically(options.csv, csv_text(summaries))
    if options.json:
        sys.stdout.write(
            json.dumps([summary_object(summary) for summary in summaries], indent=2, allow_nan=False) + "\n"
        )
    else:
        print_table(Console(), summaries)
    return _complain(problems, _SOME_LEFT_OUT) if problems else _ALL_SHOWN


def _complain(problems: Sequence[str], status: int) -> int:
    """Say on stderr what was left out; returns the status."""
    console = Console(stderr=True)
    for problem in problems:
        console.print(Text(f"summarize.py: {problem}"), soft_wrap=True)
    return status
