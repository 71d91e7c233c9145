"""Draws, and the slow reference's shuffles, are what they have always been."""

from __future__ import annotations

import numpy as np
import pytest

from tests.golden_files import (
    CASES,
    NODE,
    NUM_STEPS,
    SIZE,
    Case,
    check_against_golden,
    first_difference,
    initial_values,
    row_name,
)
from wash_hpc.shuffle.draw import Drawer
from wash_hpc.shuffle.reference import draw_slowly, shuffle_members
from wash_hpc.shuffle.topology import Topology


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_slow_reference_agrees_with_the_golden_file_of_the_exchange(case: Case):
    everyone, drawer, rows = initial_values(case.num_members), case.drawer(), {}
    for step in range(1, NUM_STEPS + 1):
        everyone = shuffle_members(everyone, draw_slowly(drawer, step, case.absent(step)))
        for member, values in enumerate(everyone[:, :SIZE].tolist()):
            rows[row_name(step, member)] = [int(value) for value in values]
    check_against_golden(f"exchange_{case.name}", rows)


def test_draws_have_the_digests_of_the_golden_file():
    """How many positions are picked, and a checksum of the draw; with a table of permutations, and above it."""
    rows = {}
    topologies = {f"global of {number}": Topology(number) for number in (1, 2, 4, 8, 9, 16)}
    topologies |= {"ring of 9": Topology(9, "ring"), "nodes of 4": NODE}
    for seed in (0, 1, 2**63 - 1):
        for name, topology in topologies.items():
            for permutation in ("uniform", "cyclic"):
                drawer = Drawer(seed, topology, [900, 30, 5000], np.array([0.2, 1.0, 0.01]), permutation)
                for step in (1, 2, 300_000):
                    draw = drawer.draw(step)
                    rows[f"seed {seed}, {name}, {permutation}, step {step}"] = [len(draw.positions), draw.digest]
                    if len(topology.groups(step)) and topology.num_members > 2:
                        draw = drawer.draw(step, absent=[1])
                        rows[f"seed {seed}, {name}, {permutation}, step {step}, without 1"] = [
                            len(draw.positions),
                            draw.digest,
                        ]
    check_against_golden("draws", rows)


@pytest.mark.parametrize(
    ("found", "says"),
    [
        ({"a": [1, 2], "b": [3]}, None),
        ({"a": [1, 5], "b": [4]}, "a, place 1: 5, the file has 2"),
        ({"a": [1, 2], "b": [3, 4]}, "b, place 1: 4, the file has None"),
        ({"a": [1, 2], "c": [3]}, "'c' where the file has 'b'"),
        ({"a": [1, 2]}, "None where the file has 'b'"),
    ],
)
def test_the_first_difference_from_a_golden_file_is_named(found, says):
    assert first_difference(found, {"a": [1, 2], "b": [3]}) == says
