"""Who meets whom, and that the laws of the shuffle hold whoever meets: every topology, members absent, more than 8."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.support import exchange_in_one_process
from wash_hpc.shuffle.draw import Draw, Drawer
from wash_hpc.shuffle.plan import make_plan
from wash_hpc.shuffle.reference import draw_slowly, plan_slowly, shuffle_members
from wash_hpc.shuffle.topology import Topology, TopologyKind

LAYERS = [13, 30]
NUM_PARAMETERS = sum(LAYERS)
KINDS: tuple[TopologyKind, ...] = ("global", "node", "ring")


@dataclass(frozen=True)
class Situation:
    drawer: Drawer
    step: int
    absent: list[int]

    @property
    def num_members(self) -> int:
        return self.drawer.num_members

    def draw(self) -> Draw:
        return self.drawer.draw(self.step, self.absent)


@st.composite
def situations(draw: st.DrawFn) -> Situation:
    """Any topology of one to eleven members, any of them absent."""
    num_members = draw(st.integers(1, 11))
    node_size = draw(st.integers(1, 12))
    topology = Topology(
        num_members,
        draw(st.sampled_from(KINDS)),
        every=draw(st.integers(1, 3)),
        nodes=tuple(member // node_size for member in range(num_members)),
        node_ratio=draw(st.integers(1, 4)),
    )
    p = draw(st.sampled_from([0.0, 0.05, 0.5, 1.0]))
    permutation = draw(st.sampled_from(["uniform", "cyclic"]))
    drawer = Drawer(draw(st.integers(0, 2**63 - 1)), topology, LAYERS, np.array([p, p / 2]), permutation)
    absent = draw(st.lists(st.integers(0, num_members - 1), unique=True, max_size=num_members))
    return Situation(drawer, draw(st.integers(1, 2**40)), absent)


def values_of(num_members: int) -> torch.Tensor:
    """[M, P] float64, no two of them equal."""
    return torch.randn(num_members, NUM_PARAMETERS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@given(situations())
def test_groups_part_the_members_that_are_there_and_leave_the_others_at_rest(situation):
    groups = [group.tolist() for group in situation.drawer.topology.groups(situation.step, situation.absent)]
    grouped = [member for group in groups for member in group]
    assert len(set(grouped)) == len(grouped)
    assert set(grouped) <= set(range(situation.num_members)) - set(situation.absent)
    assert all(len(group) > 1 and group == sorted(group) for group in groups)
    if situation.drawer.topology.kind == "global" and situation.num_members - len(situation.absent) > 1:
        assert len(grouped) == situation.num_members - len(situation.absent)


@given(situations())
def test_draw_equals_its_slow_twin_in_every_topology(situation):
    fast, slow = situation.draw(), draw_slowly(situation.drawer, situation.step, situation.absent)
    assert np.array_equal(fast.positions, slow.positions)
    assert np.array_equal(fast.source, slow.source)
    assert [group.tolist() for group in fast.groups] == [group.tolist() for group in slow.groups]


@given(situations())
def test_every_column_is_a_permutation_inside_each_group_and_others_keep_their_own(situation):
    draw = situation.draw()
    resting = np.ones(situation.num_members, dtype=bool)
    for group in draw.groups:
        resting[group] = False
        everyone = np.repeat(group[:, None], len(draw.positions), axis=1)
        assert np.array_equal(np.sort(draw.source[group], axis=0), everyone)
        if situation.drawer.permutation == "cyclic":
            assert np.all(draw.source[group] != group[:, None])
    own = np.repeat(np.arange(situation.num_members)[:, None], len(draw.positions), axis=1)
    assert np.array_equal(draw.source[resting], own[resting])


@given(situations())
def test_positions_do_not_depend_on_who_is_there(situation):
    everybody = situation.drawer.draw(situation.step)
    assert np.array_equal(situation.draw().positions, everybody.positions)


@given(situations())
def test_plans_equal_their_slow_twins_agree_pairwise_and_carry_out_the_reference(situation):
    draw = situation.draw()
    plans = [make_plan(draw, member) for member in range(situation.num_members)]
    for a, plan in enumerate(plans):
        slow = plan_slowly(draw, a)
        assert np.array_equal(plan.send_positions, slow.send_positions)
        assert np.array_equal(plan.recv_positions, slow.recv_positions)
        assert np.array_equal(plan.send_counts, slow.send_counts)
        assert np.array_equal(plan.recv_counts, slow.recv_counts)
        assert plan.peers == slow.peers
        assert a not in plan.peers
        assert plan.num_moved == plan.send_counts.sum() == plan.recv_counts.sum()
        for b, other in enumerate(plans):
            assert plan.send_counts[b] == other.recv_counts[a]
            assert (b in plan.peers) == (a in other.peers)
            assert b in plan.peers or plan.send_counts[b] == 0
    values = values_of(situation.num_members)
    assert torch.equal(exchange_in_one_process(values, plans), shuffle_members(values, draw))


@given(situations())
def test_shuffle_keeps_values_mean_and_consensus_distance_in_every_topology(situation):
    values, draw = values_of(situation.num_members), situation.draw()
    shuffled = shuffle_members(values, draw)
    assert torch.equal(values.sort(dim=0).values, shuffled.sort(dim=0).values)
    assert torch.allclose(values.mean(dim=0), shuffled.mean(dim=0), rtol=0, atol=1e-14)
    distances = [((v - v.mean(dim=0)) ** 2).sum(dim=1).mean().sqrt() for v in (values, shuffled)]
    assert torch.allclose(distances[0], distances[1], rtol=1e-13)
    untouched = np.setdiff1d(np.arange(NUM_PARAMETERS), draw.positions)
    assert torch.equal(values[:, untouched], shuffled[:, untouched])
    assert torch.equal(values[situation.absent], shuffled[situation.absent])


@pytest.mark.parametrize("num_members", range(3, 12))
def test_in_a_ring_only_neighbours_meet_each_in_turn(num_members):
    topology = Topology(num_members, "ring")
    exchanges = [{tuple(group.tolist()) for group in topology.groups(step)} for step in range(1, 2 * num_members + 1)]
    neighbours = {tuple(sorted((member, (member + 1) % num_members))) for member in range(num_members)}
    assert set.union(*exchanges[:num_members]) == neighbours
    assert all(not first & second for first, second in pairwise(exchanges))
    at_rest = [set(range(num_members)) - {member for pair in exchange for member in pair} for exchange in exchanges]
    assert all(len(rest) == num_members % 2 for rest in at_rest)
    if num_members % 2:
        assert set.union(*at_rest[:num_members]) == set(range(num_members))


def test_a_ring_of_two_is_both_of_them_and_of_one_nobody():
    assert [group.tolist() for group in Topology(2, "ring").groups(5)] == [[0, 1]]
    assert Topology(1, "ring").groups(5) == []


def test_members_meet_inside_their_node_but_for_every_so_manieth_exchange():
    topology = Topology(7, "node", nodes=(0, 0, 0, 3, 3, 3, 9), node_ratio=3)
    inside, everyone = [[0, 1, 2], [3, 4, 5]], [[0, 1, 2, 3, 4, 5, 6]]  # the last is alone on its node
    groups = [[group.tolist() for group in topology.groups(step)] for step in range(1, 7)]
    assert groups == [inside, inside, everyone, inside, inside, everyone]


def test_a_node_larger_than_the_ensemble_is_all_of_it():
    topology = Topology(3, "node", nodes=tuple(member // 8 for member in range(3)), node_ratio=10)
    assert [group.tolist() for group in topology.groups(1)] == [[0, 1, 2]]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("every", "start"), [(1, 0), (3, 0), (3, 4), (5, 7)])
def test_exchanges_go_through_the_groups_in_turn_whatever_lies_between_them(kind, every, start):
    nodes = (0, 0, 1, 1, 1)
    each, some = (Topology(5, kind, every=e, nodes=nodes, node_ratio=3) for e in (1, every))
    first = (start + every) // every
    for number in range(10):
        expected = each.groups(first + number)
        actual = some.groups(start + (number + 1) * every)
        assert [group.tolist() for group in actual] == [group.tolist() for group in expected]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_members", [2, 3, 8, 9, 11])
def test_the_share_that_moves_and_the_messages_are_as_the_topology_says(kind, num_members):
    """(g - 1) / g of what is picked, for a group of g members; a message to each of the others."""
    nodes = tuple(member // 3 for member in range(num_members))
    topology = Topology(num_members, kind, nodes=nodes, node_ratio=2)
    drawer = Drawer(2, topology, [40_000], np.array([1.0]))
    for step in (1, 2):
        draw, share = drawer.draw(step), topology.moved_share(step, cyclic=False)
        moved = np.mean(draw.source != np.arange(num_members)[:, None], axis=1)
        assert np.all(np.abs(moved - share) < 5 * 0.5 / 40_000**0.5)
        assert np.array_equal(moved == 0, share == 0)
        messages = [len(make_plan(draw, member).peers) for member in range(num_members)]
        assert topology.num_messages(step).tolist() == messages


def test_permutations_of_more_members_than_the_table_holds_are_uniform():
    """By Fisher and Yates: where each value goes, and where each two go together."""
    num_members, num_draws = 9, 72_000
    source = Drawer(1, num_members, [num_draws], np.array([1.0])).draw(0).source.astype(np.int64)
    single = np.array([np.bincount(row, minlength=num_members) for row in source])
    assert np.all(np.abs(single - 8000) < 5 * np.sqrt(8000))
    for a, b in ((0, 1), (7, 8), (0, 8)):
        pairs = np.bincount(source[a] * num_members + source[b], minlength=81).reshape(9, 9)
        assert np.all(np.diag(pairs) == 0)
        assert np.all(np.abs(pairs[~np.eye(9, dtype=bool)] - 1000) < 5 * np.sqrt(1000))


def test_a_draw_for_some_is_uniform_over_their_permutations():
    draw = Drawer(1, 4, [60_000], np.array([1.0])).draw(0, absent=[2])
    columns, counts = np.unique(draw.source, axis=1, return_counts=True)
    assert np.all(columns[2] == 2)
    assert len(counts) == 6
    assert np.all(np.abs(counts - 10_000) < 5 * np.sqrt(10_000))
