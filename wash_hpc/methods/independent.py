"""No coupling: M members that know nothing of each other. Their ensemble is the ceiling, their soup fails."""

from __future__ import annotations

from wash_hpc.config import Config
from wash_hpc.ensemble.flat import Flat
from wash_hpc.methods import Method
from wash_hpc.parallel.world import World


class Independent(Method):
    """Sends nothing. Cost: 0."""

    def __init__(self, config: Config, flat: Flat, world: World) -> None:
        """Need nothing of what every method is given."""

    def after_step(self, step: int) -> None:
        """See `Method.after_step`; no communication."""
