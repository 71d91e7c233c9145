#!/usr/bin/env python3
"""Seconds from mpirun to the first step on 2, 8 and 16 ranks of this machine, by part, and the files that a rank opens.

    python tools/bench_startup.py [--ranks 2 8 16] [--files 4000] [--reducer horovod|mpi] [--json]

Starts a real run of one step for each number of ranks, on a folder of small images that is made for the time. The parts
are those that a run says itself, each of the rank that took longest, waiting for others included, so that together they
are more than the whole; `launch` is what mpirun took beside the ranks. The first batch comes after the start, and is
said apart. Files are those that Python opens in the whole run, its own modules first of all, and not what C++ opens
(libraries, and images that DALI reads).

Beside it, in turns, medians of 3 rounds of the slowest rank: the folder listed by every rank, and once for all as a run
does it. Everything is read from a warm file cache, where listing by all costs processor time only; on a file system
that ranks share each listing is that many requests to its servers.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from bench_common import Figures, describe_machine, seconds_of, start_ranks
from PIL import Image

from wash_hpc.data.folder import scan_splits
from wash_hpc.parallel import start_mpi
from wash_hpc.storage.metrics import read_metrics
from wash_hpc.sweep.launch import ON_ONE_MACHINE

NUM_CLASSES = 100
ROUNDS = 3
SIDE = 16  # of an image
STARTED = "started in "  # how a run says that its start is over

# A rank of the run, which also counts what it opens and lists; the rest of its command line is wash-hpc's.
COUNTING_RANK = """
import atexit, json, os, sys
data, out = sys.argv[1:3]
count = {"files_opened": 0, "data_files_opened": 0, "data_folders_listed": 0}
def hook(event, given):
    if event in ("open", "os.scandir", "os.listdir") and isinstance(given[0], (str, bytes)):
        is_data = os.fsdecode(given[0]).startswith(data)
        count["files_opened"] += event == "open"
        count["data_files_opened"] += is_data and event == "open"
        count["data_folders_listed"] += is_data and event != "open"
def write():
    found = json.dumps(count)
    with open(f"{out}/{os.environ['OMPI_COMM_WORLD_RANK']}.json", "w") as file:
        file.write(found)
sys.addaudithook(hook)
atexit.register(write)
from wash_hpc.__main__ import main
raise SystemExit(main(sys.argv[3:]))
"""


def main() -> int:
    """Run the benchmark; as a user's process it starts mpirun, as a rank it lists the folder."""
    options = parse()
    if options.list_folder is not None:
        print_listing_times(options.list_folder)
        return 0
    machine = describe_machine(max(options.ranks))
    with tempfile.TemporaryDirectory(prefix="wash_hpc-bench-") as name:
        folder = Path(name)
        make_images(folder / "images", options.files)
        measure_start(folder, 1, options.reducer)  # fills the file cache
        rows = [measure(folder, num_ranks, options.reducer) for num_ranks in options.ranks]
    if options.json:
        print(json.dumps({"machine": machine, "num_files": options.files, "rows": rows}))
        return 0
    print(f"{machine}; {options.files} images, file cache warm\n")
    for name in rows[0]:
        print(f"{name:<28}" + "".join(f"{f'{row[name]:.5g}':>10}" for row in rows))
    return 0


def parse() -> argparse.Namespace:
    """The command line."""
    description, epilog = (__doc__ or "").split("\n\n", 1)
    parser = argparse.ArgumentParser(
        description=description, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 8, 16], metavar="N", help="default: 2 8 16")
    parser.add_argument("--files", type=int, default=4000, help="images in the folder (default: 4000)")
    parser.add_argument("--reducer", choices=["horovod", "mpi"], default="horovod", help="default: horovod")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--list-folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if min(options.ranks) < 1 or options.files < 2 * NUM_CLASSES:
        parser.error(f"expected --ranks of 1 or more, and --files of at least {2 * NUM_CLASSES}, two for each class")
    return options


def make_images(folder: Path, num_files: int) -> None:
    """A folder of equal small images, evenly in classes; one of each class is for the test."""
    place = folder / "image.jpg"
    folder.mkdir()
    Image.new("RGB", (SIDE, SIDE), (90, 120, 150)).save(place)
    content = place.read_bytes()
    place.unlink()
    for number in range(num_files):
        split = "val" if number < NUM_CLASSES else "train"
        file = folder / split / f"class_{number % NUM_CLASSES:03d}" / f"{number:07d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


def measure(folder: Path, num_ranks: int, reducer: str) -> Figures:
    """One column: the start of a run, and the folder listed both ways."""
    listing = start_ranks(num_ranks, __file__, ["--list-folder", str(folder / "images")])
    return {"num_ranks": num_ranks, **measure_start(folder, num_ranks, reducer), **listing}


def measure_start(folder: Path, num_ranks: int, reducer: str) -> Figures:
    """Start a run of one step on so many ranks, and take from it what its start was."""
    name, counts = f"on_{num_ranks}", folder / f"counts_{num_ranks}"
    counts.mkdir()
    config = folder / "config.yaml"
    config.write_text("{}\n", encoding="utf-8")
    keys = [
        f"data.path={folder / 'images'}",
        f"data.image_size={SIDE}",
        f"data.resize={SIDE}",
        "data.batch_size=8",
        "data.workers=1",
        "model.name=resnet_small",
        "model.width=4",
        "train.steps=1",
        "evaluate.statistics_images=16",
        f"parallel.reducer={reducer}",
        "log.progress=lines",
        f"run.dir={folder}",
        f"run.name={name}",
    ]
    rank = [sys.executable, "-c", COUNTING_RANK, str(folder / "images"), str(counts), "train", str(config), *keys]
    seconds = seconds_until_started(num_ranks, rank)
    metrics = read_metrics(folder / name)
    parts = json.loads(str(metrics.attributes["start_seconds"]))
    of_ranks = [json.loads((counts / f"{number}.json").read_text(encoding="utf-8")) for number in range(num_ranks)]
    others = [count["data_folders_listed"] for count in of_ranks[1:]]
    return {
        "seconds_to_first_step": seconds,
        "launch_seconds": seconds - parts.pop("total"),
        **{f"{part.lower()}_seconds": spent for part, spent in parts.items()},
        "first_batch_seconds": float(metrics.data_seconds[0].max()),
        "files_opened_by_a_rank": max(count["files_opened"] - count["data_files_opened"] for count in of_ranks),
        "folders_listed_by_root": of_ranks[0]["data_folders_listed"],
        "folders_listed_by_others": max(others, default=0),
    }


def seconds_until_started(num_ranks: int, rank: list[str]) -> float:
    """Run ranks to their end; returns the seconds from mpirun until the run says that it has started."""
    mpirun = shutil.which("mpirun")
    if mpirun is None:
        sys.exit("mpirun is not on PATH: activate the environment (source .venv/bin/activate)")
    begin, seconds = time.perf_counter(), None
    command = [mpirun, "-n", str(num_ranks), *rank]
    with subprocess.Popen(command, env=ON_ONE_MACHINE | os.environ, stdout=subprocess.PIPE, text=True) as job:
        assert job.stdout is not None
        for line in job.stdout:
            if STARTED in line and seconds is None:
                seconds = time.perf_counter() - begin
    if job.returncode or seconds is None:
        sys.exit(f"bench_startup.py: the run on {num_ranks} ranks ended with status {job.returncode}")
    return seconds


def print_listing_times(path: str) -> None:
    """What each rank runs to list a folder both ways. Collective over MPI_COMM_WORLD."""
    comm = start_mpi()
    from wash_hpc.parallel.world import on_root

    ways = {"by_all": lambda: scan_splits(path), "once": lambda: on_root(comm, lambda: scan_splits(path))}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(ROUNDS + 1):
        for way, work in ways.items():
            comm.Barrier()
            seconds[way].append(max(comm.allgather(seconds_of(work))))
    by_all, once = (median(rounds[1:]) for rounds in seconds.values())
    if comm.rank == 0:
        figures = {"listed_by_all_seconds": by_all, "listed_once_seconds": once, "by_all_over_once": by_all / once}
        print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    sys.exit(main())
