"""What members send each other in an exchange, what that takes, and what would take less. Nothing is sent here.

Owns the counting of messages and bytes in each topology, and the advice to batch exchanges. What a message and a byte
cost is the business of `parallel.link`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from wash_hpc.parallel.link import Link
from wash_hpc.shuffle.draw import Drawer

_LATENCY_BOUND = 0.5  # share of an exchange that its values do not explain, from which batching is advised
_RELIEVED = 0.2  # the share at which it is enough: no further batching can save more than this


@dataclass(frozen=True)
class Traffic:
    """One exchange, in the mean over a topology's period.

    Attributes:
        messages: that a member sends; mean over members.
        values: scalars that a member sends; mean over members and draws.
        num_bytes: that a member sends: values, and one flag a message.
        most_values: of the member and the exchange that send most.
        seconds: of the member that takes longest, mean over the period.
        fixed_seconds: of these, what does not grow with the values: overhead, latency and the flags.
    """

    messages: float = 0.0
    values: float = 0.0
    num_bytes: float = 0.0
    most_values: float = 0.0
    seconds: float = 0.0
    fixed_seconds: float = 0.0

    @property
    def latency_share(self) -> float:
        """Share of an exchange's time that its values do not explain."""
        return self.fixed_seconds / self.seconds if self.seconds else 0.0

    @property
    def is_latency_bound(self) -> bool:
        """Whether that is more than half."""
        return self.latency_share > _LATENCY_BOUND


@dataclass(frozen=True)
class Batching:
    """Rarer and larger exchanges of the same bytes.

    Attributes:
        every: steps from one exchange to the next, in place of `method.every`.
        p: in place of `method.p`.
        latency_share: share of an exchange that its values do not explain, then.
        seconds_per_step: before.
        seconds_per_step_then: after.
    """

    every: int
    p: float
    latency_share: float
    seconds_per_step: float
    seconds_per_step_then: float

    @property
    def is_enough(self) -> bool:
        """Whether more of it could save no more than a fifth of an exchange."""
        return self.latency_share <= _RELIEVED * (1 + 1e-9)


def predict_traffic(drawer: Drawer, num_rows: int, item_size: int, link: Link) -> Traffic:
    """Count what members send, and predict what it takes.

    Args:
        drawer: of the run.
        num_rows: 1, or more where optimizer state moves too.
        item_size: bytes of a value, and of a flag.
        link: of each rank; ranks are members.
    """
    picked, cyclic = drawer.expected_picked * num_rows, drawer.permutation == "cyclic"
    if picked == 0 or drawer.num_members == 1:
        return Traffic()
    kinds, total = [], 0
    for step, number in drawer.topology.different_exchanges():
        values = drawer.topology.moved_share(step, cyclic) * picked
        messages = drawer.topology.num_messages(step)
        num_bytes = (values + messages) * item_size
        most = int(messages.argmax())
        seconds = link.seconds(float(messages[most]), float(num_bytes.max()), drawer.num_members)
        fixed = link.seconds(float(messages[most]), float(messages[most]) * item_size, drawer.num_members)
        kinds.append((number, messages.mean(), values.mean(), num_bytes.mean(), seconds, fixed, values.max()))
        total += number
    messages_mean, values_mean, bytes_mean, seconds_mean, fixed_mean = (
        float(sum(kind[0] * kind[column] for kind in kinds)) / total for column in range(1, 6)
    )
    most_values = float(max(kind[6] for kind in kinds))
    return Traffic(messages_mean, values_mean, bytes_mean, most_values, seconds_mean, fixed_mean)


def predict_average(num_values: float, num_members: int, item_size: int, link: Link) -> Traffic:
    """What an average of so many values over all members takes: a ring allreduce, 2 (N-1) messages of 1/N of them."""
    if num_values == 0 or num_members == 1:
        return Traffic()
    messages = 2.0 * (num_members - 1)
    values = messages / num_members * num_values
    seconds = link.seconds(messages, values * item_size, num_members)
    return Traffic(messages, values, values * item_size, values, seconds, link.seconds(messages, 0.0, num_members))


def advise_batching(traffic: Traffic, every: int, p: float, num_exchanges: int) -> Batching | None:
    """The smallest batching that relieves an exchange of its latency, or the largest possible one.

    H exchanges in one send the same bytes in the messages of one. Enough is the smallest H with which what the values
    do not explain is a fifth of an exchange: batching more can save no more than that fifth.

    Args:
        traffic: as configured.
        every: `method.every`.
        p: `method.p`.
        num_exchanges: of the run.

    Returns:
        None where exchanges are not latency-bound, or where p or the run leaves no room for any batching.
    """
    if not traffic.is_latency_bound:
        return None
    of_values = traffic.seconds - traffic.fixed_seconds
    wanted = ceil(traffic.fixed_seconds * (1 - _RELIEVED) / _RELIEVED / of_values * (1 - 1e-9))
    times = min(wanted, int(1 / p * (1 + 1e-9)), num_exchanges)
    if times < 2:
        return None
    then = traffic.fixed_seconds + times * of_values
    return Batching(
        every=every * times,
        p=float(f"{p * times:.12g}"),
        latency_share=traffic.fixed_seconds / then,
        seconds_per_step=traffic.seconds / every,
        seconds_per_step_then=then / (every * times),
    )
