"""Alarms: what in a run's records says that something is wrong, in words, and what to try.

Pure: records, summary and configuration in, sentences out. Which numbers are an alarm stands here, each with its
reason; where and when they are shown does not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from wash_hpc.rates import FEWEST_STEPS, MOST_WAITING, waiting_advice
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
SHUFFLES = (100, 200)  # of a position over a run, p x steps: what has made soups as good as ensembles
_AIM = 150
_ALL_EQUAL = {"papa_all", "local_sgd", "diloco", "data_parallel"}  # whose members are equal by design now and then


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
        metrics: its records, all or the last ones. The first record counts for no share of a step: the loader starts
            and kernels are chosen in it.
        summary: of a finished run; None while it goes on.
        config: its configuration as plain sections (`config_text.plain_sections`); what is not in it is not known.
    """
    return [
        *_unhealthy(metrics, summary, config),
        *_apart(metrics, summary, config),
        *_collapsed(metrics, config),
        *_slow(metrics, config),
    ]


def _unhealthy(metrics: Metrics, summary: Summary | None, config: Mapping[str, Any]) -> Iterator[Alarm]:
    """Members whose values are not finite, or that are far below the others."""
    yield from ()


def _apart(metrics: Metrics, summary: Summary | None, config: Mapping[str, Any]) -> Iterator[Alarm]:
    yield from ()


def _collapsed(metrics: Metrics, config: Mapping[str, Any]) -> Iterator[Alarm]:
    yield from ()


def _slow(metrics: Metrics, config: Mapping[str, Any]) -> Iterator[Alarm]:
    """Parts of a step that take more of it than they should."""
    shares = step_shares(metrics)
    if shares is None:
        return
    if shares["exchange"] > MOST_EXCHANGING:
        yield Alarm("exchange", f"exchanges take {shares['exchange']:.0%} of a step", "Try method.overlap=true")
    if shares["data"] > MOST_WAITING:
        data = _section(config, "data")
        advice = waiting_advice(str(data.get("name")), data.get("workers"))
        yield Alarm("data", f"{shares['data']:.0%} of the time is spent waiting for batches", _sentence(advice))


def step_shares(metrics: Metrics) -> dict[str, float] | None:
    """Shares of a step's time by part (data, compute, reduce, exchange), mean over members and records.

    A start's first record is left out.

    Returns:
        None where fewer than 20 steps are left, or no time is known.
    """
    parts = ("data", "compute", "reduce", "exchange")
    begins = np.searchsorted(metrics.step, int(metrics.attributes.get("first_step", 0)), side="right")
    counted = np.setdiff1d(np.arange(1, len(metrics.step)), [begins])
    num_steps: NDArray[Any] = np.diff(metrics.step, prepend=0)[counted]
    seconds = {part: np.nan_to_num(getattr(metrics, f"{part}_seconds")[counted]).mean(axis=1) for part in parts}
    sums = {part: float(values @ num_steps) for part, values in seconds.items()}
    whole = sum(sums.values())
    if num_steps.sum() < FEWEST_STEPS or not 0 < whole < np.inf:
        return None
    return {part: value / whole for part, value in sums.items()}


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A section of a configuration that anybody may have written; empty where it is none."""
    section = config.get(name)
    return section if isinstance(section, Mapping) else {}
