"""One model on all ranks, its batch shared out: what an ensemble of as many ranks is to be compared with.

`data.batch_size` is that of the one model: N times a member's, for as many samples seen.
"""

from __future__ import annotations

from wash_hpc.methods import Context, Method
from wash_hpc.methods.averaging import num_sent


class DataParallel(Method):
    """The gradients' mean over the ranks, which `Member.step` takes, is all there is.

    Cost: 2 (W-1)/W d scalars a rank and step, a ring allreduce of the gradients of d parameters over W ranks.
    """

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        layout = context.world.layout
        # The one member's ranks are counted together elsewhere; here one of them stands for a member of an ensemble.
        self._num_sent = num_sent(self.flat.values.numel(), layout.size) if layout.replica == 0 else 0

    def after_step(self, step: int) -> None:
        """See `Method.after_step`; no communication."""
        self.count_sent(self._num_sent, self.flat.values.element_size())
