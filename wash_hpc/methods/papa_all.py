"""PAPA-all (arXiv 2304.03094): at the end of every few epochs all members become their mean, which is REPAIRed."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from wash_hpc.data.source import Shard
from wash_hpc.ensemble.flat import set_statistics
from wash_hpc.ensemble.repair import Channels, measure_channels, repair
from wash_hpc.methods import Method
from wash_hpc.methods.averaging import statistics_of_member
from wash_hpc.parallel.reducer import Scope


class PapaAll(Method):
    """At the end of every `method.every`-th epoch (5, for ImageNet 1), never the last, all members <- mean.

    With `method.repair` the mean's channels then get the mean and spread that they have in the members (REPAIR,
    arXiv 2211.08403), measured on training images; where batch normalisation follows, statistics are measured anew. The
    optimizer's state is left alone.

    Cost: 2 (N-1)/N (d + s + 3 c) scalars a member each time, for d parameters, s numbers of statistics and, with
    REPAIR, three numbers of each of c channels; papers count d. Sums over images for REPAIR are not counted.
    """

    def after_step(self, step: int) -> None:
        """See `Method.after_step`; means over the member and over members when due, with REPAIR sums over the world."""
        if not self.is_due(step):
            return
        model = self.context.model
        own = statistics_of_member(self.context)
        mean, statistics = self.mean_over_members(self.flat.values), self.mean_over_members(own)
        set_statistics(model, own)  # with which the member's channels are measured
        goal = self._mean_of_channels() if self.config.repair else None
        self.flat.values.copy_(mean)
        set_statistics(model, statistics)
        if goal is not None:
            layout = self.context.world.layout
            everyone = Shard(layout.rank, layout.size)
            repair(model, goal, lambda: self._images(everyone), lambda sums: self._sum(sums, Scope.WORLD))
        model.train()

    def _mean_of_channels(self) -> Channels:
        """What the members' channels are like, in the mean: each member's on the images of its own ranks."""
        layout = self.context.world.layout
        images = self._images(Shard(layout.replica, layout.num_replicas))
        own = measure_channels(self.context.model, images, lambda sums: self._sum(sums, Scope.MEMBER))
        # NaN where batch normalisation follows, the network does not call a layer, or a member's activations overflow:
        # such a channel stays as it is in the mean. All members must send vectors of one length, so which those are is
        # averaged, too.
        is_usable = torch.isfinite(own.mean) & torch.isfinite(own.std)
        parts = [torch.where(is_usable, own.mean, 0.0), torch.where(is_usable, own.std, 0.0), is_usable.double()]
        mean, std, share = self.mean_over_members(torch.cat(parts).float()).double().chunk(3)
        return Channels(torch.where(share == 1, mean, torch.nan), torch.where(share == 1, std, torch.nan))

    def _images(self, shard: Shard) -> Iterator[Tensor]:
        evaluate = self.context.config.evaluate
        for batch in self.context.source.statistics(evaluate.statistics_images, shard, evaluate.batch_size):
            yield batch.images

    def _sum(self, sums: Tensor, scope: Scope) -> Tensor:
        return self.context.reducer.sum_(sums, scope)
