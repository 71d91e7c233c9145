"""When an exchange is due, and what a user is warned of because hardly any will be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import tiny_config
from wash_hpc.config import MethodConfig
from wash_hpc.ensemble.flat import Flat
from wash_hpc.methods.drawing import due_steps, is_due, make_drawer, warn_of_no_effect
from wash_hpc.models import build_model


def warning(num_steps: int, num_members: int, *overrides: str, nodes: tuple[int, ...] = ()) -> str:
    config = tiny_config("method.schedule=constant", *overrides)
    flat = Flat(build_model("mlp", (3, 8, 8), 4, 1))
    return warn_of_no_effect(config.method, make_drawer(config, flat, num_members, nodes), num_steps)


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


@pytest.mark.parametrize("overrides", [["method.p=0"], [], ["method.topology=ring"]])
def test_what_is_meant_is_not_warned_of(overrides):
    assert warning(8, 3, *overrides) == ""
    assert warning(8, 1, *overrides) == ""
    assert warning(8, 1, "method.start=8") == ""
