"""Golden files: what ten exchanges of a tiny model, and the draws of some runs, came to when they were last looked at.

A change of these is a change of what every run does. They are rewritten only on request: WASH_REWRITE_GOLDEN=1.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

import torch

from wash_hpc.shuffle.draw import Drawer, Permutation
from wash_hpc.shuffle.probability import Schedule, layer_probabilities
from wash_hpc.shuffle.topology import Topology

FOLDER = Path(__file__).parent / "golden"
LAYERS = [8, 4, 8, 2]  # weight and bias of four units, weight and bias of two
SIZE = sum(LAYERS)
NUM_STEPS = 10
Rows = dict[str, list[int]]


@dataclass(frozen=True)
class Case:
    """Ten exchanges of a tiny model at p = 0.4."""

    name: str
    num_members: int
    topology: Topology = field(default_factory=lambda: Topology(3))
    schedule: Schedule = "constant"
    permutation: Permutation = "uniform"
    absent_from: int = NUM_STEPS + 1  # member 1 takes no part from this step on

    def drawer(self) -> Drawer:
        return Drawer(7, self.topology, LAYERS, layer_probabilities(self.schedule, 0.4, len(LAYERS)), self.permutation)

    def absent(self, step: int) -> list[int]:
        return [1] if step >= self.absent_from else []


NODE = Topology(4, "node", nodes=(0, 0, 1, 1), node_ratio=3)
CASES = [
    Case("decreasing", 3, schedule="decreasing"),
    Case("constant", 3),
    Case("increasing", 3, schedule="increasing"),
    Case("cyclic", 3, permutation="cyclic"),
    Case("ring_of_three", 3, Topology(3, "ring")),
    Case("ring", 4, Topology(4, "ring")),
    Case("node", 4, NODE),
    Case("member_1_leaves_at_step_6", 4, Topology(4), absent_from=6),
]


def initial_values(num_members: int) -> torch.Tensor:
    """[M, P + 1] float32: 203 is what member 2 has at position 3; the last is the spare element, zero."""
    values = 100 * torch.arange(num_members)[:, None] + torch.arange(SIZE + 1)
    values[:, SIZE] = 0
    return values.float()


def row_name(step: int, member: int) -> str:
    return f"step {step:2}, member {member}"


def check_against_golden(name: str, found: Rows) -> None:
    """Compare with a golden file, or, on request, write it."""
    file = FOLDER / f"{name}.json"
    if os.environ.get("WASH_REWRITE_GOLDEN"):
        lines = [f"  {json.dumps(key)}: {json.dumps(row)}" for key, row in found.items()]
        file.write_text("{\n" + ",\n".join(lines) + "\n}\n")
        return
    difference = first_difference(found, json.loads(file.read_text()))
    assert difference is None, f"{file}: {difference}; if that is meant, see CONTRIBUTING.md, 'Golden files'"


def first_difference(found: Rows, golden: Rows) -> str | None:
    """Where two files differ first, in words."""
    for key, other in zip_longest(found, golden):
        if key != other:
            return f"{key!r} where the file has {other!r}"
        for place, (value, expected) in enumerate(zip_longest(found[key], golden[key])):
            if value != expected:
                return f"{key}, place {place}: {value}, the file has {expected}"
    return None
