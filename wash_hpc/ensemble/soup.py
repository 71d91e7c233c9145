"""Soups: several members' weights averaged into one network (model soups, arXiv 2203.05482)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Weights:
    """All that makes one member, or one soup, predict as it does.

    Attributes:
        values: [P] the trainable parameters.
        statistics: [S] float32, the untrained state.
    """

    values: Tensor
    statistics: Tensor

    @property
    def are_finite(self) -> bool:
        """Whether all are finite. Waits for the device."""
        return all(bool(torch.isfinite(tensor).all()) for tensor in (self.values, self.statistics))


@dataclass(frozen=True)
class RunningSoup:
    """A soup to which members are added one by one, so that only one needs to be in memory; summed in float64.

    Attributes:
        num_members: how many are in it.
        sums: their sum, float64, or None while it is empty.
        dtype: the members' own dtype.
    """

    num_members: int = 0
    sums: Weights | None = None
    dtype: torch.dtype = torch.float32

    def with_one_more(self, weights: Weights) -> RunningSoup:
        """The soup with another member in it; this one is left as it is."""
        values, statistics = weights.values.double(), weights.statistics.double()
        if self.sums is not None:
            values, statistics = self.sums.values + values, self.sums.statistics + statistics
        return RunningSoup(self.num_members + 1, Weights(values, statistics), weights.values.dtype)

    def weights(self) -> Weights:
        """The mean of the members in the soup."""
        if self.sums is None:
            raise ValueError("an empty soup has no weights")
        values, statistics = self.sums.values / self.num_members, self.sums.statistics / self.num_members
        return Weights(values.to(self.dtype), statistics.float())


def greedy_soup(
    order: Sequence[int], fetch: Callable[[int], Weights], score: Callable[[Weights], float]
) -> tuple[list[int], Weights]:
    """Add members one by one, best first, and keep each only if the soup gets strictly better (arXiv 2203.05482, 2).

    Args:
        order: members, the most accurate on held-out data first.
        fetch: gives one member's weights; called once each, in order.
        score: accuracy on held-out data, never on test data.

    Returns:
        The members in the soup, and its weights.
    """
    chosen = [order[0]]
    soup = RunningSoup().with_one_more(fetch(order[0]))
    best = score(soup.weights())
    for member in order[1:]:
        candidate = soup.with_one_more(fetch(member))
        candidate_score = score(candidate.weights())
        if candidate_score > best:
            soup, best = candidate, candidate_score
            chosen.append(member)
    return chosen, soup.weights()
