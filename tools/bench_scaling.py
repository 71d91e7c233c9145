#!/usr/bin/env python3
"""Predicted and measured seconds of an exchange on 2, 4, 8 and 16 ranks of this machine.

    python tools/bench_scaling.py [key=value ...] [--config FILE] [--ranks 2,4,8,16] [--p 0.001,0.02,0.1] [--json]

Starts its own mpirun for each number of ranks. One of them calibrates, as `wash-hpc plan --calibrate` does, at the
configuration's p and sizes around it; then exchanges at the given p, which are others, are predicted and measured. Each
rank is a member; more ranks than cores share cores. Medians of 20 rounds, a barrier before each, the slowest rank's
seconds. Calibrated is on 4 ranks, the fewest with which 1 message (neighbours) and several (all) are both seen while
ranks take turns on the two cores of a laptop.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from bench_common import Figures, describe_machine, start_ranks

from wash_hpc.parallel import start_mpi
from wash_hpc.parallel.link import Link
from wash_hpc.plan_report import describe_link
from wash_hpc.predict import Facts, calibrate_link, read_facts
from wash_hpc.report.columns import format_bytes
from wash_hpc.traffic import predict_traffic

CONFIG = Path(__file__).resolve().parent.parent / "configs/imagenet_resnet50_wash.yaml"


@dataclass(frozen=True)
class Row:
    """One line of the table; bytes are those of a member, flags included."""

    num_ranks: int
    p: float
    messages: float
    num_bytes: float
    predicted_seconds: float
    measured_seconds: float

    @property
    def ratio(self) -> float:
        """Predicted over measured."""
        return self.predicted_seconds / self.measured_seconds


def main() -> int:
    """Run the benchmark; as a user's process it starts mpirun, as a rank it calibrates or measures."""
    options = parse()
    if options.rank_side:
        print_from_root(options)
        return 0
    machine = describe_machine(max(options.ranks))
    found = start_ranks(options.calibrate_on, __file__, rank_arguments(options, "calibrate"))
    link = Link(**found["link"])
    rows = [row for num_ranks in options.ranks for row in compare(options, num_ranks, link)]
    if options.json:
        print(json.dumps({"machine": machine, "calibration": found, "rows": [asdict(row) for row in rows]}))
        return 0
    print(f"{machine}\ncalibrated on {options.calibrate_on} ranks: {describe_link(link)}\n")
    print(f"{'ranks':>5} {'p':>6} {'messages':>8} {'bytes':>8} {'predicted':>10} {'measured':>10} {'ratio':>6}")
    for row in rows:
        print(
            f"{row.num_ranks:>5} {row.p:>6g} {row.messages:>8.3g} {format_bytes(row.num_bytes):>8} "
            f"{row.predicted_seconds * 1e3:>7.3g} ms {row.measured_seconds * 1e3:>7.3g} ms {row.ratio:>6.2f}"
        )
    return 0


def parse() -> argparse.Namespace:
    """The command line."""
    description, epilog = (__doc__ or "").split("\n\n", 1)
    parser = argparse.ArgumentParser(
        description=description, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="such as method.topology=ring")
    parser.add_argument("--config", type=Path, default=CONFIG, help="default: configs/imagenet_resnet50_wash.yaml")
    parser.add_argument("--ranks", type=list_of(int), default=[2, 4, 8, 16], help="default: 2,4,8,16")
    parser.add_argument("--p", type=list_of(float), default=[0.001, 0.02, 0.1], help="default: 0.001,0.02,0.1")
    parser.add_argument("--calibrate-on", type=int, default=4, metavar="N", help="ranks (default: 4)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rank-side", choices=["calibrate", "measure"], help=argparse.SUPPRESS)
    return parser.parse_args()


def list_of(kind: type) -> Callable[[str], list[float]]:
    """An argument type: numbers with commas between them."""

    def numbers(text: str) -> list[float]:
        return [kind(word) for word in text.split(",")]

    return numbers


def rank_arguments(options: argparse.Namespace, what: str) -> list[str]:
    """The command line of a rank."""
    p = ",".join(map(str, options.p))
    return [*options.overrides, "--config", str(options.config), "--p", p, "--rank-side", what]


def compare(options: argparse.Namespace, num_ranks: int, link: Link) -> list[Row]:
    """Predict and measure exchanges on so many ranks at each p."""
    timings = start_ranks(num_ranks, __file__, rank_arguments(options, "measure"))["timings"]
    rows = []
    for p, timing in zip(options.p, timings, strict=True):
        facts = facts_at(options, p, num_ranks)
        traffic = predict_traffic(facts.drawer, facts.num_rows, facts.dtype.itemsize, link)
        rows.append(Row(num_ranks, p, traffic.messages, traffic.num_bytes, traffic.seconds, timing["seconds"]))
    return rows


def facts_at(options: argparse.Namespace, p: float | None, num_ranks: int) -> Facts:
    """What there is to predict and to measure, at another p than the configuration's."""
    other = [] if p is None else [f"method.p={p}"]
    return read_facts(options.config, [*options.overrides, *other], num_ranks)


def print_from_root(options: argparse.Namespace) -> None:
    """What each rank runs. Collective over MPI_COMM_WORLD."""
    comm = start_mpi()
    from wash_hpc.parallel.calibrate import measure_exchanges, use_own_cores

    use_own_cores(comm)
    figures: Figures
    if options.rank_side == "calibrate":
        figures = asdict(calibrate_link(comm, facts_at(options, None, comm.size)))
    else:
        facts = [facts_at(options, p, comm.size) for p in options.p]
        figures = {"timings": [asdict(measure_exchanges(comm, it.drawer, it.dtype, it.num_rows)) for it in facts]}
    if comm.rank == 0:
        print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    sys.exit(main())
