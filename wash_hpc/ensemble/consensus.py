"""How far members are from their mean (the consensus)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from wash_hpc.ensemble.flat import Layer


def consensus_distance_per_layer(
    values: Tensor, layers: list[Layer], mean_over_members: Callable[[Tensor], Tensor]
) -> Tensor:
    """Root mean square distance of the members to their mean, layer by layer; a shuffle leaves it unchanged.

    Members whose values are not all finite are left out; without any other it is NaN.

    Args:
        values: [P] this member's parameters, left as they are.
        layers: parts of the vector, in order and without gaps.
        mean_over_members: replaces a tensor by its mean over the members; called three times.

    Returns:
        [L] float64, equal on all members. The distance of the whole vector is the root of the sum of their squares.
    """
    healthy = torch.isfinite(values).all()
    share = mean_over_members(healthy.double().reshape(1))  # 1.0 unless a member is left out
    counted = values.detach() if healthy else torch.zeros_like(values)
    consensus = mean_over_members(counted.clone()).div_(share.to(values.dtype))
    squares = (counted - consensus).double().square_() * healthy
    per_layer = torch.stack([part.sum() for part in torch.split(squares, [layer.size for layer in layers])])
    return mean_over_members(per_layer).div_(share).sqrt_()
