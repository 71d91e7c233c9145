"""Topology: which members may take each other's values at a step. Pure, and the same on every rank.

At every step the members are parted into groups, and permutations stay inside a group. So every law of the shuffle
holds in each topology; what differs is who ever meets whom, and how many messages a member sends.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

TopologyKind = Literal["global", "node", "ring"]
Members = NDArray[np.int64]


@dataclass(frozen=True)
class Topology:
    """A rule that parts the members into groups.

    `global`: all members are one group. `node`: the members of a node are a group, and in every `node_ratio`-th
    exchange all members are. `ring`: neighbours exchange in pairs, 0-1 2-3 ... at one exchange and 1-2 3-4 ... at the
    next, the last member being a neighbour of the first; of an odd number of members another one rests each time.

    Attributes:
        num_members: M >= 1.
        kind: which rule.
        every: steps from one exchange to the next.
        nodes: [M] for `node`, the node of each member, as any number.
        node_ratio: for `node`, exchanges from one between all members to the next.
    """

    num_members: int
    kind: TopologyKind = "global"
    every: int = 1
    nodes: tuple[int, ...] = ()
    node_ratio: int = 1

    def groups(self, step: int, absent: Collection[int] = ()) -> list[Members]:
        """The groups of the exchange after a step, each of two members or more, its members in ascending order.

        Args:
            step: number of the update, from 1.
            absent: members that take no part.
        """
        parts = self._parts(step // self.every)
        if absent:
            parts = [part[~np.isin(part, list(absent))] for part in parts]
        return [part for part in parts if len(part) > 1]

    def _parts(self, exchange: int) -> list[Members]:
        members = np.arange(self.num_members)
        if self.kind == "node" and exchange % self.node_ratio != 0:
            return [members[np.equal(self.nodes, node)] for node in dict.fromkeys(self.nodes)]
        if self.kind == "ring" and self.num_members > 2:
            around = np.roll(members, -(exchange % self.num_members))
            return list(np.sort(around[: self.num_members // 2 * 2].reshape(-1, 2), axis=1))
        return [members]

    @property
    def period(self) -> int:
        """Exchanges after which the groups come again."""
        return {"global": 1, "node": self.node_ratio, "ring": self.num_members}[self.kind]

    def different_exchanges(self) -> list[tuple[int, int]]:
        """Exchanges that stand for all of a period: the step of one of each kind, and how many there are of it.

        All exchanges of a ring are rotations of one, so that one of them stands for the period of M.
        """
        if self.kind == "node" and self.node_ratio > 1:
            return [(0, 1), (self.every, self.node_ratio - 1)]
        return [(0, 1)]

    def moved_share(self, step: int, cyclic: bool) -> NDArray[np.float64]:
        """[M] the mean share of the picked values that each member sends in the exchange after a step.

        A uniform permutation of g members leaves 1/g of the values where they are, a rotation none.
        """
        share = np.zeros(self.num_members)
        for group in self.groups(step):
            share[group] = 1.0 if cyclic else (len(group) - 1) / len(group)
        return share

    def num_messages(self, step: int) -> NDArray[np.int64]:
        """[M] messages that each member sends in the exchange after a step."""
        messages = np.zeros(self.num_members, dtype=np.int64)
        for group in self.groups(step):
            messages[group] = len(group) - 1
        return messages
