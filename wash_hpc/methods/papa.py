"""PAPA (arXiv 2304.03094): now and then each member is pulled a little towards the mean of all."""

from __future__ import annotations

from wash_hpc.ensemble.flat import set_statistics
from wash_hpc.methods import Method
from wash_hpc.methods.averaging import pull, statistics_of_member
from wash_hpc.optimizer import relative_learning_rate


class Papa(Method):
    """Every T steps theta_n <- a theta_n + (1 - a) mean, with 1 - a = (1 - `method.alpha`) lr_t / lr_0.

    Acts on parameters and statistics; the optimizer's state is left alone.

    Cost: 2 (N-1)/N (d + s) / T scalars a member and step for d parameters, s numbers of statistics and
    T = `method.every`, by default 10; papers count d / T.
    """

    def after_step(self, step: int) -> None:
        """See `Method.after_step`; a mean over the member and two over members when it is due."""
        if not self.is_due(step):
            return
        model = self.context.model
        # By the rate of the step to come: the paper's code averages after the schedule's step.
        relative = relative_learning_rate(self.context.config.optimizer, step, self.context.num_steps)
        share = (1 - self.config.alpha) * relative
        statistics = statistics_of_member(self.context)
        mean, mean_statistics = self.mean_over_members(self.flat.values), self.mean_over_members(statistics)
        pull(self.flat.values, mean, share)
        pull(statistics, mean_statistics, share)
        set_statistics(model, statistics)
