"""Which pairs of ranks the doctor measures, and what it says of them. No MPI job is needed."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import pytest

from wash_hpc.parallel.bandwidth import Way, choose_pairs, describe_ways
from wash_hpc.parallel.placement import Seat

CLUSTERS = {
    "one rank": [0],
    "two ranks": [0, 0],
    "a host": [0] * 7,
    "two hosts": [0, 0, 0, 0, 4, 4, 4, 4],
    "cyclic": [0, 1, 2, 0, 1, 2, 0, 1, 2],
    "uneven": [0, 0, 0, 3, 4, 4],
    "a rank a host": list(range(6)),
    "many": [rank // 8 for rank in range(8 * 100)],
    "a big host": [0] * 128,
}


@pytest.mark.parametrize("hosts", CLUSTERS.values(), ids=CLUSTERS)
def test_a_host_has_at_most_one_pair_at_a_time_and_rounds_are_few(hosts):
    for number, rounds in enumerate(choose_pairs(hosts)):
        assert len(rounds) <= 32
        for pairs in rounds:
            assert pairs
            assert all((hosts[a] == hosts[b]) == (number == 0) and a != b for a, b in pairs)
            busy = [hosts[rank] for pair in pairs for rank in (pair if number == 1 else pair[:1])]
            assert max(Counter(busy).values()) == 1


@pytest.mark.parametrize("name", ["two ranks", "a host", "two hosts", "cyclic", "many"])
def test_every_rank_has_a_turn_within_its_host(name):
    inside, _ = choose_pairs(CLUSTERS[name])
    assert {rank for pairs in inside for pair in pairs for rank in pair} == set(range(len(CLUSTERS[name])))


@pytest.mark.parametrize("name", ["two hosts", "a rank a host", "many"])
def test_every_rank_of_an_even_number_of_hosts_has_a_turn_with_another(name):
    _, across = choose_pairs(CLUSTERS[name])
    assert {rank for pairs in across for pair in pairs for rank in pair} == set(range(len(CLUSTERS[name])))


@pytest.mark.parametrize("name", ["cyclic", "uneven"])
def test_of_an_odd_number_every_host_has_a_turn_with_every_other(name):
    hosts = CLUSTERS[name]
    _, across = choose_pairs(hosts)
    met = {(hosts[a], hosts[b]) for pairs in across for a, b in pairs}
    assert {tuple(sorted(pair)) for pair in met} == set(combinations(sorted(set(hosts)), 2))


def test_within_a_small_host_every_pair_is_measured_once_and_every_host_meets_every_other():
    inside, _ = choose_pairs([0] * 5)
    assert sorted(pair for pairs in inside for pair in pairs) == [(a, b) for a in range(5) for b in range(a + 1, 5)]
    _, across = choose_pairs(list(range(6)))
    assert sorted(pair for pairs in across for pair in pairs) == [(a, b) for a in range(6) for b in range(a + 1, 6)]


def test_one_rank_and_ranks_of_one_host_have_nobody_across():
    assert choose_pairs([0]) == ([], [])
    assert choose_pairs([0, 0])[1] == []


def seats(*names: str) -> list[Seat]:
    return [Seat(names.index(name), name, frozenset({0})) for name in names]


def test_each_kind_of_way_has_its_median_and_its_worst_pair_by_name():
    four = seats("node1", "node1", "node2", "node2")
    ways = [
        Way((0, 1), 0.5e-6, 10e9),
        Way((2, 3), 0.7e-6, 8e9),
        Way((0, 2), 20e-6, 1.2e9),
        Way((1, 3), 30e-6, 1.1e9),
        Way((0, 3), 21e-6, 1.0e9),
    ]
    assert describe_ways(ways, four) == [
        "in a host: 9 GB/s, 0.6 us, median of 2 pairs; worst 8 GB/s: ranks 2 and 3 on node2, 0.7 us: ranks 2 and 3 on "
        "node2",
        "across: 1.1 GB/s, 21 us, median of 3 pairs; worst 1 GB/s: rank 0 on node1 and rank 3 on node2, 30 us: rank 1 "
        "on node1 and rank 3 on node2",
    ]


def test_the_only_pair_is_both_median_and_worst():
    assert describe_ways([Way((0, 1), 2e-6, 5.25e9)], seats("a", "a")) == [
        "in a host: 5.25 GB/s, 2 us: ranks 0 and 1 on a"
    ]


def test_a_pair_across_hosts_that_is_far_slower_than_the_others_is_warned_of():
    four = seats("node1", "node2", "node3", "node4")
    ways = [Way((0, 1), 2e-6, 10e9), Way((2, 3), 2e-6, 11e9), Way((0, 2), 2e-6, 9e9), Way((1, 3), 2e-6, 0.1e9)]
    assert describe_ways(ways[:3], four)[1:] == []
    assert describe_ways(ways, four)[1] == (
        "warning: 1 of 4 pairs across hosts have less than a third of the usual bandwidth, the least of all rank 1 on "
        "node2 and rank 3 on node4: a bad cable, or the wrong network?"
    )


def test_a_slow_pair_within_a_host_is_no_reason_to_warn():
    ways = [Way((0, 1), 2e-6, 10e9), Way((1, 2), 2e-6, 10e9), Way((0, 2), 2e-6, 1e9)]
    assert len(describe_ways(ways, seats("a", "a", "a"))) == 1
