#!/usr/bin/env python3
"""Wires between networks of this machine on which everything takes a while, where the kernel has no netem. Root only.

    python tools/delayed_wire.py SECONDS PID:NAME=PID:NAME ...

Each pair is two new network devices (TAP), named in the networks of two processes; whatever one is given comes out of
the other so many seconds later. Prints `ready`, and ends, devices and all, when its standard input does.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import selectors
import struct
import sys
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

Result = TypeVar("Result")

# linux/if_tun.h and linux/sched.h.
TUNSETIFF, TUNSETOFFLOAD = 0x400454CA, 0x400454D0
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
TUN_F_CSUM, TUN_F_TSO4 = 0x01, 0x02
CLONE_NEWNET = 0x40000000
AT_ONCE = 16  # frames from one end, before others have their turn
MOST_BYTES = 2**16 + 64  # of a frame: TCP hands over 64 KB at a time, which no network card has cut yet


def main() -> None:
    """Make the wires, and carry frames."""
    seconds, pairs = float(sys.argv[1]), [pair.split("=") for pair in sys.argv[2:]]
    ends = [(open_end(*a.split(":")), open_end(*b.split(":"))) for a, b in pairs]
    with suppress(OSError):
        os.nice(-10)  # ranks that wait for messages keep all cores busy
    print("ready", flush=True)
    carry(seconds, dict(ends) | {b: a for a, b in ends})


def open_end(pid: str, name: str) -> int:
    """A new network device in the network of a process; returns the file whose reads are its frames."""

    def make() -> int:
        file = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR  # with the header a frame of many segments passes as one
        fcntl.ioctl(file, TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
        fcntl.ioctl(file, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4)
        return file

    return in_network(int(pid), make)


def in_network(pid: int, work: Callable[[], Result]) -> Result:
    """Do something in the network of a process: a thread moves there. What it makes stays there."""

    def move_and_work() -> Result:
        libc = ctypes.CDLL(None, use_errno=True)
        with Path(f"/proc/{pid}/ns/net").open() as network:
            if libc.setns(network.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), f"the network of process {pid} cannot be entered")
        return work()

    with ThreadPoolExecutor(1) as threads:
        return threads.submit(move_and_work).result()


def carry(seconds: float, other_end: dict[int, int]) -> None:
    """Write what is read at one end to the other one, later; until standard input ends."""
    under_way: deque[tuple[float, int, bytes]] = deque()
    with selectors.SelectSelector() as selector:  # epoll waits for whole milliseconds
        for end in (sys.stdin.fileno(), *other_end):
            selector.register(end, selectors.EVENT_READ)
        while True:
            wait = max(0.0, under_way[0][0] - time.monotonic()) if under_way else None
            for key, _ in selector.select(wait):
                if key.fd not in other_end:
                    return
                with suppress(OSError):  # no more there, or not up yet
                    for _ in range(AT_ONCE):
                        frame = os.read(key.fd, MOST_BYTES)
                        under_way.append((time.monotonic() + seconds, other_end[key.fd], frame))
            while under_way and under_way[0][0] <= time.monotonic():
                _, end, frame = under_way.popleft()
                with suppress(OSError):  # a device that is down loses it, as a network does
                    os.write(end, frame)


if __name__ == "__main__":
    main()
