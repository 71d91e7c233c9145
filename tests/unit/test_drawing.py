"""When an exchange is due, and what a user is warned of because hardly any will be."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import tiny_config
from wash_hpc.config import MethodConfig
from wash_hpc.ensemble.flat import Flat
from wash_hpc.method_kinds import SHUFFLES
from wash_hpc.methods.drawing import (
    describe_chosen_p,
    make_drawer,
    mean_p_factor,
    p_factor,
    why_hardly_any,
    with_chosen_p,
)
from wash_hpc.methods.due import counted_in_steps, due_steps, is_due, why_never_due
from wash_hpc.models import build_model
from wash_hpc.optimizer import learning_rate
from wash_hpc.shuffle.draw import Drawer


def warning(num_steps: int, num_members: int, *overrides: str, nodes: tuple[int, ...] = ()) -> str:
    config = tiny_config("method.schedule=constant", *overrides)
    flat = Flat(build_model("mlp", (3, 8, 8), 4, 1))
    drawer = make_drawer(config, flat, num_members, nodes)
    return why_never_due(config.method, num_steps, 4) or why_hardly_any(config, drawer, num_steps)


@given(st.integers(1, 9), st.integers(0, 40), st.one_of(st.none(), st.integers(0, 40)), st.integers(0, 60))
def test_due_steps_are_those_that_are_due(every, start, more, num_steps):
    method = MethodConfig(every=every, start=start, stop=None if more is None else start + more)
    assert list(due_steps(method, num_steps)) == [step for step in range(1, num_steps + 1) if is_due(method, step)]


def test_a_p_that_picks_nothing_is_warned_of_with_the_expected_number():
    size = Flat(build_model("mlp", (3, 8, 8), 4, 1)).values.numel()
    said = warning(100, 3, "method.p=1e-7", "method.every=10")
    assert said.startswith("method.p=1e-07: ")
    assert f"{size * 10 * 1e-7:.2g} values are expected to be picked in the whole run, 10 exchanges" in said


@pytest.mark.parametrize(
    "overrides", [["method.start=8"], ["method.every=9"], ["method.start=2", "method.stop=2"], ["method.stop=0"]]
)
def test_a_run_without_an_exchange_is_warned_of_with_its_keys(overrides):
    said = warning(8, 3, *overrides)
    assert "no exchange is due in the 8 steps" in said
    assert all(override.removeprefix("method.") in said for override in overrides)


def test_members_that_never_meet_are_warned_of():
    node = ["method.topology=node", "method.node_ratio=10"]
    assert "no two members meet in the 9 exchanges" in warning(9, 3, *node, nodes=(0, 1, 2))
    assert warning(10, 3, *node, nodes=(0, 1, 2)) == ""
    assert warning(9, 3, *node, nodes=(0, 0, 2)) == ""


@pytest.mark.parametrize("overrides", [[], ["method.topology=ring"]])
def test_a_run_that_shuffles_is_not_warned_of(overrides):
    assert warning(8, 3, *overrides) == ""


def factors(kind: str, *overrides: str, num_steps: int = 100) -> list[float]:
    config = tiny_config(f"method.p_schedule={kind}", "optimizer.schedule=cosine", "optimizer.lr=0.5", *overrides)
    return [p_factor(config, step, num_steps) for step in range(1, num_steps + 1)]


def test_p_is_constant_or_goes_to_zero_with_the_run():
    assert set(factors("constant")) == {1.0}
    for kind, half in (("linear", 0.5), ("cosine", 0.5)):
        over_the_run = factors(kind)
        assert over_the_run[49] == pytest.approx(half)
        assert over_the_run[99] == pytest.approx(0, abs=1e-12)
        assert all(a > b for a, b in pairwise(over_the_run))


def test_p_follows_the_learning_rate_of_the_update_before_it_warm_up_and_all():
    config = tiny_config("optimizer.lr=0.5", "optimizer.warmup_steps=10").optimizer
    expected = [learning_rate(config, step, 100) / 0.5 for step in range(100)]
    assert factors("lr", "optimizer.warmup_steps=10") == pytest.approx(expected)
    assert set(factors("lr", "optimizer.lr=0", "optimizer.min_lr=0")) == {0.0}


@given(st.sampled_from(["lr", "cosine", "linear"]), st.integers(1, 8), st.integers(0, 30))
def test_the_mean_factor_is_that_of_the_steps_that_are_due(kind, every, start):
    config = tiny_config(f"method.p_schedule={kind}", f"method.every={every}", f"method.start={start}")
    due = [p_factor(config, step, 40) for step in range(1, 41) if is_due(config.method, step)]
    assert mean_p_factor(config, 40) == pytest.approx(sum(due) / len(due))


@given(st.sampled_from(["constant", "lr", "cosine"]), st.integers(1, 4), st.integers(0, 300), st.integers(1, 2000))
def test_p_auto_shuffles_a_parameter_of_the_first_layer_as_often_in_a_run_of_any_length(kind, every, start, num_steps):
    overrides = ["method.p=auto", f"method.p_schedule={kind}", f"method.every={every}", f"method.start={start}"]
    config = tiny_config(*overrides)
    chosen = with_chosen_p(config, num_steps).method
    assert (config.method.p, replace(config.method, p=chosen.p)) == (None, chosen)
    due = [step for step in range(1, num_steps + 1) if is_due(chosen, step)]
    shuffles = chosen.known_p * sum(p_factor(config, step, num_steps) for step in due)
    assert 0 < chosen.known_p <= 1
    if chosen.known_p < 1:
        assert shuffles == pytest.approx(SHUFFLES[0], rel=1e-3)
    else:
        assert shuffles <= SHUFFLES[0] * 1.001


def test_a_p_that_is_given_stays_as_it_is():
    config = tiny_config("method.p=0.25")
    assert with_chosen_p(config, 10) is config


@pytest.mark.parametrize(
    ("overrides", "num_steps", "expected"),
    [
        ([], 1000, "method.p=auto: 0.1, by which a parameter of the first layer is shuffled 100 times"),
        (["method.every=2"], 1000, "method.p=auto: 0.2, by which a parameter of the first layer is shuffled 100 times"),
        (
            [],
            40,
            "method.p=auto: 1, by which a parameter of the first layer is shuffled 40 times; no p gives more in so few "
            "exchanges",
        ),
        (
            ["method.p_schedule=linear"],
            1001,
            "method.p=auto: 0.2 at its largest, by which a parameter of the first layer is shuffled 100 times",
        ),
    ],
)
def test_what_auto_came_to_is_said(overrides, num_steps, expected):
    config = with_chosen_p(tiny_config("method.p=auto", *overrides), num_steps)
    assert describe_chosen_p(config, num_steps) == expected


@given(st.one_of(st.just(0.0), st.floats(1e-9, 1)), st.integers(1, 50))
def test_a_scaled_drawer_draws_as_one_of_that_p(factor, step):
    scaled = Drawer(3, 4, [300, 50], np.array([0.4, 1.0])).scaled(factor)
    fresh = Drawer(3, 4, [300, 50], np.array([0.4, 1.0]) * factor)
    assert scaled.draw(step).digest == fresh.draw(step).digest


def test_a_method_that_counts_epochs_acts_at_their_ends_and_never_at_the_end_of_the_run():
    method = MethodConfig(name="papa_all", every=2)
    assert list(due_steps(counted_in_steps(method, 60, 10), 60)) == [20, 40]
    assert list(due_steps(counted_in_steps(method, 61, 10), 61)) == [20, 40, 60]
    assert list(due_steps(counted_in_steps(replace(method, start=20, stop=45), 60, 10), 60)) == [40]
    assert list(due_steps(counted_in_steps(method, 5, 10), 5)) == []
    assert counted_in_steps(replace(method, name="papa"), 60, 10).every == 2
