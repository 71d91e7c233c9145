"""What an exchange costs in seconds, as a model with few constants, and their fit to timings. Pure; nothing is sent.

    seconds = (overhead + messages x latency + bytes / bandwidth) x ranks a core

Overhead is what a call costs without any message: a dozen calls of Python, torch and MPI. It is told apart from the
latency because it is paid once, however many members there are. Ranks that share a core take turns, so each of the
three takes as many times as long as there are ranks a core.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wash_hpc.errors import WashError


@dataclass(frozen=True)
class Link:
    """One rank's way to the others.

    Attributes:
        latency: seconds of a message.
        bandwidth: bytes per second that a rank sends and receives, gathering and scattering the values included.
        overhead: seconds of an exchange without messages.
        cores: that all ranks share; None: each rank has a core of its own.
    """

    latency: float
    bandwidth: float
    overhead: float = 0.0
    cores: int | None = None

    def ranks_per_core(self, num_ranks: int) -> float:
        """How many ranks take turns on a core; 1 where each has its own."""
        return 1.0 if self.cores is None else max(1.0, num_ranks / self.cores)

    def seconds(self, messages: float, num_bytes: float, num_ranks: int) -> float:
        """Of one exchange in which a rank sends so many messages and bytes, flags included."""
        alone = self.overhead + messages * self.latency + num_bytes / self.bandwidth
        return alone * self.ranks_per_core(num_ranks)


@dataclass(frozen=True)
class Timing:
    """Exchanges of one kind, measured.

    Attributes:
        messages: that a rank sends in one.
        num_bytes: that a rank sends in one, flags included; a mean.
        seconds: of one on the slowest rank; the median over rounds.
    """

    messages: int
    num_bytes: float
    seconds: float


def fit_link(timings: Sequence[Timing], num_ranks: int, overhead: float = 0.0, cores: int | None = None) -> Link:
    """The latency and the bandwidth with which the model is nearest to the timings: least squares of relative errors.

    Args:
        timings: of at least two different ratios of bytes to messages.
        num_ranks: on which they were measured.
        overhead: measured by itself, and not fitted.
        cores: as in `Link`.

    Raises:
        WashError: no positive constants explain the timings.
    """
    share = Link(0.0, 1.0, 0.0, cores).ranks_per_core(num_ranks)
    seconds = np.array([timing.seconds for timing in timings])
    # Each equation divided by what was measured: 10 % of 50 us weigh as much as 10 % of 50 ms.
    costs = np.array([[timing.messages, timing.num_bytes] for timing in timings]) * share / seconds[:, None]
    scale = costs.max(axis=0)
    (latency, per_byte), _, rank, _ = np.linalg.lstsq(costs / scale, 1.0 - overhead * share / seconds, rcond=None)
    if rank < 2 or latency <= 0 or per_byte <= 0:
        raise WashError(
            "plan --calibrate: the timings give no positive latency and bandwidth; the machine is too busy to be "
            "measured, try again when it is quiet"
        )
    return Link(float(latency / scale[0]), float(scale[1] / per_byte), overhead, cores)
