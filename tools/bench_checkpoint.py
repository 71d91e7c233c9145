#!/usr/bin/env python3
"""How long a checkpoint holds up the training loop, beside a write that the loop waits for and the bare copy.

    python tools/bench_checkpoint.py [--members 2] [--parameters 25557032] [--rows 2] [--folder DIR] [--json]

Three ways take turns on the same ranks and the same state, a member a rank (`rows` of parameters in fp32: SGD with
momentum has 2, Adam 3): `background`, as a run does it: the copy, and later the two moments at which all ranks agree
that files are there; `synchronous`, the same until it is on the disk; `copy`, one copy into memory that is there
already. A round times each from a barrier; figures are medians over rounds of the slowest rank. The first rounds, in
which memory is taken, are not counted. Where the file system is as fast as memory, as a tmpfs is, hashing remains.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import torch
from bench_common import WARM_UP, Figures, Ranks, describe_machine, in_lines, start_ranks

from wash_hpc.storage.checkpoint import Manifest, MemberState

_POLL_SECONDS = 0.01


def main() -> int:
    """Run the benchmark; as a user's process it starts mpirun, as a rank it measures."""
    options = parse()
    if options.rank:
        measure(options)
        return 0
    figures: Figures = {"machine": describe_machine(options.members, options.device)}
    with tempfile.TemporaryDirectory(prefix="wash_hpc-bench-", dir=options.folder) as folder:
        figures |= start_ranks(options.members, __file__, [*sys.argv[1:], "--folder", folder, "--rank"])
    print(json.dumps(figures) if options.json else in_lines(figures))
    return 0


def parse() -> argparse.Namespace:
    """The command line."""
    description, epilog = (__doc__ or "").split("\n\n", 1)
    parser = argparse.ArgumentParser(
        description=description, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--members", type=int, default=2, help="ranks, one member each (default 2)")
    parser.add_argument("--parameters", type=int, default=25_557_032, help="of a member (default: a ResNet-50's)")
    parser.add_argument("--rows", type=int, default=2, help="parameters and optimizer state (default 2)")
    parser.add_argument("--folder", default=None, help="where to write (default: the system's temporary folder)")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="where the state is (default cpu)")
    parser.add_argument("--rounds", type=int, default=7, help="timed rounds (default 7)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rank", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if min(options.members, options.parameters, options.rows, options.rounds) < 1:
        parser.error("expected --members, --parameters, --rows and --rounds of 1 or more")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no GPU here")
    return options


def measure(options: argparse.Namespace) -> None:
    """What each rank runs. Collective over MPI_COMM_WORLD."""
    from wash_hpc.checkpoint_writer import CheckpointWriter
    from wash_hpc.parallel import start_mpi
    from wash_hpc.parallel.world import World

    world = World.open(start_mpi(), None)
    ranks = Ranks(world, 0.05, options.device == "cuda")
    writer = CheckpointWriter(Path(options.folder), world, 1, 0)
    rows = torch.rand(options.rows, options.parameters, device=options.device)
    room = torch.empty(rows.shape, pin_memory=rows.is_cuda)
    seconds: dict[str, list[float]] = {"background": [], "synchronous": [], "copy": []}
    num_checkpoints = 0

    def begin() -> None:
        nonlocal num_checkpoints
        num_checkpoints += 1
        zeros = [0] * options.members
        manifest = Manifest(num_checkpoints, options.members, options.parameters, 0, "sgd", zeros, zeros, 0.0, {})
        writer.begin(manifest, MemberState({"rows": rows}, {}, {}), None)

    def begin_and_finish() -> None:
        begin()
        writer.finish()

    def advance_later() -> float:
        while writer.is_busy:
            time.sleep(_POLL_SECONDS)
        return ranks.time(writer.advance)

    for _ in range(WARM_UP + options.rounds):
        seconds["background"].append(ranks.time(begin) + advance_later() + advance_later())
        seconds["synchronous"].append(ranks.time(begin_and_finish))
        seconds["copy"].append(ranks.time(lambda: room.copy_(rows)))
    writer.close()
    found = {way: ranks.slowest(times) for way, times in seconds.items()}
    figures = {
        "bytes_a_member": rows.numel() * rows.element_size(),
        **{f"{way}_seconds": spent for way, spent in found.items()},
        "background_over_copy": found["background"] / found["copy"],
        "synchronous_over_background": found["synchronous"] / found["background"],
    }
    if world.is_root:
        print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    sys.exit(main())
