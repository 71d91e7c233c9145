"""Runs that agree in some keys as one row: mean and standard deviation over them, as over seeds.

Owns what is averaged and what is said of runs in one group that differ in more than their seed.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from wash_hpc.report.columns import COLUMNS, DERIVED, SHARE_COLUMNS, Column, caption, std
from wash_hpc.report.keys import Absent, Scalar, flat, text_of, value_of
from wash_hpc.report.runs import Run
from wash_hpc.report.table import Grid, csv_of
from wash_hpc.storage.summary import summary_object

_MAY_DIFFER = ("run.name", "run.dir", "run.seed", "log.", "checkpoint.", "name", "seed")  # between runs of a group
_NO_NUMBERS = {"seed", "num_members", "num_replicas"}  # that a mean says anything of
_SHAPE = ("num_members", "num_replicas", "steps")
_ABOUT = " Each number: mean ± standard deviation over the runs of a group."
_MOST_NAMED = 5


@dataclass(frozen=True)
class Group:
    """Runs that agree in the keys of the grouping, and in what they are judged by.

    Attributes:
        key: values by key, in the order in which these were asked for.
        runs: at least one.
    """

    key: dict[str, Scalar]
    runs: list[Run]

    @property
    def name(self) -> str:
        """`method=wash, method.p=0.2`."""
        return ", ".join(f"{key}={text_of(value)}" for key, value in self.key.items())

    def numbers(self, column: Column) -> list[float]:
        """Of the runs that have a number in a column."""
        found = [column.value(run.summary) for run in self.runs] if column.value is not None else []
        return [value for value in found if value is not None]

    def value(self, key: str) -> Scalar:
        """Its own value for a key of the grouping; else the mean over runs, or the text in which all agree."""
        if key in self.key:
            return self.key[key]
        values = [value_of(run, key) for run in self.runs]
        numbers = [value for value in values if isinstance(value, int | float)]
        if numbers:
            return sum(numbers) / len(numbers)
        return values[0] if isinstance(values[0], str) and len(set(map(str, values))) == 1 else None


def group_runs(runs: Sequence[Run], keys: Sequence[str]) -> list[Group]:
    """The groups, in the order in which their first runs come; a run that lacks a key has null there."""
    groups: dict[tuple[str, ...], Group] = {}
    for run in runs:
        values = {key: value_of(run, key) for key in keys}
        key = {name: None if isinstance(value, Absent) else value for name, value in values.items()}
        place = (*map(text_of, values.values()), run.summary.metric)
        groups.setdefault(place, Group(key, [])).runs.append(run)
    return list(groups.values())


def group_grid(groups: Sequence[Group]) -> Grid:
    """The table of groups: their keys, how many runs, and every number of the table of runs."""
    columns = [
        shown
        for column in COLUMNS
        for shown in (SHARE_COLUMNS if column.title.startswith("data/") else [column] * (column.value is not None))
    ]
    keys = list(groups[0].key)
    rows = [
        [
            *(text_of(group.key[key]) for key in keys),
            str(len(group.runs)),
            *(_cell(column, group.numbers(column)) for column in columns),
        ]
        for group in groups
    ]
    align: list[Literal["left", "right"]] = ["left" for _ in keys]
    align += ["right" for _ in ("runs", *columns)]
    return Grid(
        [*keys, "runs", *(column.title for column in columns)],
        rows,
        [*[10.0] * len(keys), 8.5, *(column.keep for column in columns)],
        align,
    )


def group_caption(groups: Sequence[Group], titles: Collection[str]) -> str:
    """What the columns of these titles mean, for these groups."""
    return caption([run.shown for group in groups for run in group.runs], titles) + _ABOUT


def differing(groups: Sequence[Group]) -> list[str]:
    """A line for each group whose runs differ in more than seed and name, which says in what."""
    return [line for group in groups for line in _differing(group)]


def group_objects(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """The groups as JSON has them: key, runs, their number, mean and standard deviation of every number."""
    objects = []
    for group in groups:
        numbers = _numbers(group)
        objects.append(
            {
                "group": group.key,
                "count": len(group.runs),
                "runs": [run.label for run in group.runs],
                "mean": {key: _mean(values) for key, values in numbers.items()},
                "std": {key: std(values) for key, values in numbers.items()},
            }
        )
    return objects


def group_csv(groups: Sequence[Group]) -> str:
    """The groups as comma-separated values: their keys, `count`, and `KEY.mean`, `KEY.std` of every number."""
    keys = list(groups[0].key)
    rows = []
    for made, group in zip(group_objects(groups), groups, strict=True):
        row: dict[str, Any] = {**group.key, "count": made["count"]}
        for key, mean in made["mean"].items():
            row |= {f"{key}.mean": mean, f"{key}.std": made["std"][key]}
        rows.append(row)
    names = dict.fromkeys(name for row in rows for name in row if name not in keys)
    return csv_of([*keys, *names], rows)


def _numbers(group: Group) -> dict[str, list[float]]:
    """Of each key with a number in it, those of the runs that have one."""
    numbers: dict[str, list[float]] = {}
    for run in group.runs:
        derived = {key: value(run.summary) for key, value in DERIVED.items()}
        for key, value in [*flat(summary_object(run.summary)), *derived.items()]:
            if isinstance(value, int | float) and math.isfinite(value) and key not in _NO_NUMBERS:
                numbers.setdefault(key, []).append(value)
    return numbers


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _cell(column: Column, values: Sequence[float]) -> str:
    if not values:
        return "-"
    spread = std(values)
    return column.form(_mean(values)) + (f" ± {column.form(spread).lstrip('+')}" if spread is not None else "")


def _differing(group: Group) -> Iterator[str]:
    if len(group.runs) == 1:
        return
    found = [dict(flat(run.sections)) for run in group.runs]
    for run, values in zip(group.runs, found, strict=True):
        values.update({key: getattr(run.summary, key) for key in _SHAPE})
    keys = [
        key
        for key in dict.fromkeys(key for values in found for key in values)
        if not key.startswith(_MAY_DIFFER) and len({text_of(values.get(key)) for values in found}) > 1
    ]
    if keys:
        rest = f" and {len(keys) - _MOST_NAMED} more" if len(keys) > _MOST_NAMED else ""
        verb = "differs" if len(keys) == 1 else "differ"
        yield f"{', '.join(keys[:_MOST_NAMED])}{rest} {verb} within group {group.name}."
