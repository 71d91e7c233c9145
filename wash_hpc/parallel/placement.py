"""Where the ranks of a job are, and what is odd about it, in words for `wash-hpc doctor`. Pure; nothing is sent.

GPUs are the business of `gpus`, what Slurm gave to the job that of `wash_hpc.slurm`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

_MOST_NAMED = 8  # hosts or ranks; of more, only the number is said


@dataclass(frozen=True)
class Seat:
    """Where one rank is.

    Attributes:
        host: the lowest rank on its host.
        name: the host's.
        cores: numbers of those that the rank may run on.
        cpus_per_task: that Slurm was asked for; None: it was not.
    """

    host: int
    name: str
    cores: frozenset[int]
    cpus_per_task: int | None = None


def describe_hosts(seats: Sequence[Seat]) -> str:
    """How many ranks are on which host, as in `4 on node1, 4 on node2`."""
    names = {seat.host: seat.name for seat in seats}
    counts = Counter(seat.host for seat in seats)
    numbers = sorted(set(counts.values()))
    if len(names) > _MOST_NAMED:
        return f"{_range(numbers)} on each of {len(names)} hosts" + ", unevenly" * (len(numbers) > 1)
    return ", ".join(f"{counts[host]} on {names[host]}" for host in names) + ", unevenly" * (len(numbers) > 1)


def describe_cores(seats: Sequence[Seat]) -> str:
    """How many cores a rank may run on."""
    numbers = sorted({len(seat.cores) for seat in seats})
    return f"{'each' if len(numbers) == 1 else 'a'} rank may run on {_range(numbers)} core{'s' * (numbers[-1] != 1)}"


def find_crowding(seats: Sequence[Seat]) -> list[str]:
    """Ranks that share too few cores, or have fewer than Slurm was asked for: a sentence each, of a host at most one.

    Several ranks that may all run on all cores of a host are well, as long as there is a core for each.
    """
    said = [said for host in sorted({seat.host for seat in seats}) if (said := _find_shared_cores(seats, host))]
    if len(said) > 2:
        said = [said[0], f"and likewise on {len(said) - 1} other hosts"]
    bound = [
        rank
        for rank, seat in enumerate(seats)
        if seat.cpus_per_task is not None and len(seat.cores) < seat.cpus_per_task
    ]
    if bound:
        seat = seats[bound[0]]
        num_cores = len(seat.cores)
        said.append(
            f"{name_ranks(bound)} may run on {num_cores} core{'s' * (num_cores != 1)}, and SLURM_CPUS_PER_TASK is "
            f"{seat.cpus_per_task}: mpirun --bind-to none, or --map-by slot:PE={seat.cpus_per_task}"
        )
    return said


def _find_shared_cores(seats: Sequence[Seat], host: int) -> str | None:
    here = {rank: seat.cores for rank, seat in enumerate(seats) if seat.host == host}
    everywhere = frozenset().union(*here.values())
    for cores in sorted(set(here.values()), key=len):
        confined = [rank for rank, others in here.items() if others <= cores]
        if len(confined) > len(cores):
            remedy = (
                "start fewer ranks a node, or ask for more cores" if cores == everywhere else "mpirun --bind-to none"
            )
            turns = f"on {seats[host].name} take turns on {len(cores)} core{'s' * (len(cores) != 1)}"
            return f"{name_ranks(confined)} {turns}: {remedy}"
    return None


def name_ranks(ranks: Sequence[int]) -> str:
    """`rank 3`, or `ranks 0, 1, 2`; of many the first ones and how many more."""
    return f"rank{'s' * (len(ranks) != 1)} {list_first(ranks)}"


def list_first(names: Sequence[object]) -> str:
    """The first names or numbers of a list, and how many more there are: a job may have thousands of ranks."""
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(map(str, names[:_MOST_NAMED])) + more


def _range(numbers: Sequence[int]) -> str:
    return str(numbers[0]) if numbers[0] == numbers[-1] else f"{numbers[0]} to {numbers[-1]}"
