"""What a draw and its plan cost in seconds: measured here, and with other settings. No communication.

The cost grows with members x positions picked, and for groups of more than eight members, whose permutations fit into
no table, with a larger factor (`shuffle.draw`).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from math import ceil

from wash_hpc.shuffle.draw import Drawer, Permutation
from wash_hpc.shuffle.plan import make_plan
from wash_hpc.shuffle.topology import Topology

_SLOW = 0.050  # seconds
_BUDGET = 2_000_000  # elements of [M, K] that are drawn to measure; what is larger is extrapolated
_BYTES_OF_SOURCE = 2
_BYTES_OF_POSITION = 8


@dataclass(frozen=True)
class DrawCost:
    """Seconds of one core for the draw and one member's plan of one exchange, of the kind that takes longest.

    Attributes:
        seconds: of it.
        measured: in full; else two smaller draws were measured and extrapolated.
    """

    seconds: float = 0.0
    measured: bool = True

    @property
    def is_slow(self) -> bool:
        """Whether it takes so long that something should be done about it."""
        return self.seconds > _SLOW


def measure_draw(drawer: Drawer, num_rows: int = 1, budget: int = _BUDGET) -> DrawCost:
    """Measure the draw and one member's plan; or two smaller ones, going on along the line through them.

    Args:
        drawer: of the run.
        num_rows: 1, or more where optimizer state moves too.
        budget: elements of a draw's [M, K] that may be drawn for this.
    """
    if drawer.expected_picked == 0 or drawer.num_members == 1:
        return DrawCost()
    _measure(drawer, min(1.0, 16 / drawer.expected_picked), num_rows)  # makes the tables of permutations
    size = drawer.expected_picked * drawer.num_members
    if size <= budget:
        return DrawCost(_measure(drawer, 1.0, num_rows), True)
    part = budget / size
    quarter, whole = (_measure(drawer, share, num_rows) for share in (part / 4, part))
    return DrawCost(whole + max(whole - quarter, 0.0) * (1 / part - 1) / 0.75, False)


def measure_alternatives(drawer: Drawer, num_rows: int = 1) -> dict[str, DrawCost]:
    """What draw and plan would cost with settings that may make them cheaper, by the setting."""
    topology = drawer.topology
    costs = {}
    if drawer.permutation != "cyclic":
        rotating = scale_drawer(drawer, drawer.expected_picked, topology, "cyclic")
        costs["method.permutation=cyclic"] = measure_draw(rotating, num_rows)
    if topology.kind != "ring":
        ring = Topology(topology.num_members, "ring", topology.every)
        costs["method.topology=ring"] = measure_draw(scale_drawer(drawer, drawer.expected_picked, ring), num_rows)
    return costs


def bytes_of_draw(drawer: Drawer, values: float) -> float:
    """Memory of a draw and of the plan of a member that sends so many values: two arrays of positions, each twice."""
    picked = drawer.expected_picked
    return picked * (drawer.num_members * _BYTES_OF_SOURCE + _BYTES_OF_POSITION) + 4 * values * _BYTES_OF_POSITION


def scale_drawer(
    drawer: Drawer, picked: float, topology: Topology | None = None, permutation: Permutation | None = None
) -> Drawer:
    """A drawer of the same layers and schedule that picks so many positions in the mean.

    Where the model is too small for it, of one as many times as large in every layer.
    """
    factor = picked / drawer.expected_picked
    times = max(1, ceil(float(drawer.probabilities.max()) * factor * (1 - 1e-12)))
    return Drawer(
        drawer.seed,
        drawer.topology if topology is None else topology,
        (drawer.layer_sizes * times).tolist(),
        drawer.probabilities * (factor / times),
        drawer.permutation if permutation is None else permutation,
    )


def _measure(drawer: Drawer, share: float, num_rows: int) -> float:
    """Seconds with so large a share of the picked positions, the better of two.

    Of the first exchange of a period: with nodes, that is the one in which all members meet, and the most expensive.
    """
    smaller = scale_drawer(drawer, drawer.expected_picked * share)
    row_size = int(drawer.layer_sizes.sum())
    seconds = []
    for _ in range(2):
        begin = time.perf_counter()
        make_plan(smaller.draw(0), 0, num_rows, row_size)
        seconds.append(time.perf_counter() - begin)
    return min(seconds)
