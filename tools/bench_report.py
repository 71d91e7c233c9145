#!/usr/bin/env python3
"""How long a report of very many records takes to make and to open, and how large it is; `--help` says how.

Runs are made up; they are written in the layout of the real writer. A page counts as open when every figure in
the window is drawn, in Debian's headless Chromium.
"""

from __future__ import annotations

import argparse
import math
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from wash_hpc.config import dump_config, load_config
from wash_hpc.report.page import write_page
from wash_hpc.report.runs import read_runs, with_metrics
from wash_hpc.storage.metrics import EvaluationRecord, MetricsWriter, TrainRecord, import_h5py
from wash_hpc.storage.records import EVALUATE, TRAIN
from wash_hpc.storage.summary import Summary, write_summary

MEMBERS, LAYERS = 4, 50
METHODS = ("wash", "papa", "papa_all", "independent", "local_sgd", "diloco")
CHROMIUM = "/usr/bin/chromium"
ALL_SEEN_ARE_DRAWN = """() => [...document.querySelectorAll(".plot")].every(place => {
  const box = place.getBoundingClientRect();
  return box.top > innerHeight || box.bottom < 0 || place.dataset.drawn === "yes"; })"""


def make_run(folder: Path, number: int, num_records: int, name: str = "", **changes: Any) -> Path:
    """A finished run of so many records, its first by the real writer, the rest all at once.

    Args:
        folder: in which the run's folder is made.
        number: decides its name, method and numbers.
        num_records: of training; a hundredth as many evaluations.
        name: in place of one made of the number.
        changes: of its summary.
    """
    run = folder / f"run-{number:03d}"
    run.mkdir(parents=True)
    name = name or run.name
    (run / "config.yaml").write_text(f"# {name}\n{_config()}")
    about: dict[str, str | int | float] = {"first_step": 0, "git_commit": "0" * 40}
    layers = [f"layer{layer}.weight of {name}" for layer in range(LAYERS)]
    with MetricsWriter(run, MEMBERS, layers, about) as writer:
        writer.append_train(_first(TRAIN, TrainRecord))
        writer.append_evaluation(_first(EVALUATE, EvaluationRecord))
    random = np.random.default_rng(number)
    _fill(writer.path, random, num_records, max(2, num_records // 100))
    soup = float(random.uniform(0.7, 0.95))
    write_summary(run, replace(_summary(name, METHODS[number % len(METHODS)], soup, num_records), **changes))
    return run


def write_report(folders: list[Path], file: Path) -> tuple[float, float]:
    """Make the page of some runs: the seconds to read them, and to write it."""
    started = time.perf_counter()
    runs, problems = with_metrics(read_runs(folders)[0])
    assert not problems, problems
    read = time.perf_counter()
    write_page(file, runs)
    return read - started, time.perf_counter() - read


@contextmanager
def browser() -> Iterator[Any]:
    """Debian's Chromium, without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Root has no sandbox to go into.
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


def open_seconds(chromium: Any, file: Path) -> tuple[float, float]:
    """Seconds from asking for a page until all figures in the window are drawn: on the clock, and of the page's thread.

    Other work on the machine makes the first longer, and the second hardly.
    """
    page = chromium.new_page(viewport={"width": 1280, "height": 900})
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    started = time.perf_counter()
    page.goto(file.as_uri())
    page.wait_for_function(ALL_SEEN_ARE_DRAWN, timeout=120_000)
    seconds = time.perf_counter() - started
    used = {metric["name"]: metric["value"] for metric in session.send("Performance.getMetrics")["metrics"]}
    page.close()
    return seconds, float(used["TaskDuration"])


@dataclass(frozen=True)
class Measured:
    """Of one page.

    Attributes:
        num_runs, num_records: what is on it; records of each run.
        read_seconds, write_seconds: to make it.
        megabytes: of the file, 10^6 bytes.
        open_seconds: on the clock, of each opening, the shortest first.
        thread_seconds: of the page's thread in the opening in which it took least.
    """

    num_runs: int
    num_records: int
    read_seconds: float
    write_seconds: float
    megabytes: float
    open_seconds: list[float]
    thread_seconds: float

    def __str__(self) -> str:
        least, median, most = (self.open_seconds[place] for place in (0, len(self.open_seconds) // 2, -1))
        return (
            f"{self.num_runs} runs of {self.num_records} records: read in {self.read_seconds:.1f} s, "
            f"page made in {self.write_seconds:.1f} s, {self.megabytes:.1f} MB, open after {median:.1f} s "
            f"(median of {len(self.open_seconds)}; {least:.1f} to {most:.1f}), "
            f"{self.thread_seconds:.1f} s of them the page's thread"
        )


def measure(chromium: Any, folder: Path, num_runs: int, num_records: int, num_openings: int) -> Measured:
    """Make runs and their page in a folder, and open it so many times."""
    runs = [make_run(folder, number, num_records) for number in range(num_runs)]
    file = folder / "report.html"
    read, written = write_report(runs, file)
    opened = [open_seconds(chromium, file) for _ in range(num_openings)]
    clock, thread = sorted(seconds for seconds, _ in opened), min(used for _, used in opened)
    return Measured(num_runs, num_records, read, written, file.stat().st_size / 1e6, clock, thread)


def main() -> int:
    parser = argparse.ArgumentParser(description="Time the making and opening of large reports.")
    parser.add_argument("--runs", type=int, default=300, help="runs of the first page")
    parser.add_argument("--records", type=int, default=1000, help="records of each of them")
    parser.add_argument("--long", type=int, default=200_000, help="records of the one run of the second page")
    options = parser.parse_args()
    if shutil.which(CHROMIUM) is None:
        sys.exit(f"{CHROMIUM} is missing: apt-get install chromium")
    pages = ((options.runs, options.records), (1, options.long))
    with tempfile.TemporaryDirectory() as folder, browser() as chromium:
        open_seconds(chromium, _empty_page(Path(folder)))  # the browser's own start
        for num_runs, num_records in pages:
            print(measure(chromium, Path(folder) / f"{num_runs}", num_runs, num_records, num_openings=5), flush=True)
    return 0


def _empty_page(folder: Path) -> Path:
    file = folder / "empty.html"
    file.write_text("<!DOCTYPE html><title>empty</title>")
    return file


@cache
def _config() -> str:
    """As long as any run's."""
    return dump_config(load_config(None))


def _width(axis: str) -> tuple[int, ...]:
    return {"": (), "member": (MEMBERS,), "layer": (LAYERS,)}[axis]


def _first(table: Any, kind: Any) -> Any:
    values = {column.field: np.zeros(_width(column.axis), column.dtype) for column in table}
    return kind(**{**values, "step": 1})


def _fill(path: Path, random: np.random.Generator, num_records: int, num_evaluations: int) -> None:
    """Give each dataset of a closed file so many rows."""
    with import_h5py().File(path, "r+", libver="latest") as file:
        for table, num_rows in ((TRAIN, num_records), (EVALUATE, num_evaluations)):
            done = np.linspace(1 / num_rows, 1, num_rows)
            for column in table:
                values = _column(column.field, done, random, (num_rows, *_width(column.axis)))
                file[column.path].resize(num_rows, axis=0)
                file[column.path][:] = values.astype(column.dtype)
            steps = (done * num_records).round().astype(np.int64)
            file[table[0].path][:] = steps


def _column(field: str, done: Any, random: np.random.Generator, shape: tuple[int, ...]) -> Any:
    """A dataset's numbers: noise around what falls or rises as training does."""
    trend = done if len(shape) == 1 else done[:, None]
    if field.endswith("accuracy"):
        return np.clip(0.9 - 0.7 * np.exp(-8 * trend) + random.normal(0, 0.02, shape), 0, 1)
    if field in {"loss"} or field.endswith("nll"):
        return np.exp(-3 * trend + random.normal(0, 0.1, shape))
    if field == "lr":
        return 0.05 * (1 + np.cos(math.pi * trend))
    return 10 * (1 + trend) * random.uniform(0.9, 1.1, shape)


def _summary(name: str, method: str, soup: float, steps: int) -> Summary:
    return Summary(
        name,
        method,
        MEMBERS,
        1,
        0,
        steps,
        10.0,
        steps * 32,
        1_000_000,
        soup - 0.02,
        soup - 0.01,
        soup + 0.005,
        soup,
        soup - 0.01,
        None,
        20.0,
        0 if method == "independent" else int(1e6 * soup**8),
        600.0,
        90.0,
        seconds={"data": 10.0, "compute": 400.0, "reduce": 0.0, "exchange": 30.0, "checkpoint": 5.0},
    )


if __name__ == "__main__":
    sys.exit(main())
