"""The slow oracle: the same draw, plan and shuffle, written as the paper says them, one number at a time.

Everything fast in this project has to agree with this file bit for bit. It is for tests and for reading.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import permutations

import numpy as np
from torch import Tensor

from wash_hpc.seeds import Stream, generator
from wash_hpc.shuffle.draw import Draw, Drawer, Permutation
from wash_hpc.shuffle.partition import MULTIPLIER, Partition
from wash_hpc.shuffle.plan import Plan


def draw_slowly(drawer: Drawer, step: int, absent: Collection[int] = ()) -> Draw:
    """The draw of a step, walking over every parameter of every layer.

    Walks the clock of the Poisson process parameter by parameter and picks those in whose interval a point falls; then
    takes a permutation of each group for each picked position.
    """
    random = generator(drawer.seed, Stream.SHUFFLE, step, 0, drawer.number)
    point = float(random.standard_exponential())
    positions = []
    for layer, size in enumerate(drawer.layer_sizes):
        for position in range(drawer.layer_starts[layer], drawer.layer_starts[layer] + size):
            hit = bool(drawer.probabilities[layer] >= 1.0)
            while drawer.intensities[layer] > 0 and _position_of(point, drawer, layer) == position:
                hit = True
                point += float(random.standard_exponential())
            if hit:
                positions.append(position)
    groups = drawer.topology.groups(step, absent)
    random = generator(drawer.seed, Stream.SHUFFLE, step, 1, drawer.number)
    source = np.array([[member] * len(positions) for member in range(drawer.num_members)], dtype=np.uint16)
    for group in groups:
        columns = _permutations_slowly(len(group), len(positions), drawer.permutation, random)
        for k, column in enumerate(columns):
            for place, other in enumerate(column):
                source[group[place], k] = group[other]
    return Draw(np.array(positions, dtype=np.int64), source, groups)


def _position_of(point: float, drawer: Drawer, layer: int) -> int:
    """In which parameter's interval of a layer a point falls; -1 for none."""
    if point >= drawer.layer_ends[layer]:
        return -1
    first = int(drawer.layer_starts[layer])
    position = int(point * drawer.scales[layer] + drawer.shifts[layer])
    return min(max(position, first), first + int(drawer.layer_sizes[layer]) - 1)


def _permutations_slowly(size: int, num: int, kind: Permutation, random: np.random.Generator) -> list[list[int]]:
    """So many permutations of `size` places: rotations, entries of the list of all, or by Fisher and Yates."""
    if kind == "cyclic":
        shifts = random.integers(1, size, size=num, dtype=np.uint16)
        return [[(place + int(shift)) % size for place in range(size)] for shift in shifts]
    if size <= 8:
        everything = list(permutations(range(size)))
        return [list(everything[which]) for which in random.integers(len(everything), size=num, dtype=np.int64)]
    columns = [list(range(size)) for _ in range(num)]
    for last in range(size - 1, 0, -1):
        for column, other in zip(columns, random.integers(last + 1, size=num, dtype=np.uint16), strict=True):
            column[last], column[other] = column[other], column[last]
    return columns


def partition_slowly(partition: Partition, number: int) -> list[int]:
    """The positions of an exchange: each place of its part, one after the other, through the Feistel network."""
    turn, part = divmod(number, partition.num_parts)
    keys = [int(key) for key in partition.keys(turn)]
    ends = [partition.size * end // partition.num_parts for end in (part, part + 1)]
    return sorted(_walk(partition, place, keys) for place in range(*ends))


def _walk(partition: Partition, place: int, keys: list[int]) -> int:
    """Where a place goes: through the network until it is a position again."""
    half, multiplier = 2**partition.half_bits, int(MULTIPLIER)
    while True:
        left, right = divmod(place, half)
        for key in keys:
            mixed = (right + key) % 2**64 * multiplier % 2**64
            mixed = (mixed ^ mixed // 2**32) * multiplier % 2**64
            left, right = right, left ^ mixed // 2**40 % half
        place = left * half + right
        if place < partition.size:
            return place


def shuffle_members(values: Tensor, draw: Draw) -> Tensor:
    """All members' values after the shuffle: `new[n, pos_k] = old[source[n, k], pos_k]`.

    Args:
        values: [M, P], one row a member, left as it is.
        draw: the draw of this step.

    Returns:
        [M, P], the same dtype.
    """
    shuffled = values.clone()
    for k, position in enumerate(draw.positions):
        for member in range(len(values)):
            shuffled[member, position] = values[int(draw.source[member, k]), position]
    return shuffled


def plan_slowly(draw: Draw, member: int) -> Plan:
    """One member's plan over a single row, one value at a time."""
    num_members = len(draw.source)
    sent: list[list[int]] = [[] for _ in range(num_members)]
    received: list[list[int]] = [[] for _ in range(num_members)]
    for k, position in enumerate(draw.positions):
        source = int(draw.source[member, k])
        if source == member:
            continue
        received[source].append(int(position))
        destination = [int(s) for s in draw.source[:, k]].index(member)
        sent[destination].append(int(position))
    return Plan(
        send_positions=np.array([p for part in sent for p in part], dtype=np.int64),
        recv_positions=np.array([p for part in received for p in part], dtype=np.int64),
        send_counts=np.array([len(part) for part in sent], dtype=np.int64),
        recv_counts=np.array([len(part) for part in received], dtype=np.int64),
        peers=[other for group in draw.groups if member in group for other in group.tolist() if other != member],
    )
