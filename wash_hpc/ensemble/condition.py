"""What averaging costs by a quadratic, and conditions of one threshold for when it fails. Pure arithmetic on numbers.

A condition is fitted on some cases and judged on others: one that is right where it was fitted has shown nothing yet.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from wash_hpc.errors import MissingDependencyError


def rise_from_minima(curvature: float, distance: float) -> float:
    """By how much the soup's loss is above that of its members, if each of them lies at a minimum.

    At a minimum the gradient vanishes, and at w + x the loss is L(w) + x'Hx / 2 up to third order. A soup at distance d
    in a direction of curvature k is therefore higher by k d^2 / 2. Exact where each member is at the bottom of a
    quadratic bowl of its own that reaches as far as the soup, the bowls are equally bent and the members equally far.

    Args:
        curvature: the loss's second derivative at the members along unit vectors towards others.
        distance: the consensus distance, root mean square over members of the distance to the soup.
    """
    return 0.5 * curvature * distance**2 if distance > 0 else 0.0 * distance


def rise_in_one_quadratic(curvature: float, distance: float) -> float:
    """By how much the soup's loss is above that of the mean member, if one quadratic holds them all.

    With members w + x_m around the soup w, the x_m adding up to zero, the mean of L(w + x_m) = L + g'x_m + x_m'Hx_m / 2
    is above L(w) by the mean of x_m'Hx_m / 2, whatever the gradient g. As all x_m'Hx_m together are those of all lines
    between two members divided by M, and so are the squared lengths, equal curvature k along these lines makes that
    k d^2 / 2. So the soup is higher by -k d^2 / 2: lower in a bowl, higher only where the loss bends down.

    Args:
        curvature: the loss's second derivative along the lines between members, in their middle.
        distance: as in `rise_from_minima`.
    """
    return 0.0 - rise_from_minima(curvature, distance)


@dataclass(frozen=True)
class Case:
    """One look at some members.

    Attributes:
        name: of it.
        failed: whether averaging did.
        values: what could have said so, by name; NaN where there is no number.
    """

    name: str
    failed: bool
    values: dict[str, float]


@dataclass(frozen=True)
class Condition:
    """Averaging fails where a number is on one side of a threshold."""

    threshold: float
    fails_above: bool

    def says_failed(self, value: float) -> bool:
        """What it says of a number; a number at the threshold is below it."""
        return (value > self.threshold) == self.fails_above


@dataclass(frozen=True)
class Verdict:
    """How a condition did.

    Attributes:
        predictor: of which number it speaks.
        condition: None where the fitted cases give none, all of them having failed, or none, or one number being all.
        fit_right: fitted cases of which it says the right thing.
        num_fit: fitted cases.
        right: of the other cases.
        wrong: names of the other cases of which it says the wrong thing, or nothing, as they have no number.
    """

    predictor: str
    condition: Condition | None
    fit_right: int
    num_fit: int
    right: int
    wrong: list[str]


def judge(predictor: str, fitted: Sequence[Case], others: Sequence[Case]) -> Verdict:
    """Fit a condition on some cases and judge it on others."""
    condition = fit_condition([(case.values[predictor], case.failed) for case in fitted])
    if condition is None:
        return Verdict(predictor, None, 0, len(fitted), 0, [case.name for case in others])
    wrong = [case.name for case in others if not _is_right(condition, predictor, case)]
    fit_right = sum(_is_right(condition, predictor, case) for case in fitted)
    return Verdict(predictor, condition, fit_right, len(fitted), len(others) - len(wrong), wrong)


def judge_majority(fitted: Sequence[Case], others: Sequence[Case]) -> tuple[bool, int]:
    """What most of the fitted cases did, failing at a tie, and how many of the others did so, too: a yardstick."""
    failed = 2 * sum(case.failed for case in fitted) >= len(fitted)
    return failed, sum(case.failed == failed for case in others)


def fit_condition(cases: Iterable[tuple[float, bool]]) -> Condition | None:
    """The condition that is wrong of the fewest cases.

    Of equally good ones it is one that fails above its threshold rather than below, then the lowest. The threshold lies
    half way between two numbers: of positive ones, which may be decades apart, half way between their logarithms.

    Args:
        cases: a number and whether averaging failed; those whose number is not finite are left out.
    """
    known = sorted((value, failed) for value, failed in cases if math.isfinite(value))
    if len({failed for _, failed in known}) < 2:
        return None
    values = sorted({value for value, _ in known})
    candidates = [Condition(_half_way(low, high), above) for above in (True, False) for low, high in pairwise(values)]
    return min(
        candidates,
        key=lambda condition: sum(condition.says_failed(value) != failed for value, failed in known),
        default=None,
    )


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """The rank correlation of those pairs of which both numbers are finite; NaN for fewer than three, or equal ones.

    Raises:
        MissingDependencyError: scipy is not installed.
    """
    stats = _import_scipy_stats()
    pairs = [pair for pair in zip(first, second, strict=True) if all(map(math.isfinite, pair))]
    if len(pairs) < 3 or any(len(set(numbers)) == 1 for numbers in zip(*pairs, strict=True)):
        return math.nan
    return float(stats.spearmanr(*zip(*pairs, strict=True)).statistic)


def _is_right(condition: Condition, predictor: str, case: Case) -> bool:
    value = case.values[predictor]
    return math.isfinite(value) and condition.says_failed(value) == case.failed


def _half_way(low: float, high: float) -> float:
    middle = math.sqrt(low) * math.sqrt(high) if low > 0 else (low + high) / 2
    return middle if low <= middle < high else low  # what rounding leaves of neighbours


def _import_scipy_stats() -> Any:
    try:
        from scipy import stats
    except ModuleNotFoundError as error:
        raise MissingDependencyError("scipy", "pip install 'wash_hpc[landscape]'") from error
    return stats
