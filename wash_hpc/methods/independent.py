"""No coupling: M members that know nothing of each other. Their ensemble is the ceiling, their soup fails."""

from __future__ import annotations

from wash_hpc.methods import Method


class Independent(Method):
    """Sends nothing. Cost: 0."""

    def after_step(self, step: int) -> None:
        """See `Method.after_step`; no communication."""
