"""The command line of `tools/basin_condition.py`: when does averaging fail, and what could have told?

Rows are `basin_rows`', conditions `ensemble.condition`'s; owns which rows conditions are fitted on, and the text.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from wash_hpc.ensemble.condition import Condition, Verdict, judge, judge_majority, spearman
from wash_hpc.errors import ConfigError, RunFolderError, WashError
from wash_hpc.report.basin_rows import PREDICTORS, Row, read_rows
from wash_hpc.report.table import csv_of
from wash_hpc.storage.files import write_atomically

_ALL_SHOWN, _SOME_LEFT_OUT, _NOTHING_SHOWN = 0, 1, 2
_LONG = 9  # characters of a title that stands over its column
_PAGE = Path("docs/results.md")
_FIRST, _LAST = "<!-- made by tools/basin_condition.py --write -->", "<!-- end -->"

_COLUMNS = {
    "d": "distance",
    "d / norm": "relative_distance",
    "curvature at members": "curvature_members",
    "curvature in the middle": "curvature_middle",
    "curvature at members x d^2/2": "estimate_members",
    "minus curvature in the middle x d^2/2": "estimate_middle",
    "curvature at members x d^2/2, by differences": "estimate_members_recomputed",
    "minus curvature in the middle x d^2/2, by differences": "estimate_middle_recomputed",
    "barrier": "barrier",
    "soup - ensemble, loss": "ensemble_rise",
    "soup - mean member, loss": "member_rise",
}
"""Numbers of a row that are shown, by their titles; a CSV has all."""

_EXAMPLES = """\
examples:
  tools/basin_condition.py runs/basin                 all runs of a sweep, all steps that were looked at
  tools/basin_condition.py runs/basin --fit '*seed_0' --steps 250,1000 --csv basin.csv
  tools/basin_condition.py runs/basin --markdown --write     into docs/results.md, between the two comments there

It reads RUN/landscape/landscape.json and RUN/landscape/step-*/landscape.json, which tools/landscape.py RUN [--step N]
--parts averaging,lines,curvature,distance leaves there, and looks at no images itself.

exit status: 0 all shown; 1 some left out, each named on stderr; 2 nothing shown or bad arguments
"""


@dataclass(frozen=True)
class Judged:
    """Rows, and what conditions that are fitted on some of them say of the others.

    Attributes:
        rows: all.
        points: by how many points of accuracy a soup is under its ensemble where averaging has failed.
        fitted: names of the runs whose rows conditions are fitted on.
        verdicts: one a predictor, the best first; none where there are no rows to fit on, or none to judge.
        majority: what most of the fitted rows did, and of how many others that is true.
        num_others: rows that are judged.
        with_gap: by predictor, rank correlation with the gap in accuracy over all rows.
        with_rise: by predictor, with the soup's loss less the ensemble's.
    """

    rows: list[Row]
    points: float
    fitted: list[str]
    verdicts: list[Verdict]
    majority: tuple[bool, int]
    num_others: int
    with_gap: dict[str, float]
    with_rise: dict[str, float]

    @property
    def num_failed(self) -> int:
        """Rows in which averaging failed."""
        return sum(row.failed(self.points) for row in self.rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        rows, problems = read_rows(options.runs, options.steps)
        if rows:
            judged = judge_rows(rows, options.fit, options.points)
            if options.csv:
                flat = [_flat(row, judged.points) for row in rows]
                write_atomically(options.csv, csv_of(list(flat[0]), flat))
            if options.write:
                _write(_text(judged, markdown=True))
            sys.stdout.write((_json(judged) if options.json else _text(judged, options.markdown)) + "\n")
    except WashError as error:
        rows, problems = [], [str(error)]
    for problem in problems:
        sys.stderr.write(f"basin_condition.py: {problem}\n")
    return (_SOME_LEFT_OUT if problems else _ALL_SHOWN) if rows else _NOTHING_SHOWN


def judge_rows(rows: Sequence[Row], fit: Sequence[str] | None, points: float) -> Judged:
    """Fit conditions on the rows of some runs, and judge them by those of the others.

    Args:
        rows: at least one.
        fit: patterns of names of runs, as a shell's; None: the runs of the lowest seed or, where all have one, every
            second run.
        points: of accuracy, over which averaging has failed.

    Raises:
        ConfigError: a pattern that fits no run.
    """
    runs = list(dict.fromkeys(row.run for row in rows))
    for pattern in fit or ():
        if not any(fnmatchcase(run, pattern) for run in runs):
            raise ConfigError(f"--fit {pattern}: there is no such run; there are {', '.join(runs)}")
    if fit is not None:
        chosen = [run for run in runs if any(fnmatchcase(run, pattern) for pattern in fit)]
    else:
        lowest = min(row.seed for row in rows)
        of_seed = {row.run for row in rows if row.seed == lowest}
        chosen = [run for run in runs if run in of_seed] if len(of_seed) < len(runs) else runs[::2]
    fitted = [row.case(points) for row in rows if row.run in chosen]
    others = [row.case(points) for row in rows if row.run not in chosen]
    verdicts = [judge(name, fitted, others) for name in PREDICTORS] if fitted and others else []
    rises, gaps = [row.ensemble_rise for row in rows], [row.gap for row in rows]
    values = {name: [getattr(row, name) for row in rows] for name in PREDICTORS}
    return Judged(
        rows=list(rows),
        points=points,
        fitted=chosen,
        verdicts=sorted(verdicts, key=lambda verdict: (-verdict.right, -verdict.fit_right)),
        majority=judge_majority(fitted, others),
        num_others=len(others),
        with_gap={name: spearman(values[name], gaps) for name in PREDICTORS},
        with_rise={name: spearman(values[name], rises) for name in PREDICTORS},
    )


def _text(judged: Judged, markdown: bool) -> str:
    """Two tables, and sentences of what they say."""
    images = ", ".join(sorted({row.images for row in judged.rows}))
    about = (
        f"Averaging failed in {judged.num_failed} of {len(judged.rows)} rows: the soup is over {judged.points:g} "
        f"points of accuracy under the ensemble, on {images}. Statistics are recomputed for all."
    )
    rows = _row_table(judged, markdown)
    if markdown:  # of many runs it is longer than what it says
        rows = f"<details><summary>All {len(judged.rows)} rows</summary>\n\n{rows}\n\n</details>"
    parts = [rows, about]
    if judged.verdicts:
        parts += [_verdict_table(judged, markdown), *_sentences(judged)]
    else:
        parts.append(
            "A condition is fitted on some runs and judged by others: name two at least, and not all by --fit."
        )
    return "\n\n".join(parts)


def _row_table(judged: Judged, markdown: bool) -> str:
    table = []
    for row in judged.rows:
        numbers = [_short(getattr(row, name)) for name in _COLUMNS.values()]
        outcome = "failed" if row.failed(judged.points) else "held"
        table.append([row.run, str(row.step), *numbers, f"{row.gap:.2f}", outcome])
    return _table(["run", "step", *_COLUMNS, "soup under ensemble, points", "averaging"], table, markdown)


def _verdict_table(judged: Judged, markdown: bool) -> str:
    heading = ["predictor", "averaging fails where it is", "right when fitted", "right on the others"]
    heading += ["rank correlation with points lost", "rank correlation with soup - ensemble, loss"]
    table = []
    for verdict in judged.verdicts:
        says, fit, others = "cannot be fitted", "", ""
        if verdict.condition is not None:
            says = _side(verdict.condition)
            fit, others = f"{verdict.fit_right} of {verdict.num_fit}", f"{verdict.right} of {judged.num_others}"
        correlations = [_short(numbers[verdict.predictor]) for numbers in (judged.with_gap, judged.with_rise)]
        table.append([PREDICTORS[verdict.predictor], says, fit, others, *correlations])
    return _table(heading, table, markdown)


def _sentences(judged: Judged) -> list[str]:
    """What conditions are fitted on, the yardstick, and where each was wrong."""
    failed, right = judged.majority
    sentences = [
        f"Fitted on {', '.join(judged.fitted)}; judged by the {judged.num_others} rows of the others. Saying that "
        f"averaging always {'fails' if failed else 'holds'}, as in most fitted rows, is right in {right} of these."
    ]
    failures = {row.name for row in judged.rows if row.failed(judged.points)}
    items = []
    for verdict in judged.verdicts:
        name = PREDICTORS[verdict.predictor]
        if verdict.condition is None:
            items.append(f"- {name}: no condition, as fitted rows do not have both outcomes and different numbers.")
            continue
        wrong = [f"{row} ({'failed' if row in failures else 'held'})" for row in verdict.wrong]
        said = f"right in {verdict.right} of {judged.num_others}{', wrong in ' if wrong else ''}{', '.join(wrong)}"
        items.append(f"- Averaging fails where {name} is {_side(verdict.condition)}: {said}.")
    return [*sentences, "\n".join(items)]


def _side(condition: Condition) -> str:
    return f"{'above' if condition.fails_above else 'below'} {_short(condition.threshold)}"


def _table(heading: Sequence[str], rows: Sequence[Sequence[str]], markdown: bool) -> str:
    """A table of markdown, or one of aligned columns whose long titles are below it."""
    if markdown:
        return "\n".join(f"| {' | '.join(line)} |" for line in (heading, ["---"] * len(heading), *rows))
    long = [title for title in heading if len(title) > _LONG]
    titles = [f"[{long.index(title) + 1}]" if title in long else title for title in heading]
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    lines = []
    for first, *others in (titles, *rows):
        cells = [text.rjust(width) for text, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells]))
    return "\n".join([*lines, *(f"[{number}] {title}" for number, title in enumerate(long, 1))])


def _short(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3g}"


def _flat(row: Row, points: float) -> dict[str, Any]:
    """A row with what follows from it; nothing in place of what is not a number."""
    numbers = {**asdict(row), **row.case(points).values, "failed": row.failed(points)}
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in numbers.items()
    }


def _json(judged: Judged) -> str:
    others = asdict(judged)
    del others["rows"]
    content = {"rows": [_flat(row, judged.points) for row in judged.rows], **others}
    for name in ("with_gap", "with_rise"):
        content[name] = {key: None if math.isnan(value) else value for key, value in content[name].items()}
    return json.dumps(content, indent=1, allow_nan=False)


def _write(text: str) -> None:
    """Put a text between the two comments of the page of results.

    Raises:
        RunFolderError: the page is not there, or has no such comments.
    """
    try:
        page = _PAGE.read_text(encoding="utf-8")
    except OSError as error:
        raise RunFolderError(f"{_PAGE}: cannot be read: {error.strerror}: --write is for a clone's folder") from error
    before, first, rest = page.partition(_FIRST)
    _, last, after = rest.partition(_LAST)
    if not last:
        raise RunFolderError(f"{_PAGE}: holds no {_FIRST} with {_LAST} after it")
    write_atomically(_PAGE, f"{before}{first}\n\n{text}\n\n{last}{after}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="basin_condition.py",
        description="When does averaging members fail, and what could have told: consensus distance, curvature times "
        "distance squared, or barriers? Of what tools/landscape.py has found in several runs and steps.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("runs", metavar="RUN", nargs="+", type=Path, help="a run's folder, or one that holds runs, such as a sweep's")
    add("--steps", type=_steps, metavar="N,N", help="looks at these steps alone (default: all that there are)")
    add(
        *("--fit",),
        type=_words,
        metavar="A,B",
        help="runs that conditions are fitted on, by patterns of their names (default: those of the lowest seed)",
    )
    add(
        "--points",
        type=_points,
        default=1.0,
        metavar="X",
        help="averaging failed where the soup is so many points of accuracy under the ensemble (default: 1)",
    )
    add("--markdown", action="store_true", help="print tables as markdown")
    add("--json", action="store_true", help="print one JSON object")
    add("--csv", metavar="FILE", type=Path, help="also write the rows as comma-separated values")
    add("--write", action="store_true", help=f"also put the tables into {_PAGE}")
    return parser


def _steps(text: str) -> list[int]:
    if not all(word.isdecimal() for word in text.split(",")):
        raise argparse.ArgumentTypeError(f"'{text}': expected steps, as in 250,500")
    return [int(word) for word in text.split(",")]


def _words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


def _points(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"'{text}': expected points of accuracy, as in 0.5")
    return value
