"""Local SGD (arXiv 1805.09767): members train alone for some steps, then all become their mean."""

from __future__ import annotations

from wash_hpc.methods import Method


class LocalSGD(Method):
    """Every H steps theta_n <- mean. Statistics and the optimizer's state are left alone.

    Cost: 2 (N-1)/N d / H scalars a member and step for d parameters and H = `method.every`, by default 100.
    """

    def after_step(self, step: int) -> None:
        """See `Method.after_step`; one mean over members when it is due."""
        if self.is_due(step):
            mean = self.mean_over_members(self.flat.values)
            self.flat.values.copy_(mean)
