"""Alarms: what in a run's records says that something is wrong, in words.

Pure: records, summary and configuration in, sentences out. Which numbers are an alarm stands here, each with its
reason; where and when they are shown does not, nor what to try, which is `advice`'s.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from wash_hpc.rates import FEWEST_STEPS, MOST_WAITING, PARTS, waiting_advice
from wash_hpc.report.advice import ALL_EQUAL, closer, further, healthier, number, rarer, section
from wash_hpc.storage.metrics import Metrics
from wash_hpc.storage.summary import Summary

Kind = Literal["apart", "collapsed", "exchange", "data", "member", "gap"]

MOST_EXCHANGING = 0.05  # of a step: the method's promise is that exchanges are next to nothing
MOST_GAP = 0.01  # by which a soup may stay under its ensemble: one point, beyond what seeds differ by
MOST_GAP_NLL = 0.05  # the same of a text, in nats: 5 % of the perplexity; accuracy on bytes is blind to most changes
NUM_EVALUATIONS = 3  # in a row, the first of a run not among them: one alone is noise, and members begin far apart
LEAST_GROWTH = 1.02  # of the distance over those evaluations; at the end of a decay it stands still to a few per mille
COLLAPSED = 0.01  # of the largest distance of the run: what is left after a hundredfold fall
NO_DISTANCE = 1e-3  # whole vector: networks have norms of ten and more, members that are trained apart differ by ones
SAME_ANSWERS = 0.001  # disagreement: one prediction in a thousand; healthy members differ on some in a hundred
FAR_BELOW = 0.10  # ten points of training accuracy: members with one recipe differ by one or two; noise of the least
NUM_RECENT = 5  # records that are averaged for it is about two points


@dataclass(frozen=True)
class Alarm:
    """One thing that is wrong with a run.

    Attributes:
        kind: `apart` members drift apart; `collapsed` into one; `exchange`, `data` take much of a step; `member` is not
            healthy; `gap`, the soup has ended below its ensemble.
        what: is seen, a sentence without its stop.
        advice: what to try, a sentence without its stop.
    """

    kind: Kind
    what: str
    advice: str

    def __str__(self) -> str:
        return f"{self.what}. {self.advice}."


def alarms(metrics: Metrics, summary: Summary | None, config: Mapping[str, Any]) -> list[Alarm]:
    """What is wrong with a run; empty where nothing is, or too little has been written to say so.

    Args:
        metrics: its records, all or the last ones. The first record of a start counts for no share of a step: the
            loader starts and kernels are chosen in it.
        summary: of a finished run; None while it goes on.
        config: its configuration as plain sections (`config_text.plain_sections`); what is not in it is not known.
    """
    with np.errstate(all="ignore"):  # records may hold anything
        return [
            *_unhealthy(metrics, summary, config),
            *_apart(metrics, summary, config),
            *_collapsed(metrics, config),
            *_slow(metrics, config),
        ]


def _unhealthy(metrics: Metrics, summary: Summary | None, config: Mapping[str, Any]) -> Iterator[Alarm]:
    """Members whose values are not finite, or that are far below the others."""
    sick = set() if summary is None else set(summary.left_out_members)
    if len(metrics.step):
        sick |= set(np.flatnonzero(~np.isfinite(metrics.loss[-1])).tolist())
    if sick:
        yield Alarm("member", f"{_members(sick)} not finite", healthier(config))
    low = [member for member in _far_below(metrics, config) if member not in sick]
    if low:
        points = f"more than {FAR_BELOW * 100:.0f} points below the median of the members"
        advice = f"Look at the rank of {_named(low)}: its host, its images (docs/clusters.md), its log"
        yield Alarm("member", f"{_named(low)} is {points} in training accuracy", advice)


def _far_below(metrics: Metrics, config: Mapping[str, Any]) -> list[int]:
    """Members whose mean training accuracy over the last tenth of the records is far below the median of all.

    Training accuracy, because a member is judged on test images with statistics that a shuffle has left behind, and is
    then low in mid-run without being ill. Members that drew other regularisations differ in it by design.
    """
    train = section(config, "train")
    drawn = any(isinstance(value, list) and len(value) > 1 for value in train.values())
    if metrics.num_members < 3 or len(metrics.step) < 2 * NUM_RECENT or drawn:
        return []
    recent = metrics.accuracy[-max(NUM_RECENT, len(metrics.step) // 10) :].mean(axis=0)
    if not np.isfinite(recent).any():
        return []
    low: list[int] = np.flatnonzero(recent < np.nanmedian(recent) - FAR_BELOW).tolist()
    return low


def _apart(metrics: Metrics, summary: Summary | None, config: Mapping[str, Any]) -> Iterator[Alarm]:
    """A soup that stays under its ensemble, while the members part or at the end; by design of independent members."""
    method = section(config, "method")
    name = method.get("name", None if summary is None else summary.method)
    if name in {"independent", "data_parallel"}:
        return
    under = _under(metrics, config)[1:][-NUM_EVALUATIONS:]  # without the first, at which members begin far apart
    distances = _distances(metrics)[-len(under) :] if len(under) else np.zeros(0)
    is_apart = len(under) == NUM_EVALUATIONS and (under > 1).all() and distances[-1] > LEAST_GROWTH * distances[0]
    steps = number(section(config, "train"), "steps") or (None if summary is None else summary.steps)
    steps = number(metrics.attributes, "num_steps") or steps
    if is_apart:
        what = (
            f"members drift apart: over the last {NUM_EVALUATIONS} evaluations their distance has grown from "
            f"{distances[0]:.3g} to {distances[-1]:.3g}, and the soup is {_gap(metrics, config)} its ensemble"
        )
        yield Alarm("apart", what, closer(config, str(name), steps))
    elif summary is not None and (ended := _final_gap(summary)):
        yield Alarm("gap", f"the soup has ended {ended} its ensemble", closer(config, str(name), steps))


def _under(metrics: Metrics, config: Mapping[str, Any]) -> NDArray[Any]:
    """[E] by how much the soup is under its ensemble at each evaluation; 1 is what is still well."""
    if section(config, "data").get("name") == "text":
        return np.asarray((metrics.soup_nll - metrics.ensemble_nll) / MOST_GAP_NLL)
    return np.asarray((metrics.ensemble_accuracy - metrics.soup_accuracy) / MOST_GAP)


def _gap(metrics: Metrics, config: Mapping[str, Any]) -> str:
    if section(config, "data").get("name") == "text":
        return f"{float(metrics.soup_nll[-1] - metrics.ensemble_nll[-1]):.2f} nats worse than"
    return f"{100 * float(metrics.ensemble_accuracy[-1] - metrics.soup_accuracy[-1]):.1f} points under"


def _final_gap(summary: Summary) -> str:
    """In words, how far a soup has ended under its ensemble; empty where it is well."""
    if summary.metric == "accuracy":
        soup, ensemble, most = summary.soup_accuracy, summary.ensemble_accuracy, MOST_GAP
    else:
        ensemble, soup, most = summary.score("soup", "nll"), summary.score("ensemble", "nll"), MOST_GAP_NLL
    if soup is None or ensemble is None or not ensemble - soup > most:
        return ""
    by = ensemble - soup
    return f"{100 * by:.1f} points under" if summary.metric == "accuracy" else f"{by:.2f} nats worse than"


def _collapsed(metrics: Metrics, config: Mapping[str, Any]) -> Iterator[Alarm]:
    """Members that are one: nothing is left to ensemble."""
    method = section(config, "method")
    if method.get("name") in ALL_EQUAL or metrics.num_members < 2:
        return
    distances, answers = _distances(metrics)[-NUM_EVALUATIONS:], metrics.disagreement[-NUM_EVALUATIONS:]
    if len(distances) < NUM_EVALUATIONS:
        return
    largest = np.nanmax(metrics.consensus_distance, initial=0.0)
    if not ((distances < max(COLLAPSED * largest, NO_DISTANCE)).all() and (answers <= SAME_ANSWERS).all()):
        return
    what = (
        f"members have collapsed into one: distance {distances[-1]:.2g}, disagreement {answers[-1]:.2%} at the last "
        f"{NUM_EVALUATIONS} evaluations"
    )
    yield Alarm("collapsed", what, further(method))


def _distances(metrics: Metrics) -> NDArray[Any]:
    """[E] the consensus distance that was computed last before, or at, each evaluation; NaN before the first."""
    computed = np.isfinite(metrics.consensus_distance)
    steps, distances = metrics.step[computed], metrics.consensus_distance[computed]
    found = np.searchsorted(steps, metrics.evaluate_step, side="right") - 1
    return np.asarray([distances[row] if row >= 0 else np.nan for row in found])


def _slow(metrics: Metrics, config: Mapping[str, Any]) -> Iterator[Alarm]:
    """Parts of a step that take more of it than they should."""
    shares = step_shares(metrics)
    if shares is None:
        return
    if shares["exchange"] > MOST_EXCHANGING:
        what = f"exchanges take {shares['exchange']:.0%} of a step"
        yield Alarm("exchange", what, rarer(config))
    if shares["data"] > MOST_WAITING:
        data = section(config, "data")
        advice = waiting_advice(str(data.get("name")), data.get("workers"))
        yield Alarm("data", f"{shares['data']:.0%} of the time is spent waiting for batches", _sentence(advice))


def step_shares(metrics: Metrics) -> dict[str, float] | None:
    """Shares of a step's time by part (data, compute, reduce, exchange), mean over members and records.

    Each start's first record is left out.

    Returns:
        None where fewer than 20 steps are left, or no time is known.
    """
    begins = np.searchsorted(metrics.step, metrics.starts, side="right")
    counted = np.setdiff1d(np.arange(1, len(metrics.step)), begins)
    num_steps: NDArray[Any] = np.diff(metrics.step, prepend=0)[counted]
    seconds = {part: np.nan_to_num(getattr(metrics, f"{part}_seconds")[counted]).mean(axis=1) for part in PARTS}
    sums = {part: float(values @ num_steps) for part, values in seconds.items()}
    whole = sum(sums.values())
    if num_steps.sum() < FEWEST_STEPS or not 0 < whole < np.inf:
        return None
    return {part: value / whole for part, value in sums.items()}


def _named(members: Collection[int]) -> str:
    return f"member {', '.join(map(str, sorted(members)))}"


def _members(members: Collection[int]) -> str:
    """Whose loss or weights: `the loss or weights of member 1, 3 are`."""
    return f"loss or weights of {_named(members)} are"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
