"""A length of time in words, as logs, tables and the live view say it."""

from __future__ import annotations


def format_seconds(seconds: float) -> str:
    """A duration: `12.3 s`, `4 min 05 s`, `3 h 07 min`, `2 d 5 h`."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    hours = round(minutes / 60)
    return f"{hours // 24} d {hours % 24} h"
