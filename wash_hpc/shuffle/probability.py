"""Layer schedules: how likely a parameter of each layer is to be shuffled (WASH, arXiv 2405.17517, section 3)."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Schedule = Literal["decreasing", "constant", "increasing"]


def layer_probabilities(schedule: Schedule, p: float, num_layers: int) -> NDArray[np.float64]:
    """The probability p_l of every layer, from the first to the last.

    `decreasing` is p (1 - l / (L - 1)): p in the first layer, 0 in the last; `increasing` is its mirror image. With a
    single layer all three are p.

    Args:
        schedule: how the base probability changes with depth.
        p: base probability, in [0, 1].
        num_layers: L >= 1.

    Returns:
        [L] float64 in [0, p].
    """
    depth = np.arange(num_layers) / max(num_layers - 1, 1)
    if schedule == "constant" or num_layers == 1:
        return np.full(num_layers, p)
    return p * (1.0 - depth) if schedule == "decreasing" else p * depth
