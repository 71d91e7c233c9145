"""The plan: one member's view, pairwise consistent, equal to its slow twin; and the laws of the shuffle it is for."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.support import exchange_in_one_process
from wash_hpc.shuffle.draw import Draw, Drawer, Permutation
from wash_hpc.shuffle.plan import make_plan
from wash_hpc.shuffle.reference import plan_slowly, shuffle_members

NUM_PARAMETERS = 60


def draw_of(seed: int, num_members: int, p: float, permutation: Permutation = "uniform") -> Draw:
    return Drawer(seed, num_members, [20, 40], np.array([p, p / 2]), permutation).draw(1)


@given(st.integers(0, 1000), st.integers(1, 5), st.sampled_from([0.0, 0.05, 0.5, 1.0]))
def test_plan_equals_its_slow_twin(seed, num_members, p):
    draw = draw_of(seed, num_members, p)
    for member in range(num_members):
        fast, slow = make_plan(draw, member), plan_slowly(draw, member)
        assert np.array_equal(fast.send_positions, slow.send_positions)
        assert np.array_equal(fast.recv_positions, slow.recv_positions)
        assert np.array_equal(fast.send_counts, slow.send_counts)
        assert np.array_equal(fast.recv_counts, slow.recv_counts)


@given(
    st.integers(0, 1000), st.integers(1, 5), st.sampled_from([0.05, 0.5, 1.0]), st.sampled_from(["uniform", "cyclic"])
)
def test_what_a_sends_b_is_what_b_receives_from_a_and_nobody_sends_to_itself(seed, num_members, p, permutation):
    draw = draw_of(seed, num_members, p, permutation)
    plans = [make_plan(draw, member) for member in range(num_members)]
    for a, plan in enumerate(plans):
        assert plan.send_counts[a] == plan.recv_counts[a] == 0
        assert plan.num_moved == plan.send_counts.sum() == plan.recv_counts.sum() == len(plan.recv_positions)
        for b, other in enumerate(plans):
            assert plan.send_counts[b] == other.recv_counts[a]


@given(st.integers(0, 1000), st.integers(1, 5), st.sampled_from([0.0, 0.05, 0.5, 1.0]))
def test_plans_of_all_members_carry_out_the_reference_shuffle(seed, num_members, p):
    draw = draw_of(seed, num_members, p)
    values = torch.randn(num_members, NUM_PARAMETERS, generator=torch.Generator().manual_seed(seed))
    plans = [make_plan(draw, member) for member in range(num_members)]
    assert torch.equal(exchange_in_one_process(values, plans), shuffle_members(values, draw))


@given(st.integers(0, 1000), st.integers(2, 4))
def test_optimizer_state_moves_with_its_values_by_the_same_draw(seed, num_members):
    draw = draw_of(seed, num_members, 0.5)
    values = torch.randn(num_members, 3, NUM_PARAMETERS, generator=torch.Generator().manual_seed(seed))
    plans = [make_plan(draw, member, num_rows=3, row_size=NUM_PARAMETERS) for member in range(num_members)]
    moved = exchange_in_one_process(values.view(num_members, -1), plans).view(num_members, 3, NUM_PARAMETERS)
    for row in range(3):
        assert torch.equal(moved[:, row], shuffle_members(values[:, row], draw))


@given(st.integers(0, 1000), st.integers(1, 5), st.sampled_from([0.05, 0.5, 1.0]))
def test_shuffle_keeps_the_set_of_values_at_every_position(seed, num_members, p):
    values = torch.randn(num_members, NUM_PARAMETERS, generator=torch.Generator().manual_seed(seed))
    shuffled = shuffle_members(values, draw_of(seed, num_members, p))
    assert torch.equal(values.sort(dim=0).values, shuffled.sort(dim=0).values)


@given(st.integers(0, 1000), st.integers(1, 5))
def test_shuffle_keeps_the_mean_and_the_consensus_distance(seed, num_members):
    values = torch.randn(
        num_members, NUM_PARAMETERS, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    shuffled = shuffle_members(values, draw_of(seed, num_members, 0.5))
    assert torch.allclose(values.mean(dim=0), shuffled.mean(dim=0), rtol=0, atol=1e-14)
    distances = [((v - v.mean(dim=0)) ** 2).sum(dim=1).mean().sqrt() for v in (values, shuffled)]
    assert torch.allclose(distances[0], distances[1], rtol=1e-13)


def test_in_expectation_wash_is_papa_at_every_step():
    """E[theta_n'] = (1 - p) theta_n + p mean, over draws."""
    num_members, p, num_draws = 3, 0.4, 4000
    values = torch.randn(num_members, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    drawer = Drawer(0, num_members, [10], np.array([p]))
    mean = sum(shuffle_members(values, drawer.draw(step)) for step in range(num_draws)) / num_draws
    expected = (1 - p) * values + p * values.mean(dim=0)
    assert torch.all((mean - expected).abs() < 5 * values.std() / num_draws**0.5)


def test_shuffle_shrinks_the_consensus_distance_only_through_coupling_between_coordinates():
    """On a quadratic with a diagonal Hessian WASH does nothing; with a rotated one the members draw together."""
    size, num_members, num_steps = 100, 5, 1500
    generator = torch.Generator().manual_seed(0)
    eigenvalues = torch.logspace(-2, 0, size, dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64)).Q
    hessians = {"diagonal": torch.diag(eigenvalues), "rotated": rotation @ torch.diag(eigenvalues) @ rotation.T}
    squares: dict[tuple[str, float], float] = {}
    for kind, hessian in hessians.items():
        for p in (0.0, 0.1):
            drawer = Drawer(1, num_members, [size], np.array([p]))
            noise = torch.Generator().manual_seed(1)
            values = torch.zeros(num_members, size, dtype=torch.float64)
            collected = []
            for step in range(num_steps):
                gradient_noise = torch.randn(num_members, size, generator=noise, dtype=torch.float64)
                values = values - 0.5 * (values @ hessian + gradient_noise)
                values = exchange_in_one_process(
                    values, [make_plan(drawer.draw(step), member) for member in range(num_members)]
                )
                if step > num_steps // 2:
                    collected.append(float(((values - values.mean(dim=0)) ** 2).sum(dim=1).mean()))
            squares[kind, p] = float(np.mean(collected))
    assert 0.8 < squares["diagonal", 0.1] / squares["diagonal", 0.0] < 1.25
    assert squares["rotated", 0.1] < 0.5 * squares["rotated", 0.0]
