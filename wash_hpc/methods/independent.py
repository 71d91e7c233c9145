"""No coupling: M members that know nothing of each other. Their ensemble is the ceiling, their soup fails."""

from __future__ import annotations

from wash_hpc.config import Config
from wash_hpc.ensemble.flat import Flat
from wash_hpc.parallel.world import World


class Independent:
    """Sends nothing. Cost: 0."""

    def __init__(self, config: Config, flat: Flat, world: World) -> None:
        self.values_moved = 0
        self.bytes_sent = 0

    def after_step(self, step: int) -> None:
        """See `Method.after_step`; no communication."""

    def close(self) -> None:
        """Nothing to end."""
