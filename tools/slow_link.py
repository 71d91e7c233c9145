"""What a link between members is like, as a user writes it and as the kernel is told. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

MTU = 1500
BUFFER_BYTES = 2**20  # of a port, or as much as is under way on a long link
NETEM_FRAMES = 100_000  # that may be under way
NUMBER = r"\d+(?:\.\d+)?"
UNITS = {"kbit": 1e3, "mbit": 1e6, "gbit": 1e9}


@dataclass(frozen=True)
class Link:
    """What each host's wire to the switch is like.

    Attributes:
        rate: bits a second in each direction; None: as fast as the machine.
        round_trip: seconds from a host to another one and back.
    """

    rate: float | None = None
    round_trip: float = 0.0

    def __str__(self) -> str:
        parts = [format_rate(self.rate)] if self.rate else []
        parts += [f"{self.round_trip * 1e3:g} ms"] if self.round_trip else []
        return " + ".join(parts) or "not slowed"

    @property
    def burst_bytes(self) -> int:
        """What may pass at once after a pause: as many as pass while a timer is late; on a long link some more."""
        return max(3 * MTU, round((self.rate or 0) / 8 * (150e-6 + self.round_trip / 100)))

    @property
    def buffer_bytes(self) -> int:
        """What may wait at a port."""
        return max(BUFFER_BYTES, round((self.rate or 0) / 8 * self.round_trip))


def format_rate(rate: float) -> str:
    """Bits a second in words: `1 Gbit/s`."""
    return f"{rate / 1e9:.3g} Gbit/s" if rate >= 1e9 else f"{rate / 1e6:.3g} Mbit/s"


def parse_link(text: str) -> Link:
    """A link as the command line has it: `none`, `10gbit`, `100mbit+50ms`, `50ms`.

    Raises:
        ValueError: it is none.
    """
    if text == "none":
        return Link()
    found = re.fullmatch(rf"(?:({NUMBER})(kbit|mbit|gbit))?\+?(?:({NUMBER})ms)?", text)
    rate, unit, delay = found.groups() if found else (None, None, None)
    if not (rate or delay) or ((rate and delay) and "+" not in text) or text[0] == "+" or text[-1] == "+":
        raise ValueError(f"{text}: no link")
    link = Link(float(rate) * UNITS[unit] if rate and unit else None, float(delay) / 1e3 if delay else 0.0)
    if link.rate == 0:
        raise ValueError(f"{text}: no link")
    return link


def shaping_commands(device: str, link: Link, has_netem: bool) -> list[list[str]]:
    """The commands that slow what leaves by a device, which has no such setting yet; a quarter of the delay is its."""
    commands, place = [], ["root", "handle", "1:"]
    add = ["tc", "qdisc", "add", "dev", device]
    if link.round_trip and has_netem:
        commands.append(
            [*add, *place, "netem", "delay", f"{link.round_trip / 4 * 1e6:.0f}us", "limit", str(NETEM_FRAMES)]
        )
        place = ["parent", "1:1", "handle", "10:"]
    if link.rate:
        sizes = ["burst", str(link.burst_bytes), "limit", str(link.buffer_bytes)]
        commands.append([*add, *place, "tbf", "rate", f"{link.rate:.0f}bit", *sizes])
    return commands
