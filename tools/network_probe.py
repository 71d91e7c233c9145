"""What a link of `shaped_network` really is: bits a second and round trips of TCP between its hosts, while idle."""

from __future__ import annotations

import socket
import threading
import time
from dataclasses import dataclass
from statistics import median

from delayed_wire import in_network
from private_host import NetworkError
from shaped_network import Network
from slow_link import Link, format_rate

SECONDS = 0.6  # of a transfer, and 30 round trips for TCP to find the rate
MESSAGES = 10
LEAST_SHARE = 0.8  # of its rate, below which a machine or TCP does not use up a link
MOST_TRANSFERS = 3  # one after the other, until TCP does
CHUNK = bytes(2**18)


def falls_short(rate: float | None, found: float) -> bool:
    """Whether this machine carries clearly less than the rate of a link; None has none. Bits a second."""
    return rate is not None and found < LEAST_SHARE * rate


@dataclass(frozen=True)
class Found:
    """What was found between each host and the next one.

    Attributes:
        rate: bits a second of TCP's payload, of the pair that had the least; headers take 4 % of a link.
        highest_rate: of the pair that had the most.
        round_trip: seconds, the least of any message.
        longest_round_trip: of the pair with the largest median.
    """

    rate: float
    highest_rate: float
    round_trip: float
    longest_round_trip: float

    def __str__(self) -> str:
        return f"{format_rate(self.rate)}, {self.round_trip * 1e3:.3g} ms"


def probe(network: Network, link: Link) -> Found:
    """Measure between each host and the next, in this link; nothing else may use the network."""
    trips, rates = [], []
    for number, host in enumerate(network.hosts):
        peer = network.hosts[(number + 1) % len(network.hosts)]
        here, there = connect(host.pid, peer.pid, network.address(peer))
        with here, there:
            trips.append(time_round_trips(here, there))
            rates.append(measure_rate(here, there, SECONDS + 30 * min(trips[-1]), LEAST_SHARE * (link.rate or 0)))
    return Found(min(rates), max(rates), min(map(min, trips)), max(map(median, trips)))


def require(link: Link, found: Found) -> None:
    """Refuse a link that is not what it is called.

    Raises:
        NetworkError: it is faster, or its delay is another one.
    """
    if link.rate and found.highest_rate > 1.05 * link.rate:
        raise NetworkError(f"the link of {link} carries {format_rate(found.highest_rate)}: it is not in force")
    if not link.round_trip * 0.99 <= found.round_trip <= 1.2 * link.round_trip + 2e-3:
        raise NetworkError(
            f"the link of {link} has a round trip of {found.round_trip * 1e3:.3g} ms: it is not in force"
        )


def connect(pid: int, peer: int, address: str) -> tuple[socket.socket, socket.socket]:
    """Both ends of a connection from the host of a process to that of another, which has this address."""
    with in_network(peer, lambda: socket.create_server((address, 0))) as server:
        here = in_network(pid, lambda: socket.create_connection(server.getsockname(), timeout=60))
        there, _ = server.accept()
    for end in (here, there):
        end.settimeout(60)
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return here, there


def time_round_trips(here: socket.socket, there: socket.socket) -> list[float]:
    """Seconds of messages of one byte, there and back."""

    def echo() -> None:
        for _ in range(MESSAGES):
            there.sendall(there.recv(1))

    echoing = threading.Thread(target=echo)
    echoing.start()
    seconds = []
    for _ in range(MESSAGES):
        begin = time.perf_counter()
        here.sendall(b".")
        here.recv(1)
        seconds.append(time.perf_counter() - begin)
    echoing.join()
    return seconds


def measure_rate(here: socket.socket, there: socket.socket, seconds: float, enough: float) -> float:
    """Bits a second in the second half of a transfer so long; of the best of a few, where the first are not enough."""
    stop = threading.Event()

    def send() -> None:
        while not stop.is_set():
            here.sendall(CHUNK)
        here.shutdown(socket.SHUT_WR)

    sending = threading.Thread(target=send)
    sending.start()
    buffer, best = bytearray(2**20), 0.0
    for _ in range(MOST_TRANSFERS):
        count_until(there, buffer, time.perf_counter() + seconds / 2)
        begin = time.perf_counter()
        received = count_until(there, buffer, begin + seconds / 2)
        best = max(best, 8 * received / (time.perf_counter() - begin))
        if best >= enough:
            break
    stop.set()
    while there.recv_into(buffer):
        pass
    sending.join()
    return best


def count_until(there: socket.socket, buffer: bytearray, end: float) -> int:
    """Receive until then; returns the bytes."""
    received = 0
    while time.perf_counter() < end:
        received += there.recv_into(buffer)
    return received
