"""The draw: a function of seed and step, binomial in each layer, uniform over permutations, equal to its slow twin."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wash_hpc.seeds import generator
from wash_hpc.shuffle import draw as module_of_draw
from wash_hpc.shuffle.draw import Draw, Drawer
from wash_hpc.shuffle.plan import make_plan
from wash_hpc.shuffle.probability import Schedule, layer_probabilities
from wash_hpc.shuffle.reference import draw_slowly

SCHEDULES: tuple[Schedule, ...] = ("decreasing", "constant", "increasing")

probabilities = st.one_of(st.sampled_from([0.0, 1.0]), st.floats(1e-6, 0.999))
layers = st.lists(st.tuples(st.integers(1, 40), probabilities), min_size=1, max_size=6)


def equal(first: Draw, second: Draw) -> bool:
    return np.array_equal(first.positions, second.positions) and np.array_equal(first.source, second.source)


@given(
    layers, st.integers(0, 2**63 - 1), st.integers(0, 2**40), st.integers(1, 10), st.sampled_from(["uniform", "cyclic"])
)
def test_draw_equals_its_slow_twin_bit_for_bit(layers, seed, step, num_members, permutation):
    sizes, p = zip(*layers, strict=True)
    drawer = Drawer(seed, num_members, sizes, np.array(p), permutation)
    assert equal(drawer.draw(step), draw_slowly(drawer, step))


@given(layers, st.integers(0, 2**63 - 1), st.integers(0, 2**40), st.integers(1, 10))
def test_every_draw_is_a_permutation_at_increasing_positions(layers, seed, step, num_members):
    sizes, p = zip(*layers, strict=True)
    draw = Drawer(seed, num_members, sizes, np.array(p)).draw(step)
    assert np.all(np.diff(draw.positions) > 0)
    assert np.all((draw.positions >= 0) & (draw.positions < sum(sizes)))
    assert np.array_equal(
        np.sort(draw.source, axis=0), np.repeat(np.arange(num_members)[:, None], len(draw.positions), axis=1)
    )


def test_draw_is_a_function_of_seed_and_step_alone():
    first, second = (Drawer(7, 4, [1000, 2000], np.array([0.1, 0.2])) for _ in range(2))
    first.draw(1)
    assert equal(first.draw(5), second.draw(5))
    assert first.draw(5).digest == second.draw(5).digest
    assert not equal(first.draw(5), first.draw(6))
    assert not equal(first.draw(5), Drawer(8, 4, [1000, 2000], np.array([0.1, 0.2])).draw(5))


def test_methods_of_one_run_draw_independently_of_each_other():
    first, second = (Drawer(7, 4, [20_000], np.array([0.1]), number=number) for number in (0, 1))
    common = np.intersect1d(first.pick(5), second.scaled(0.5).pick(5))
    assert len(common) == pytest.approx(20_000 * 0.1 * 0.05, abs=4 * 10)
    assert equal(second.draw(5), Drawer(7, 4, [20_000], np.array([0.1]), number=1).draw(5))
    half = first.scaled(0.5).draw(5)
    assert equal(half, Drawer(7, 4, [20_000], np.array([0.05])).draw(5))


def test_number_drawn_in_each_layer_has_the_mean_and_variance_of_a_binomial():
    sizes, p = np.array([2000, 500, 4000]), np.array([0.3, 0.05, 0.9])
    drawer = Drawer(0, 2, sizes, p)
    num_draws = 2000
    counts = np.array(
        [np.histogram(drawer.draw(step).positions, bins=[0, 2000, 2500, 6500])[0] for step in range(num_draws)]
    )
    mean, variance = p * sizes, p * (1 - p) * sizes
    assert np.all(np.abs(counts.mean(axis=0) - mean) < 5 * np.sqrt(variance / num_draws))
    assert np.all(np.abs(counts.var(axis=0) / variance - 1) < 5 * np.sqrt(2 / num_draws))


def test_every_position_of_a_layer_is_equally_likely_and_independent_of_its_neighbour():
    drawer = Drawer(3, 1, [50], np.array([0.4]))
    num_draws = 4000
    picked = np.zeros((num_draws, 50))
    for step in range(num_draws):
        picked[step, drawer.draw(step).positions] = 1
    error = 5 * np.sqrt(0.4 * 0.6 / num_draws)
    assert np.all(np.abs(picked.mean(axis=0) - 0.4) < error)
    assert np.all(np.abs((picked[:, 1:] * picked[:, :-1]).mean(axis=0) - 0.16) < 5 * np.sqrt(0.16 * 0.84 / num_draws))


def test_permutations_are_uniform_over_all_of_them():
    draw = Drawer(1, 3, [60_000], np.array([1.0])).draw(0)
    seen = dict.fromkeys(permutations(range(3)), 0)
    for column in draw.source.T:
        seen[tuple(int(member) for member in column)] += 1
    expected = 10_000
    chi_squared = sum((count - expected) ** 2 / expected for count in seen.values())
    assert chi_squared < 20.5  # 0.1 % of the chi-squared distribution with five degrees of freedom


@pytest.mark.parametrize("num_members", [1, 2, 3, 5, 8, 9, 12])
def test_a_uniform_permutation_leaves_one_value_in_n_in_place(num_members):
    draw = Drawer(2, num_members, [50_000], np.array([1.0])).draw(0)
    moved = np.mean(draw.source[0] != 0)
    assert abs(moved - (num_members - 1) / num_members) < 0.01


@pytest.mark.parametrize("num_members", [2, 3, 5, 9])
def test_a_cyclic_permutation_moves_every_picked_value(num_members):
    draw = Drawer(2, num_members, [1000], np.array([0.5]), "cyclic").draw(0)
    assert np.all(draw.source != np.arange(num_members)[:, None])


def test_probability_zero_draws_nothing_and_probability_one_everything():
    drawer = Drawer(0, 4, [10, 20, 30], np.array([0.0, 1.0, 0.0]))
    assert drawer.draw(3).positions.tolist() == list(range(10, 30))
    assert len(Drawer(0, 4, [10, 20], np.zeros(2)).draw(3).positions) == 0


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_single_layer_has_the_base_probability_in_every_schedule(schedule):
    assert layer_probabilities(schedule, 0.3, 1).tolist() == [0.3]


def test_schedules_go_from_p_to_zero_stay_and_go_from_zero_to_p():
    assert np.allclose(layer_probabilities("decreasing", 0.4, 5), [0.4, 0.3, 0.2, 0.1, 0.0])
    assert np.allclose(layer_probabilities("increasing", 0.4, 5), [0.0, 0.1, 0.2, 0.3, 0.4])
    assert np.allclose(layer_probabilities("constant", 0.4, 5), 0.4)


class Counted:
    """A generator that adds up how many random numbers it is asked for, and hands them on."""

    def __init__(self, random: np.random.Generator, asked: Counter[str]) -> None:
        self._random = random
        self._asked = asked

    def standard_exponential(self, size):
        self._asked["numbers"] += size
        return self._random.standard_exponential(size)

    def integers(self, *limits, size, dtype):
        self._asked["numbers"] += size
        return self._random.integers(*limits, size=size, dtype=dtype)


@pytest.mark.parametrize("num_members", [4, 9])
def test_cost_grows_with_the_picked_positions_and_not_with_the_parameters(monkeypatch, num_members):
    """From 1 M to 100 M parameters, 1000 picked: as many random numbers, and as much memory, for draw and plan."""
    asked: Counter[str] = Counter()
    monkeypatch.setattr(module_of_draw, "generator", lambda *key: Counted(generator(*key), asked))
    per_position, peaks = [], []
    for size in (10**6, 10**7, 10**8):
        layers = [size // 100] * 100
        drawer = Drawer(0, num_members, layers, np.full(100, 1000 / size))
        make_plan(drawer.draw(0), 0)  # makes the table of permutations
        asked.clear()
        tracemalloc.start()
        draws = [drawer.draw(step) for step in range(1, 6)]
        plans = [make_plan(draw, 0) for draw in draws]
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        num_picked = sum(len(draw.positions) for draw in draws)
        assert 4500 < num_picked < 5500
        assert all(plan.num_moved < 1200 for plan in plans)
        per_position.append(asked["numbers"] / num_picked)
    gaps_and_permutation = 1.35 + (1 if num_members <= 8 else num_members - 1)  # a third more gaps than needed
    assert all(1 < numbers < gaps_and_permutation for numbers in per_position)
    assert max(peaks) < 1.1 * min(peaks) < 10**6  # a dense draw of 1 M parameters has 1 MB of outcomes
