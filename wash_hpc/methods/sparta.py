"""SPARTA (sparse parameter averaging): after a step, a small random share of the positions becomes the members' mean.

Like a draw of WASH, the positions are a function of seed, step and the method's place in the run: nothing but the
values is sent, in one reduction.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from wash_hpc.methods import Context, Method
from wash_hpc.methods.drawing import p_factor, why_hardly_any
from wash_hpc.shuffle.ahead import Ahead
from wash_hpc.shuffle.draw import Drawer
from wash_hpc.shuffle.partition import Partition


class Sparta(Method):
    """theta_n[k] <- mean[k] at the positions k of a step; the optimizer's state is left alone.

    `method.draw=random` picks each position with probability p, by `method.p_schedule`; `partitioned` takes each once
    in 1/p exchanges.

    Cost: 2 (N-1)/N p d scalars a member and step for d parameters.
    """

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        seed, number, size = context.config.run.seed, context.number, self.flat.values.numel()
        num_members, p = context.world.layout.num_members, self.config.known_p
        self._drawer = Drawer(seed, num_members, [size], np.array([p]), number=number)
        self._partition = Partition(seed, size, p, number) if self.config.draw == "partitioned" else None
        self._ahead = Ahead(self._pick)

    def after_step(self, step: int) -> None:
        """See `Method.after_step`; one mean over members when it is due."""
        if not self.is_due(step):
            return
        positions = torch.from_numpy(self._ahead.take(step)).to(self.flat.values.device)
        if len(positions) > 0:  # equal on all ranks
            mean = self.mean_over_members(self.flat.values.index_select(0, positions))
            self.flat.values.index_copy_(0, positions, mean)
        if self.is_due(step + self.config.every):
            self._ahead.start(step + self.config.every)

    def why_idle(self, num_steps: int) -> str:
        """See `Method.why_idle`."""
        if self.config.p == 0 or self.context.world.layout.num_members == 1:
            return ""
        never = super().why_idle(num_steps)
        if never or self._partition is not None:
            return never
        return why_hardly_any(self.context.config, self._drawer, num_steps)

    def finish(self) -> None:
        """See `Method.finish`."""
        self._ahead.close()

    def _pick(self, step: int) -> NDArray[np.int64]:
        if self._partition is not None:
            return self._partition.pick((step - self.config.start) // self.config.every - 1)
        return self._drawer.scaled(p_factor(self.context.config, step, self.context.num_steps)).pick(step)
