"""Averages of a member over its steps: against the slow formulas, over a restart, and refused where they cannot be."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from wash_hpc.config import AverageConfig, load_config
from wash_hpc.ensemble.averages import Averages, snapshot_steps
from wash_hpc.errors import ConfigError, RunFolderError


def path_of_weights(num_steps: int) -> list[Tensor]:
    """The weights after steps 1, 2 ..."""
    return list(torch.randn(num_steps, 5, generator=torch.Generator().manual_seed(num_steps)).cumsum(dim=0))


def follow(averages: Averages, values: Tensor, weights: list[Tensor], first_step: int = 0) -> Averages:
    for step in range(first_step, len(weights)):
        values.copy_(weights[step])
        averages.after_step(step + 1)
    return averages


@given(st.floats(0.01, 0.99), st.integers(1, 40))
def test_the_exponential_average_is_the_weighted_sum_of_all_weights(decay, num_steps):
    weights, values = path_of_weights(num_steps), torch.zeros(5)
    found = follow(Averages(AverageConfig(ema=decay), values, num_steps, 1), values, weights).results()
    shares = [(1 - decay if step else 1.0) * decay ** (num_steps - 1 - step) for step in range(num_steps)]
    assert sum(shares) == pytest.approx(1.0)
    expected = sum(share * weight.double() for share, weight in zip(shares, weights, strict=True))
    assert list(found) == ["ema"]
    assert torch.allclose(found["ema"].double(), expected, rtol=1e-4, atol=1e-5)


@given(st.integers(2, 6), st.integers(1, 7), st.integers(0, 9))
def test_the_last_average_is_the_mean_of_the_last_snapshots(last, every, spare):
    num_steps = (last - 1) * every + 1 + spare
    weights, values = path_of_weights(num_steps), torch.zeros(5)
    config = AverageConfig(last=last, last_every=every)
    found = follow(Averages(config, values, num_steps, 1000), values, weights).results()
    snapshots = [weights[num_steps - 1 - number * every] for number in range(last)]
    assert torch.equal(found["last"], torch.stack(snapshots).double().flip(0).sum(dim=0).div(last).float())


def test_snapshots_are_an_epoch_apart_unless_said_otherwise():
    assert list(snapshot_steps(AverageConfig(last=3), 30, 8)) == [14, 22, 30]
    assert list(snapshot_steps(AverageConfig(last=3, last_every=2), 30, 8)) == [26, 28, 30]
    assert list(snapshot_steps(AverageConfig(), 30, 8)) == []


@pytest.mark.parametrize("stop", [1, 4, 5, 8])
def test_a_continued_average_equals_one_that_never_stopped_bit_for_bit(stop):
    config, weights = AverageConfig(ema=0.9, last=3, last_every=2), path_of_weights(9)
    values = torch.zeros(5)
    whole = follow(Averages(config, values, 9, 1), values, weights)
    before = follow(Averages(config, values, 9, 1), values, weights[:stop])
    after = Averages(config, values, 9, 1)
    after.load_state(copy.deepcopy(before.state()), stop)
    found = follow(after, values, weights, stop).results()
    assert found.keys() == {"ema", "last"}
    assert all(torch.equal(found[name], tensor) for name, tensor in whole.results().items())


def test_no_average_keeps_nothing_and_needs_nothing_of_a_checkpoint():
    values = torch.zeros(5)
    averages = Averages(AverageConfig(), values, 9, 1)
    averages.load_state({"ema": torch.ones(5)}, 3)
    averages.after_step(4)
    assert averages.state() == averages.results() == {}


def test_a_run_that_goes_on_to_a_later_end_takes_its_snapshots_there():
    config, weights, values = AverageConfig(last=2, last_every=2), path_of_weights(9), torch.zeros(5)
    short = follow(Averages(config, values, 5, 1), values, weights[:5])
    longer = Averages(config, values, 9, 1)
    longer.load_state(short.state(), 5)  # holds steps 3 and 5, wanted are 7 and 9
    found = follow(longer, values, weights, 5).results()
    assert torch.equal(found["last"], torch.stack([weights[6], weights[8]]).double().mean(dim=0).float())


def test_a_checkpoint_without_what_an_average_needs_is_refused_naming_the_key():
    with pytest.raises(RunFolderError, match=r"average\.ema=0\.5: the checkpoint of step 3 holds no such average"):
        Averages(AverageConfig(ema=0.5), torch.zeros(5), 9, 1).load_state({}, 3)
    with pytest.raises(RunFolderError, match=r"average\.last_every: snapshots of steps 7 .* of step 8 holds none"):
        Averages(AverageConfig(last=2, last_every=2), torch.zeros(5), 9, 1).load_state({}, 8)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("average.ema=1", r"average\.ema=1\.0: expected a decay in \[0, 1\)"),
        ("average.last=1", r"average\.last=1: expected 0, or at least 2"),
        ("average.last_every=0", r"average\.last_every=0: expected at least 1, or null"),
    ],
)
def test_values_out_of_range_are_refused(override, says):
    with pytest.raises(ConfigError, match=says):
        load_config(None, [override])


def test_snapshots_that_do_not_fit_into_the_run_are_refused_naming_the_keys():
    assert list(snapshot_steps(AverageConfig(last=3, last_every=4), 9, 1)) == [1, 5, 9]
    with pytest.raises(ConfigError, match=r"average\.last=3, average\.last_every=4: the run has only 8 steps.* 9 "):
        snapshot_steps(AverageConfig(last=3), 8, 4)
