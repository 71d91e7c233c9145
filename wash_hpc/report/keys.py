"""Any value of a run by its name, and runs sorted and filtered by such values.

A key is one of `summary.json` (`soup_accuracy`, `scores.soup.nll`), of the configuration (`method.p`), or of what the
table derives from them (`gap`); `method` means all the methods of a run. Owns how a key is found and compared.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

from wash_hpc.errors import ConfigError
from wash_hpc.report.columns import DERIVED
from wash_hpc.report.runs import Run
from wash_hpc.storage.summary import summary_object

Scalar = str | float | None
Item = TypeVar("Item")

_MOST_KEYS = 2000  # of one configuration; ours has 100
_MOST_LEVELS = 20
_CONDITION = re.compile(r"([^=!<>]+)(!=|<=|>=|==|=|<|>)(.*)", re.DOTALL)
_OPERATORS: dict[str, Callable[[int], bool]] = {
    "<": lambda order: order < 0,
    ">": lambda order: order > 0,
    "<=": lambda order: order <= 0,
    ">=": lambda order: order >= 0,
}


class Absent:
    """Stands for a key that a run does not have."""


ABSENT = Absent()


def value_of(run: Run, key: str) -> Scalar | Absent:
    """A run's value for a key: a number, a text, or None where it is null; `ABSENT` where the run has no such key."""
    if key == "method":
        return run.methods
    if key in DERIVED:
        return DERIVED[key](run.summary)
    for sections in (summary_object(run.summary), run.sections):
        found = _find(sections, key)
        if found is not ABSENT:
            return _scalar(found)
    return ABSENT


def check_keys(runs: Sequence[Run], keys: Sequence[str]) -> None:
    """Refuse a key that none of the runs has.

    Raises:
        ConfigError: naming it, and those that are near.
    """
    for key in keys:
        if any(value_of(run, key) is not ABSENT for run in runs):
            continue
        known = {"method", *DERIVED}
        for run in runs:
            known |= {name for name, _ in flat(summary_object(run.summary))} | {name for name, _ in flat(run.sections)}
        near = difflib.get_close_matches(key, known, 5, 0.6)
        last = key.rpartition(".")[2]
        near += sorted(name for name in known if name.rpartition(".")[2] == last and name not in near)[:5]
        hint = f"; near it: {', '.join(near)}" if near else "; keys are those of summary.json and config.yaml"
        raise ConfigError(f"{key}: none of these runs has such a key{hint}")


def flat(sections: Mapping[Any, Any], prefix: str = "", level: int = 0) -> Iterator[tuple[str, Scalar]]:
    """Dotted keys and values; bounded, as others may have written the sections."""
    return islice(_flat(sections, prefix, level), _MOST_KEYS)


def sort_items(items: Sequence[Item], keys: Sequence[str], value: Callable[[Item, str], Any]) -> list[Item]:
    """Items in the order of some keys, the first one first; `-KEY` is descending. What has no value comes last.

    Args:
        items: runs, or groups of them.
        keys: as the user wrote them.
        value: of an item for a key.
    """
    ordered = list(items)
    for key in reversed(keys):
        name, descending = key.removeprefix("-"), key.startswith("-")
        values = [(value(item, name), item) for item in ordered]
        present = [(found, item) for found, item in values if _is_there(found)]
        present.sort(key=lambda pair: _rank(pair[0]), reverse=descending)
        ordered = [item for _, item in present] + [item for found, item in values if not _is_there(found)]
    return ordered


@dataclass(frozen=True)
class Condition:
    """One `--filter`: a key, an operator and the text of a value."""

    key: str
    operator: str
    text: str

    @classmethod
    def parse(cls, condition: str) -> Condition:
        """From `KEY=VALUE`, or with `!=`, `<`, `>`, `<=`, `>=`.

        Raises:
            ConfigError: it has not this form, or `<` and its like stand before a text.
        """
        found = _CONDITION.fullmatch(condition)
        if found is None:
            raise ConfigError(f"--filter {condition}: expected KEY=VALUE, or with != < > <= >=, as in 'method.p>=0.1'")
        key, operator, text = (part.strip() for part in found.groups())
        if operator in _OPERATORS and _number(text) is None:
            raise ConfigError(f"--filter {condition}: expected a number behind {operator}")
        return cls(key, "=" if operator == "==" else operator, text)

    def holds(self, value: Scalar | Absent) -> bool:
        """Whether a run with this value passes; one without the key, or with null, passes `!=` and `KEY=null` alone."""
        number, own = _number(self.text), _number(value)
        if self.operator in _OPERATORS:
            return own is not None and number is not None and _OPERATORS[self.operator]((own > number) - (own < number))
        is_equal = own == number if None not in (own, number) else text_of(value) == self.text
        return is_equal == (self.operator == "=")


def text_of(value: Scalar | Absent) -> str:
    """A value as a user would write it: whole numbers without a point, `null`, `true`."""
    if value is None or isinstance(value, Absent):
        return "null"
    return f"{value:.10g}" if isinstance(value, float | int) and not isinstance(value, bool) else str(value)


def _flat(sections: Mapping[Any, Any], prefix: str, level: int) -> Iterator[tuple[str, Scalar]]:
    for key, value in sections.items():
        if isinstance(value, Mapping) and value and level < _MOST_LEVELS:
            yield from _flat(value, f"{prefix}{key}.", level + 1)
        else:
            yield f"{prefix}{key}", _scalar(value)


def _find(sections: Any, key: str) -> Any:
    """What lies at a dotted key."""
    for part in key.split("."):
        if not isinstance(sections, Mapping) or part not in sections:
            return ABSENT
        sections = sections[part]
    return ABSENT if isinstance(sections, Mapping) and sections else sections


def _scalar(value: Any) -> Scalar:
    """Numbers as they are, words for all else."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None or isinstance(value, str | int | float):
        return value
    try:
        return str(value)[:200]
    except RecursionError:
        return "..."


def _number(value: Any) -> float | None:
    try:
        number = float(value) if isinstance(value, str | int | float) else math.nan
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _is_there(value: Any) -> bool:
    return value is not None and value is not ABSENT and not (isinstance(value, float) and math.isnan(value))


def _rank(value: Any) -> tuple[bool, float, str]:
    """Numbers before texts."""
    is_text = isinstance(value, str)
    return is_text, 0.0 if is_text else float(value), str(value) if is_text else ""
