#!/usr/bin/env python3
"""How long a step of each method takes where the link between members is slow, of real runs on this machine.

    python tools/bench_links.py [key=value ...] [--config FILE] [--methods wash,papa] [--links none,1gbit,1gbit+50ms]

Each member is on a host of its own: a network namespace, wired to a switch by a link that sends and receives no faster
than it is told to, and takes as long. Ranks talk TCP over it, by Open MPI (parallel.reducer=mpi, for gradients too).
Each link is measured before it is used, and its bytes are counted while it is: a row stands under a link that was in
force. A run goes on while the links change under it, and is then stopped. Figures are medians over records; a step is
what the run's own clock has for it (data, compute, gradients, exchange), mean over members, without the records and
the question whether to stop. Linux, root.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path

import numpy as np
from bench_common import describe_machine
from hosted_run import PATIENCE_SECONDS, POLL_SECONDS, Run
from network_probe import Found, falls_short, probe, require
from private_host import NetworkError
from shaped_network import Network, find_netem, find_obstacle
from slow_link import Link, format_rate, parse_link

from wash_hpc.config import Config, load_config
from wash_hpc.data.source import steps_per_epoch
from wash_hpc.data_facts import data_facts
from wash_hpc.errors import WashError
from wash_hpc.method_kinds import kind_of
from wash_hpc.methods.due import counted_in_steps
from wash_hpc.report.columns import format_bytes
from wash_hpc.storage.metrics import Metrics

LINKS = "none,10gbit,1gbit,100mbit,1gbit+50ms"
METHODS = {
    "independent": ["method.name=independent"],
    "wash": ["method.name=wash"],
    "wash_overlap": ["method.name=wash", "method.overlap=true"],
    "wash_every_10": ["method.name=wash", "method.every=10", "method.p=0.5"],  # as many bytes as p = 0.05 at every step
    "papa": ["method.name=papa"],
    "papa_all": ["method.name=papa_all", "method.every=1"],
    "sparta": ["method.name=sparta"],
    "diloco": ["method.name=diloco"],
    "data_parallel": ["method.name=data_parallel"],
}
RECIPE = [
    *("data.name=synthetic", "data.image_size=16", "data.num_images=1600", "data.held_out=0", "data.batch_size=16"),
    *("model.name=mlp", "model.width=64", "optimizer.lr=0.01", "method.p=0.05"),
]
MEASURED = [
    *("train.steps=1000000", "evaluate.every_epochs=0", "log.consensus_every_steps=0", "log.progress=off"),
    *("parallel.reducer=mpi", "parallel.device=cpu", "run.name=run"),
]
RECORD_STEPS = 5  # of a method that acts at every step; of others a record is from one time that it acts to the next
LEAST_RECORDS = 3
WARM_UP_SECONDS = 2.0  # of a run
INTERRUPTED = 130


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        link: as it is called.
        method: as in `METHODS`.
        seconds: of a step, mean over members.
        waiting_seconds: of it, for the mean of gradients and for the method: sending, receiving and waiting for others.
        payload_bytes: that a member sends a step, as the run counts it.
        wire_bytes: that leave its host a step, headers and records included; about.
        records: that the medians are over.
        over_independent: of the seconds of a step in the same link; None where independent members were not measured.
    """

    link: str
    method: str
    seconds: float
    waiting_seconds: float
    payload_bytes: float
    wire_bytes: float
    records: int
    over_independent: float | None = None


def main() -> int:
    """Run the benchmark; returns the exit status."""
    options = parse()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        obstacle = find_obstacle(options.links) or ("" if shutil.which("mpirun") else "mpirun is not on PATH")
        if obstacle:
            raise NetworkError(obstacle)
        configs = {method: make_config(options, method) for method in options.methods}
        machine = describe_machine(options.members)
        with tempfile.TemporaryDirectory(prefix="wash-links-") as folder:
            found, rows = measure_all(options, configs, Path(folder))
    except (NetworkError, WashError) as error:
        print(f"bench_links.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nbench_links.py: stopped", file=sys.stderr)
        return INTERRUPTED
    rows = beside_independent(rows, [str(link) for link in options.links])
    if options.json:
        links = {str(link): asdict(link) | {"found": asdict(found[link])} for link in options.links}
        print(json.dumps({"machine": machine, "links": links, "rows": [asdict(row) for row in rows]}))
    else:
        print("\n".join([f"{machine}; reducer mpi", *in_table(found, rows)]))
    return 0


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    description, epilog = (__doc__ or "").split("\n\n", 1)
    parser = argparse.ArgumentParser(
        description=description, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="such as model.width=32")
    parser.add_argument("--config", type=Path, help="default: a perceptron of 1.9 M parameters, made-up images")
    parser.add_argument("--members", type=int, default=4, metavar="N", help="default: 4")
    parser.add_argument("--links", type=links, default=LINKS, metavar="LINK,LINK", help=f"default: {LINKS}")
    parser.add_argument("--methods", type=methods, default=[*METHODS], metavar="NAME,NAME", help="default: all")
    parser.add_argument("--seconds", type=float, default=4.0, help="that each is measured, or 3 records (default: 4)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_intermixed_args(arguments)
    if options.members < 2 or not 0 <= options.seconds < PATIENCE_SECONDS:
        parser.error("expected --members of 2 or more, --seconds of 0 or more")
    return options


def links(text: str) -> list[Link]:
    """An argument type: links with commas between them."""
    try:
        return [parse_link(word) for word in text.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}; expected such as {LINKS}") from error


def methods(text: str) -> list[str]:
    """An argument type: methods with commas between them."""
    names = text.split(",")
    for name in names:
        if name not in METHODS:
            raise argparse.ArgumentTypeError(f"{name}: there is no such method; there are {', '.join(METHODS)}")
    return names


def make_config(options: argparse.Namespace, method: str) -> Config:
    """The configuration of a method's run, but for its folder; a record is from one time that it acts to the next."""
    given = [*([] if options.config else RECIPE), *options.overrides, *MEASURED, *METHODS[method]]
    config = load_config(options.config, given)
    if method == "data_parallel":  # each rank sees as many images as if it were a member
        given.append(f"data.batch_size={options.members * config.data.batch_size}")
        config = load_config(options.config, given)
    per_epoch = steps_per_epoch(data_facts(config).num_train, config.data.batch_size)
    acts_every = counted_in_steps(config.method, config.train.steps or 0, per_epoch).every
    record_steps = acts_every if "every" in kind_of(config.method.name).options and acts_every > 1 else RECORD_STEPS
    return load_config(options.config, [*given, f"log.every_steps={record_steps}"])


def measure_all(
    options: argparse.Namespace, configs: dict[str, Config], folder: Path
) -> tuple[dict[Link, Found], list[Row]]:
    """Measure all methods in all links; a network for all links whose wires can be told in mid-run to be another."""
    has_netem = find_netem()
    found: dict[Link, Found] = {}
    rows: list[Row] = []
    delays = [0.0 if has_netem else link.round_trip / 4 for link in options.links]
    for delay in dict.fromkeys(delays):
        alike = [link for link, its in zip(options.links, delays, strict=True) if its == delay]
        place = folder / f"network_{len(found)}"
        place.mkdir()
        with Network(options.members, place, delay, has_netem) as network:
            for link in alike:
                network.shape(link)
                found[link] = probe(network, link)
                say(f"{link}: {found[link]} found")
                require(link, found[link])
            for method, config in configs.items():
                rows += measure_method(network, method, config, place / method, alike, options.seconds)
    return found, rows


def measure_method(
    network: Network, method: str, config: Config, folder: Path, links: Sequence[Link], seconds: float
) -> list[Row]:
    """One run, in one link after the other."""
    folder.mkdir()
    rows = []
    config = replace(config, run=replace(config.run, dir=str(folder)))
    network.shape(links[0])
    with Run(network, config, folder) as run:
        run.records_after(0, 1)
        time.sleep(WARM_UP_SECONDS)
        for link in links:
            network.shape(link)
            rows.append(measure(run, network, method, link, seconds))
            say(f"{link}: {method}: {rows[-1].seconds * 1e3:.4g} ms a step")
    return rows


def measure(run: Run, network: Network, method: str, link: Link, seconds: float) -> Row:
    """One method in one link, in which its run has just been put.

    Raises:
        NetworkError: the run's bytes did not go by the link, or faster than it is.
    """
    metrics = run.read()
    assert metrics is not None
    # One record is of this link and of the one before it, in one TCP gets used to it.
    first = int(run.records_after(int(metrics.step[-1]), 2).step[-1])
    sent, begin = [host.sent_bytes for host in network.hosts], time.monotonic()
    run.records_after(first, 1)
    time.sleep(max(0.0, begin + seconds - time.monotonic()))
    metrics = run.records_after(first, LEAST_RECORDS)
    passed = time.monotonic() - begin
    wire = [host.sent_bytes - before for host, before in zip(network.hosts, sent, strict=True)]
    row = row_of(link, method, metrics, first, float(np.mean(wire)))
    if row.wire_bytes < 0.5 * row.payload_bytes:
        raise NetworkError(f"{method} sent {format_bytes(row.payload_bytes)} a step, but not by the link of {link}")
    if link.rate and 8 * max(wire) > 1.05 * link.rate * (passed + POLL_SECONDS):
        raise NetworkError(f"the link of {link} carried {format_rate(8 * max(wire) / passed)}: it is not in force")
    return row


def row_of(link: Link, method: str, metrics: Metrics, first: int, wire_bytes: float) -> Row:
    """What the records after step `first` say, in which a host has sent so many bytes."""
    (kept,) = np.nonzero(metrics.step > first)
    waiting = metrics.reduce_seconds[kept] + metrics.exchange_seconds[kept]
    seconds = metrics.data_seconds[kept] + metrics.compute_seconds[kept] + waiting
    num_steps = int(metrics.step[-1]) - first
    sent = metrics.bytes_sent[-1] - metrics.bytes_sent[kept[0] - 1]
    return Row(
        str(link),
        method,
        float(np.median(seconds.mean(axis=1))),
        float(np.median(waiting.mean(axis=1))),
        float(sent.mean()) / num_steps,
        wire_bytes / num_steps,
        len(kept),
    )


def beside_independent(rows: Sequence[Row], order: Sequence[str]) -> list[Row]:
    """The rows link by link, each beside independent members in the same link."""
    alone = {row.link: row.seconds for row in rows if row.method == "independent"}
    rows = sorted(rows, key=lambda row: order.index(row.link))
    return [replace(row, over_independent=row.seconds / alone[row.link] if alone else None) for row in rows]


def in_table(found: dict[Link, Found], rows: Sequence[Row]) -> list[str]:
    """The table's lines."""
    titles = f"{'a step':>10} {'waiting':>10} {'payload':>9} {'on the wire':>11} {'/ independent':>13} {'records':>8}"
    lines = []
    by_name = {str(link): link for link in found}
    for link, its in groupby(rows, lambda row: row.link):
        lines += ["", called(by_name[link], found[by_name[link]]), f"{'':<14} {titles}"]
        for row in its:
            ratio = "" if row.over_independent is None else f"{row.over_independent:.2f}"
            lines.append(
                f"{row.method:<14} {row.seconds * 1e3:>7.4g} ms {row.waiting_seconds * 1e3:>7.4g} ms "
                f"{format_bytes(row.payload_bytes):>9} {format_bytes(row.wire_bytes):>11} {ratio:>13} {row.records:>8}"
            )
    return lines


def called(link: Link, found: Found) -> str:
    """What stands over a link's rows: its name, and what it was found to be."""
    return f"{'at most ' if falls_short(link.rate, found.rate) else ''}{link} (found: {found})"


def say(line: str) -> None:
    """Tell who waits how far it is."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
