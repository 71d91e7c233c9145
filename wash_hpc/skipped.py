"""Which image files the ranks of a run have left out (`data.on_bad_file=skip`): counted for the log, and said once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from wash_hpc.config import Config
from wash_hpc.data.source import Source
from wash_hpc.parallel.world import World


class SkippedFiles:
    """Asks all ranks what their sources left out in this start; with `stop`, where nothing is, it need not ask.

    Args:
        config: of the run.
        source: this rank's images.
        world: the ranks.
        say: tells the user a sentence.
    """

    def __init__(self, config: Config, source: Source, world: World, say: Callable[[str], None]) -> None:
        self._asks = config.data.on_bad_file == "skip"
        self._source = source
        self._world = world
        self._say = say
        self._said = False

    def by_member(self) -> NDArray[np.int64]:
        """[M] files left out by the ranks of each member, each counted once a rank. Collective over the world."""
        counts = np.zeros(self._world.layout.num_members, dtype=np.int64)
        for member, names in self._all_names():
            counts[member] += len(names)
        return counts

    def total(self) -> int:
        """Different files left out by any rank. Collective over the world."""
        return len({name for _, names in self._all_names() for name in names})

    def _all_names(self) -> list[tuple[int, list[str]]]:
        if not self._asks:
            return []
        mine = (self._world.layout.member, list(self._source.skipped_files))
        everyone: list[tuple[int, list[str]]] = self._world.comm.allgather(mine)
        first = next((name for _, names in everyone for name in names), None)
        if first is not None and not self._said:
            self._said = True
            self._say(f"{first} cannot be read or decoded; such files are left out (data.on_bad_file=skip)")
        return everyone
