"""DiLoCo (arXiv 2311.08105): local steps, and an outer optimizer that steps along the mean of what they changed."""

from __future__ import annotations

import torch
from torch import Tensor

from wash_hpc.methods import Context, Method
from wash_hpc.methods.due import is_due
from wash_hpc.storage.checkpoint import CheckpointError


class DiLoCo(Method):
    """Every H steps the change since the last time, averaged over members, is the gradient of outer Nesterov SGD.

    The anchor is what all members were, the first time the mean of their weights: members that start from one
    initialisation are it. Statistics and the members' own optimizers' state are left alone.

    Cost: 2 (N-1)/N d / H scalars a member and step for d parameters and H = `method.every`, by default 100; and as much
    as one time more, for the first anchor.
    """

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._anchor: Tensor | None = None
        self._momentum = torch.zeros_like(self.flat.values)
        if self.config.start == 0:
            self._anchor = self.mean_over_members(self.flat.values)

    def after_step(self, step: int) -> None:
        """See `Method.after_step`; one mean over members when it is due."""
        if step == self.config.start:
            self._anchor = self.mean_over_members(self.flat.values)
        if not is_due(self.config, step):  # a single member steps outside, too
            return
        assert self._anchor is not None
        outer = self.config
        gradient = self._anchor - self.mean_over_members(self.flat.values)
        self._momentum.mul_(outer.outer_momentum).add_(gradient)
        self._anchor.sub_(gradient.add_(self._momentum, alpha=outer.outer_momentum), alpha=outer.outer_lr)
        self.flat.values.copy_(self._anchor)

    def state(self) -> dict[str, Tensor]:
        """See `Method.state`: the anchor and the outer momentum."""
        return {} if self._anchor is None else {"anchor": self._anchor, "outer_momentum": self._momentum}

    def load_state(self, state: dict[str, Tensor], step: int) -> None:
        """See `Method.load_state`."""
        if step < self.config.start:
            return
        if "anchor" not in state:
            raise CheckpointError("method.name=diloco: the checkpoint holds no anchor; it is of another method")
        self._anchor = state["anchor"].to(self.flat.values.device)
        self._momentum.copy_(state["outer_momentum"])
        self.values_moved = self.bytes_sent = 0  # the first anchor's were counted before the checkpoint
