"""Measuring the way between two ranks: a message to and fro between real pairs, in a host and across, for the doctor.

Owns which pairs are measured, how, and the words for it. What a whole exchange costs is the business of `calibrate`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from statistics import median

import torch
from mpi4py import MPI
from torch import Tensor

from wash_hpc.parallel.placement import Seat
from wash_hpc.parallel.world import Comm

Pair = tuple[int, int]
Rounds = Sequence[Sequence[Pair]]
"""Pairs of ranks that are measured at the same time, round by round."""
_SMALL = 8  # bytes; what they take is latency
_LARGE = 4 << 20  # bytes; latency is nothing beside what they take
_LEAST_LARGE = 256 << 10  # bytes; what is sent instead over a way so slow that more would keep the others waiting
_LARGE_SECONDS = 0.02  # that a large message may take
_SMALL_TIMES, _LARGE_TIMES = 20, 4
_WARM_UP = 2  # messages that are not counted: the first one of two ranks connects them
_MOST_ROUNDS = 32
_MOST_SECONDS = 2.0  # after which no new round begins
_POLL_SECONDS = 0.001
_LEAST_SHARE = 1 / 3  # of the usual bandwidth, below which a pair across hosts is warned of


@dataclass(frozen=True)
class Way:
    """The way between two ranks, measured with no other pair on their hosts.

    Attributes:
        pair: the ranks.
        latency: seconds of a message of a few bytes, one way.
        bandwidth: bytes per second of a large one.
    """

    pair: Pair
    latency: float
    bandwidth: float


def choose_pairs(hosts: Sequence[int]) -> tuple[Rounds, Rounds]:
    """Which ranks are to be measured with which: rounds of pairs that are measured at the same time.

    In no round has a host more than one pair. Every rank has a turn with another of its host, where there are no more
    than 64 there; and, with no more than 32 ranks a host and an even number of hosts, with one of another host.

    Args:
        hosts: of each rank.

    Returns:
        Rounds in hosts, and rounds across hosts; at most 32 of each.
    """
    by_host: dict[int, list[int]] = {}
    for rank, host in enumerate(hosts):
        by_host.setdefault(host, []).append(rank)
    everyone = list(by_host.values())
    own = [[(ranks[a], ranks[b]) for a, b in _first_pairs(len(ranks))] for ranks in everyone]
    inside = [[pairs[number] for pairs in own if number < len(pairs)] for number in range(max(map(len, own)))]
    meetings = list(islice(_meetings(len(everyone)), _MOST_ROUNDS))
    num_rounds = min(_MOST_ROUNDS, max(len(meetings), *map(len, everyone))) if meetings else 0
    across = [
        [
            (everyone[a][number % len(everyone[a])], everyone[b][number % len(everyone[b])])
            for a, b in meetings[number % len(meetings)]
        ]
        for number in range(num_rounds)
    ]
    return inside, across


def _first_pairs(num_players: int) -> list[Pair]:
    return list(islice(chain.from_iterable(_meetings(num_players)), _MOST_ROUNDS))


def _meetings(num_players: int) -> Iterator[list[Pair]]:
    """Rounds in which everyone meets everyone once and nobody two at a time."""
    seats = list(range(num_players + num_players % 2))
    for _ in range(len(seats) - 1 if num_players > 1 else 0):
        half = len(seats) // 2
        facing = zip(seats[:half], reversed(seats[half:]), strict=True)
        yield [(min(met), max(met)) for met in facing if max(met) < num_players]
        seats = [seats[0], seats[-1], *seats[1:-1]]


def measure_ways(comm: Comm, rounds: Rounds, device: torch.device) -> list[Way]:
    """Measure pairs of ranks, round by round, for about two seconds at most and at least one round.

    Collective over `comm`, and the same on all ranks. MPI is handed memory of the device.

    Args:
        comm: the ranks.
        rounds: equal on all ranks, from `choose_pairs`.
        device: whose memory is sent.
    """
    memory = torch.ones(_LARGE, dtype=torch.uint8, device=device)
    if device.type == "cuda":
        torch.cuda.synchronize(device)  # MPI knows nothing of streams: the buffer must be there
    mine = []
    deadline = time.perf_counter() + _MOST_SECONDS
    for number, pairs in enumerate(rounds):
        _wait(comm)
        if comm.bcast(number > 0 and time.perf_counter() > deadline):
            break
        for pair in pairs:
            if comm.rank in pair:
                way = _measure_way(comm, pair, memory)
                mine += [way] if comm.rank == pair[0] else []
    _wait(comm)
    return [way for ways in comm.allgather(mine) for way in ways]


def _measure_way(comm: Comm, pair: Pair, memory: Tensor) -> Way:
    """Both ranks of the pair; what the first one measures counts."""
    latency = _to_and_fro(comm, pair, memory[:_SMALL], _SMALL_TIMES)
    trial = _LEAST_LARGE / _to_and_fro(comm, pair, memory[:_LEAST_LARGE], 1)
    size = min(_LARGE, max(_LEAST_LARGE, int(trial * _LARGE_SECONDS)))
    if comm.rank == pair[0]:
        comm.send(size, pair[1])
    else:
        size = comm.recv(source=pair[0])
    return Way(pair, latency, size / _to_and_fro(comm, pair, memory[:size], _LARGE_TIMES))


def _to_and_fro(comm: Comm, pair: Pair, memory: Tensor, times: int) -> float:
    """Median seconds of a message one way, on the pair's first rank."""
    message = [memory if memory.is_cuda else memory.numpy(), MPI.BYTE]
    seconds = []
    for _ in range(_WARM_UP + times):
        begin = time.perf_counter()
        if comm.rank == pair[0]:
            comm.Send(message, pair[1])
            comm.Recv(message, pair[1])
        else:
            comm.Recv(message, pair[0])
            comm.Send(message, pair[0])
        seconds.append((time.perf_counter() - begin) / 2)
    return median(seconds[_WARM_UP:])


def _wait(comm: Comm) -> None:
    """A barrier whose waiting ranks leave their cores to those that measure."""
    request = comm.Ibarrier()
    while not request.Test():
        time.sleep(_POLL_SECONDS)


def describe_ways(ways: Sequence[Way], seats: Sequence[Seat]) -> list[str]:
    """A line for the ways in hosts and one for those across, each with the median and the worst; and warnings.

    Args:
        ways: measured.
        seats: of all ranks.
    """
    inside = [way for way in ways if seats[way.pair[0]].host == seats[way.pair[1]].host]
    across = [way for way in ways if way not in inside]
    lines = [
        f"{where}: {_describe(some, seats)}" for where, some in (("in a host", inside), ("across", across)) if some
    ]
    usual = median(way.bandwidth for way in across) if across else 0.0
    slow = [way for way in across if way.bandwidth < _LEAST_SHARE * usual]
    if slow:
        worst = min(slow, key=lambda way: way.bandwidth)
        lines.append(
            f"warning: {len(slow)} of {len(across)} pairs across hosts have less than a third of the usual bandwidth, "
            f"the least of all {_name(worst.pair, seats)}: a bad cable, or the wrong network?"
        )
    return lines


def _describe(ways: Sequence[Way], seats: Sequence[Seat]) -> str:
    bandwidth, latency = median(way.bandwidth for way in ways), median(way.latency for way in ways)
    usual = f"{_in_gb(bandwidth)}, {_in_us(latency)}"
    if len(ways) == 1:
        return f"{usual}: {_name(ways[0].pair, seats)}"
    slowest, latest = min(ways, key=lambda way: way.bandwidth), max(ways, key=lambda way: way.latency)
    return (
        f"{usual}, median of {len(ways)} pairs; worst {_in_gb(slowest.bandwidth)}: {_name(slowest.pair, seats)}, "
        f"{_in_us(latest.latency)}: {_name(latest.pair, seats)}"
    )


def _name(pair: Pair, seats: Sequence[Seat]) -> str:
    first, second = (seats[rank] for rank in pair)
    if first.host == second.host:
        return f"ranks {pair[0]} and {pair[1]} on {first.name}"
    return f"rank {pair[0]} on {first.name} and rank {pair[1]} on {second.name}"


def _in_gb(bandwidth: float) -> str:
    return f"{bandwidth / 1e9:.3g} GB/s"


def _in_us(seconds: float) -> str:
    return f"{seconds * 1e6:.3g} us" if seconds < 1e-3 else f"{seconds * 1e6:.0f} us"
