"""Alarms: each is raised by what it is about, says numbers and keys that can be tried, and is quiet on healthy runs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from wash_hpc.report.alarms import Alarm, alarms, step_shares
from wash_hpc.storage.metrics import Metrics
from wash_hpc.storage.summary import Summary

T, M, NAN = 40, 4, float("nan")
CONFIG: dict[str, Any] = {
    "data": {"name": "image_folder", "workers": 3},
    "optimizer": {"lr": 0.3},
    "method": {"name": "wash", "p": 0.01, "every": 1, "start": 0, "stop": None},
}
SUMMARY = Summary(
    "run",
    "wash",
    M,
    1,
    0,
    400,
    1.0,
    900,
    100,
    0.97,
    0.98,
    0.97,
    0.97,
    0.97,
    None,
    3.2,
    10,
    18.0,
    9.0,
    disagreement=0.02,
)


def metrics(**changes: Any) -> Metrics:
    """A healthy run of 400 steps in 40 records, evaluated five times."""
    seconds = [np.full((T, M), value) for value in (0.01, 0.97, 0.0, 0.02)]
    ones, counts, judged = np.ones((T, M)), np.ones((T, M), np.int64), np.full(5, 0.97)
    made = Metrics(
        np.arange(10, 401, 10), np.ones(T), np.ones(T), ones, 0.9 * ones, ones, *seconds, counts, counts, counts,
        np.full(T, 20.0), np.ones((T, 1)), np.arange(80, 401, 80), np.full((5, M), 0.97), judged, judged,
        np.full((5, M), 0.1), np.full(5, 0.1), np.full(5, 0.1), np.full(5, 0.02), ("fc",), {"num_steps": 400},
    )  # fmt: skip
    return replace(made, **changes)


def found(made: Metrics, summary: Summary | None = None, **method: Any) -> list[Alarm]:
    return alarms(made, summary, {**CONFIG, "method": {**CONFIG["method"], **method}})


def the_one(made: list[Alarm], kind: str) -> Alarm:
    assert [alarm.kind for alarm in made] == [kind]
    return made[0]


def test_a_healthy_run_and_one_of_few_records_say_nothing() -> None:
    assert found(metrics(), SUMMARY) == []
    empty = {name: getattr(metrics(), name)[:0] for name in Metrics.__dataclass_fields__ if
             name not in {"layer_names", "attributes", "starts"}}  # fmt: skip
    assert found(metrics(**empty)) == []
    assert alarms(metrics(), None, {}) == []


APART: dict[str, Any] = {
    "consensus_distance": np.linspace(1, 40, T),
    "soup_accuracy": np.array([0.5, 0.6, 0.6, 0.5, 0.4]),
}


def test_members_that_drift_apart_are_said_with_a_p_that_shuffles_often_enough() -> None:
    assert found(metrics(**APART), p=0.3)[0].advice.endswith("here 120")
    alarm = the_one(found(metrics(**APART)), "apart")
    assert "distance has grown from 24 to 40, and the soup is 57.0 points under its ensemble" in alarm.what
    assert alarm.advice.startswith("Try method.p=0.38 (now 0.01): what counts is shuffles of a position over the run")
    assert alarm.advice.endswith("100 to 200; here 4")
    assert str(alarm) == f"{alarm.what}. {alarm.advice}."


@pytest.mark.parametrize(
    "changes",
    [
        {"consensus_distance": np.full(T, 20.0)},  # apart, but no longer parting
        {"consensus_distance": np.full(T, NAN)},
        {"soup_accuracy": np.array([0.5, 0.6, 0.97, 0.97, 0.97])},  # at first only
        {"soup_accuracy": np.array([0.97, 0.97, 0.97, 0.5, 0.97])},  # once
        {"soup_accuracy": np.full(5, NAN)},
        {"evaluate_step": np.arange(80, 401, 80)[:3], "ensemble_accuracy": np.full(3, 0.97),
         "soup_accuracy": np.full(3, 0.5), "disagreement": np.full(3, 0.02)},  # too few
    ],
)  # fmt: skip
def test_a_distance_that_stands_still_or_a_soup_that_is_low_but_once_is_no_drift(changes: dict[str, Any]) -> None:
    assert found(metrics(**{**APART, **changes})) == []


@pytest.mark.parametrize("name", ["independent", "data_parallel"])
def test_independent_members_are_apart_by_design(name: str) -> None:
    assert found(metrics(**APART), replace(SUMMARY, soup_accuracy=0.1), name=name) == []


@pytest.mark.parametrize(
    ("method", "advice"),
    [
        ({"p": 0.3}, "Try method.p=0.5 (now 0.3)"),  # 120 shuffles: more of them
        ({"p": 0.3, "every": 2}, "Try method.p=0.75 (now 0.3)"),  # 60
        ({"p": 0.8, "every": 3}, "Try method.p=1 (now 0.8)"),  # 107, and no p makes it 200
        ({"p": 1, "every": 3}, "Try more than 600 steps"),
        ({"p": 1, "every": 8}, "Try more than 800 steps"),  # 50
        ({"p": 0.01, "stop": 20}, "Try method.stop=null (now 20) with method.p=0.38: "),
        ({"p": 0.01, "start": 390}, "Try method.start=0 (now 390) with method.p=0.38: "),
        ({"p": 0.01, "every": 5, "stop": 20}, "Try more than 500 steps"),
        ({"p": 0.9}, "Try ensemble.same_init=true, a lower optimizer.lr, or method.p_schedule=lr"),  # enough of them
        ({"p": 0.9, "p_schedule": "cosine"}, "Try method.p=1 (now 0.9): "),  # 180, as its mean is a half
        ({"p": 0.2, "p_schedule": "linear"}, "Try method.p=0.75 (now 0.2): "),  # 40
        ({"p": 0.2, "p_schedule": "lr"}, "Try method.p=0.75 (now 0.2): "),
        ({"p": 1, "p_schedule": "linear", "every": 4}, "Try more than 800 steps"),  # 50
        ({"name": "papa", "alpha": 0.99, "every": 10}, "Try method.alpha=0.9 (now 0.99)"),
        ({"name": "papa", "alpha": 0.6, "every": 10}, "Try method.alpha=0.5 (now 0.6)"),
        ({"name": "papa", "alpha": 0.3, "every": 0}, "Try method.every=5 (now 10), or ensemble.same_init=true"),
        ({"name": "papa", "alpha": 0.0, "every": 1}, "Try ensemble.same_init=true"),
        ({"name": "diloco", "every": 100}, "Try method.every=50 (now 100)"),
        ({"name": "mine"}, "Try ensemble.same_init=true"),
        ({"p": "large"}, "Try a larger method.p"),
    ],
)
def test_a_soup_that_ends_below_its_ensemble_is_said_with_what_the_method_can_do(
    method: dict[str, Any], advice: str
) -> None:
    alarm = the_one(found(metrics(), replace(SUMMARY, soup_accuracy=0.95), **method), "gap")
    assert alarm.what == "the soup has ended 2.0 points under its ensemble"
    assert alarm.advice.startswith(advice)


def test_a_point_below_is_still_well_and_of_texts_five_percent_of_the_perplexity() -> None:
    assert found(metrics(), replace(SUMMARY, soup_accuracy=0.9601)) == []
    text = replace(SUMMARY, metric="perplexity", scores={"soup": {"nll": 1.04}, "ensemble": {"nll": 1.0}})
    assert found(metrics(), text) == []
    worse = replace(text, scores={"soup": {"nll": 1.06}, "ensemble": {"nll": 1.0}})
    assert the_one(found(metrics(), worse), "gap").what == "the soup has ended 0.06 nats worse than its ensemble"


COLLAPSED: dict[str, Any] = {
    "consensus_distance": np.r_[np.full(10, 20.0), np.full(T - 10, 0.1)],
    "disagreement": np.array([0.02, 0.0005, 0.0, 0.0, 0.0]),
}


def test_members_that_are_one_are_said() -> None:
    alarm = the_one(found(metrics(**COLLAPSED)), "collapsed")
    assert "distance 0.1, disagreement 0.00%" in alarm.what
    assert alarm.advice.startswith("Try method.p=0.001 (now 0.01)")
    never_apart = {**COLLAPSED, "consensus_distance": np.full(T, 1e-6)}
    assert "method.alpha=0.99" in the_one(found(metrics(**never_apart), name="papa", alpha=0.0), "collapsed").advice


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"disagreement": np.full(5, NAN)}, "wash"),  # a file of an early version
        ({"disagreement": np.full(5, 0.01)}, "wash"),
        ({"consensus_distance": np.full(T, 20.0)}, "wash"),
        ({}, "papa_all"),  # equal by design before an evaluation
    ],
)
def test_members_that_differ_or_are_equal_by_design_have_not_collapsed(changes: dict[str, Any], name: str) -> None:
    assert found(metrics(**{**COLLAPSED, **changes}), name=name) == []


def test_parts_of_a_step_that_take_much_of_it_are_said_but_not_those_of_the_first_record() -> None:
    slow = np.full((T, M), 0.02)
    slow[0] = 100.0
    assert found(metrics(exchange_seconds=slow, data_seconds=slow)) == []
    slow[:] = 0.3
    exchange, data = found(metrics(exchange_seconds=slow, data_seconds=slow))
    assert (exchange.kind, exchange.what) == ("exchange", "exchanges take 19% of a step")
    assert exchange.advice.startswith("Try method.overlap=true, or method.every=2 with method.p=0.02")
    assert (data.kind, data.what) == ("data", "19% of the time is spent waiting for batches")
    assert data.advice.startswith("Try more data.workers (now 3;")


@pytest.mark.parametrize(
    ("method", "optimizer", "advice"),
    [
        ({}, "sgd", "Try method.overlap=true, or method.every=2 with method.p=0.02 (as many bytes, half the messages)"),
        ({"then": [{"name": "papa"}]}, "sgd", "Try method.every=2 with"),
        ({"optimizer_state": True}, "sgd", "Try method.overlap=true"),
        ({"optimizer_state": True}, "adamw", "Try method.every=2 with"),
        ({"name": "sparta"}, "sgd", "Try method.every=2 with"),
        ({"p": 0.8}, "sgd", "Try method.overlap=true, or method.every=2 with method.p=1 (fewer bytes, half the mess"),
        ({"name": "papa", "every": 0}, "sgd", "Try method.every=20 (now 10)"),
    ],
)
def test_rarer_exchanges_are_advised_by_what_the_configuration_accepts(
    method: dict[str, Any], optimizer: str, advice: str
) -> None:
    config = {"optimizer": {"name": optimizer}, "method": {**CONFIG["method"], **method}}
    alarm = the_one(alarms(metrics(exchange_seconds=np.full((T, M), 0.3)), None, config), "exchange")
    assert alarm.advice.startswith(advice)


@pytest.mark.parametrize(
    ("method", "goes_on"),
    [
        ({}, True),
        ({"topology": "ring"}, False),
        ({"then": [{"name": "papa"}]}, False),
        ({"quarantine": True}, False),  # it does already
        ({"name": "papa"}, False),
    ],
)
def test_going_on_without_a_sick_member_is_advised_where_the_method_can(method: dict[str, Any], goes_on: bool) -> None:
    alarm = the_one(found(metrics(), replace(SUMMARY, left_out_members=[1]), **method), "member")
    assert ("method.quarantine=true lets WASH go on without it" in alarm.advice) == goes_on


def test_starts_in_mid_run_count_for_no_share_either() -> None:
    slow = np.full((T, M), 0.02)
    slow[[10, 20]] = 100.0  # the records after steps 100 and 200
    assert found(metrics(data_seconds=slow, starts=(0, 100, 200))) == []
    shares = step_shares(metrics(starts=(0, 100, 200)))
    assert shares is not None
    assert sum(shares.values()) == pytest.approx(1)
    assert step_shares(metrics(step=np.full(T, 10))) is None  # no steps between them


def test_members_whose_loss_is_not_finite_or_that_were_left_out_are_said() -> None:
    loss = np.ones((T, M))
    loss[-1, 2] = NAN
    alarm = the_one(found(metrics(loss=loss)), "member")
    assert alarm.what == "loss or weights of member 2 are not finite"
    assert alarm.advice.startswith("Try optimizer.lr=0.1 (now 0.3)")
    assert "member 1, 3 are" in the_one(found(metrics(), replace(SUMMARY, left_out_members=[1, 3])), "member").what


def test_a_member_far_below_the_others_in_training_is_said_but_not_one_that_drew_another_recipe() -> None:
    accuracy = np.full((T, M), 0.9)
    accuracy[-5:, 1] = 0.75
    alarm = the_one(found(metrics(accuracy=accuracy)), "member")
    assert alarm.what.startswith("member 1 is more than 10 points below the median")
    assert alarms(metrics(accuracy=accuracy), None, {**CONFIG, "train": {"mixup": [0.0, 0.5]}}) == []
    accuracy[-5:, 1] = 0.85
    assert found(metrics(accuracy=accuracy)) == []


@pytest.mark.parametrize("value", [NAN, float("inf"), -1e308])
def test_records_of_anything_are_no_error(value: float) -> None:
    with np.errstate(all="raise"):
        made = metrics()
        floats = {
            name: np.full(getattr(made, name).shape, value)
            for name in Metrics.__dataclass_fields__
            if getattr(getattr(made, name), "dtype", None) == np.float64
        }
        alarms(metrics(**floats), SUMMARY, {"method": None, "data": [], "optimizer": {"lr": True}, "train": 3})
