"""What a step's time goes into, and when the loader is what holds a run up. Owns no clock; sends nothing."""

from __future__ import annotations

from wash_hpc.clock import Stopwatch
from wash_hpc.config import DataConfig
from wash_hpc.storage.records import TrainRecord

PARTS = ("data", "compute", "reduce", "exchange")
"""Of a training step: waiting for images; forward, backward and update; waiting for the mean of the gradients over a
member's replicas; what members do to each other."""

MOST_WAITING = 0.05  # of a step, for images, before it is said
FEWEST_STEPS = 20  # that say something


class Rates:
    """Seconds of one rank's steps.

    Args:
        clock: the loop's; seconds by the names of `PARTS`.
        data: named in the advice.

    Attributes:
        seconds: by part, of all that was read so far.
    """

    def __init__(self, clock: Stopwatch, data: DataConfig) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._clock = clock
        self._data = data
        self._num_steps = 0
        self._waited = self._passed = 0.0
        self._is_first = True
        self._said_waiting = False

    def read(self) -> dict[str, float]:
        """Seconds by part since the last reading. Waits for the device."""
        read = self._clock.read()
        seconds = {part: read.get(part, 0.0) for part in PARTS}
        self.seconds = {part: self.seconds[part] + seconds[part] for part in PARTS}
        return seconds

    def warn(self, record: TrainRecord, num_steps: int) -> str | None:
        """What to say, once, when waiting for images passes 5 % of the time; the first record is not counted.

        Args:
            record: equal on all ranks.
            num_steps: since the record before.
        """
        if self._is_first:  # the loader has started in it, and kernels were chosen
            self._is_first = False
            return None
        by_member = record.data_seconds + record.compute_seconds + record.reduce_seconds + record.exchange_seconds
        self._waited += float(record.data_seconds.mean()) * num_steps
        self._passed += float(by_member.mean()) * num_steps
        self._num_steps += num_steps
        share = self._waited / self._passed
        if self._said_waiting or self._num_steps < FEWEST_STEPS or share <= MOST_WAITING:
            return None
        self._said_waiting = True
        advice = waiting_advice(self._data.name, self._data.workers)
        return f"step {record.step}: {share:.0%} of the time is spent waiting for batches; {advice}"


def waiting_advice(data_name: str, workers: object) -> str:
    """What helps where steps wait for their batches, in words that follow a semicolon.

    Args:
        data_name: `data.name`.
        workers: `data.workers`, as it is shown.
    """
    if data_name not in {"image_folder", "shards"}:
        return f"data.name={data_name} makes them in the training process itself: a larger model hides it"
    return (
        f"try more data.workers (now {workers}; cores permitting), files shrunk beforehand, or a "
        "faster file system (docs/clusters.md)"
    )
