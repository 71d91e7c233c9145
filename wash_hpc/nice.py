"""Threads that give way where cores are scarce."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from threading import get_native_id

_NICENESS = 10


def give_way() -> None:
    """From now on the calling thread, and no other, runs after those that are not nice. Nothing where it cannot."""
    if sys.platform == "linux":  # where a thread has a priority of its own
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, get_native_id(), _NICENESS)
