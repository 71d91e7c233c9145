"""Where ranks are, in words: hosts and cores. No MPI is needed."""

from __future__ import annotations

from wash_hpc.parallel.placement import Seat, describe_cores, describe_hosts, find_crowding, name_ranks


def seats(*hosts: tuple[str, list[set[int]]], cpus_per_task: int | None = None) -> list[Seat]:
    """Ranks host by host, each with its cores."""
    taken: list[Seat] = []
    for name, ranks in hosts:
        first = len(taken)
        taken += [Seat(first, name, frozenset(cores), cpus_per_task) for cores in ranks]
    return taken


def test_ranks_are_counted_by_host():
    even = seats(("node1", [{0}] * 4), ("node2", [{0}] * 4))
    assert describe_hosts(even) == "4 on node1, 4 on node2"
    assert describe_hosts(even[:6]) == "4 on node1, 2 on node2, unevenly"


def test_hosts_of_one_name_are_two_all_the_same():
    assert describe_hosts(seats(("vm", [{0}]), ("vm", [{0}]))) == "1 on vm, 1 on vm"


def test_of_many_hosts_only_the_number_is_said():
    many = seats(*((f"node{number}", [{0}] * 8) for number in range(16)))
    assert describe_hosts(many) == "8 on each of 16 hosts"
    assert describe_hosts(many[:-2]) == "6 to 8 on each of 16 hosts, unevenly"


def test_cores_a_rank_are_a_number_or_a_range():
    assert describe_cores(seats(("node1", [{0}, {1}]))) == "each rank may run on 1 core"
    assert describe_cores(seats(("node1", [{0, 1}, {2}]))) == "a rank may run on 1 to 2 cores"


def test_ranks_with_cores_of_their_own_or_all_cores_together_are_well():
    assert find_crowding(seats(("node1", [{0, 1}, {2, 3}]))) == []
    assert find_crowding(seats(("node1", [{0, 1, 2, 3}] * 4))) == []
    assert find_crowding(seats(("node1", [{0}]), ("node2", [{0}]))) == []
    assert find_crowding(seats(("node1", [set(range(8))] * 2), cpus_per_task=4)) == []


def test_ranks_bound_to_one_core_together_are_named_and_told_the_remedy():
    assert find_crowding(seats(("node1", [{0}, {1}, {1}, {2, 3}]))) == [
        "ranks 1, 2 on node1 take turns on 1 core: mpirun --bind-to none"
    ]


def test_a_rank_within_the_cores_of_others_counts():
    assert find_crowding(seats(("node1", [{0, 1}, {0, 1}, {1}, {2, 3, 4}]))) == [
        "ranks 0, 1, 2 on node1 take turns on 2 cores: mpirun --bind-to none"
    ]


def test_a_host_with_fewer_cores_than_ranks_is_said_and_many_hosts_once():
    crowded = [(f"node{number}", [{0, 1}] * 3) for number in range(1, 5)]
    said = "ranks 0, 1, 2 on node1 take turns on 2 cores: start fewer ranks a node, or ask for more cores"
    assert find_crowding(seats(crowded[0])) == [said]
    assert find_crowding(seats(*crowded)) == [said, "and likewise on 3 other hosts"]


def test_ranks_bound_to_fewer_cores_than_slurm_was_asked_for_are_named():
    assert find_crowding(seats(("node1", [{0}, {1}]), ("node2", [{0}, set(range(8))]), cpus_per_task=8)) == [
        "ranks 0, 1, 2 may run on 1 core, and SLURM_CPUS_PER_TASK is 8: mpirun --bind-to none, or --map-by slot:PE=8"
    ]


def test_of_many_ranks_the_first_are_named():
    assert name_ranks([3]) == "rank 3"
    assert name_ranks(range(20)) == "ranks 0, 1, 2, 3, 4, 5, 6, 7 and 12 more"
