#!/usr/bin/env python3
"""Train every method by one recipe for equally many steps, and put them into one table and one page.

A row is one run: the configuration, the method's name, and its options as they were published, but for what counts
over the whole run, which the configuration scales to its length. No method is tuned.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from bench_common import ON_ONE_MACHINE

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run from a clone that is not installed

from wash_hpc.config import Config, load_config, load_run_config
from wash_hpc.data import open_source
from wash_hpc.data.source import steps_per_epoch
from wash_hpc.errors import WashError
from wash_hpc.storage.run_folder import changed_keys
from wash_hpc.storage.run_lock import LOCK, RunLock

CONFIG = Path("configs/compare_digits.yaml")
MEMBERS = 4
DONE, SOME_FAILED, REFUSED, INTERRUPTED = 0, 1, 2, 130

EXAMPLES = """\
examples:
  tools/compare.py                                      all rows on scikit-learn's digits
  tools/compare.py --config configs/compare_fashion_mnist.yaml run.seed=1 run.name=seed-1
  tools/compare.py --only wash,papa train.steps=200 run.name=look   two rows, beside finished ones

Rows that have finished with the same configuration are not trained again, and none that has finished is ever removed.
Runs: RUN.DIR/RUN.NAME/ROW; page: RUN.DIR/compare.html.
exit status: 0 all rows shown; 1 some failed, each named; 2 wrong input; 130 interrupted.
"""


@dataclass(frozen=True)
class Row:
    """One run of the comparison: its name, its `key=value` arguments, and the ranks of mpirun."""

    name: str
    overrides: tuple[str, ...]
    ranks: int = MEMBERS


def make_rows(config: Config, steps_of_epoch: int) -> list[Row]:
    """All rows for a common configuration, whose `method.p` is that of a constant p over the whole run.

    Raises:
        WashError: it does not say how many steps.
    """
    steps, p, batch_size = config.train.steps, config.method.p, config.data.batch_size
    if steps is None:
        raise WashError("train.steps=null: expected the number of steps that all methods have in common")
    # p follows a cosine to about zero, whose mean is a half: as many values are sent as by a constant p.
    falling = f"method.p={min(1.0, 2 * p)}"
    then_papa = f"method.then=[{{name: papa, start: {steps // 2}}}]"
    # Published are 5 epochs of 300 and 1 of 90; a short run, in which that would be once or never, takes every one.
    epochs = 5 if steps >= 20 * steps_of_epoch else 1
    threads = (f"run.threads={min(MEMBERS, os.cpu_count() or 1)}",)  # one rank has the cores of four
    return [
        Row("independent", ("method.name=independent",)),
        Row("wash", ("method.name=wash",)),
        Row("wash_opt", ("method.name=wash", "method.optimizer_state=true")),
        Row("wash_lr", ("method.name=wash", "method.p_schedule=lr", falling)),
        Row("wash_then_papa", ("method.name=wash", f"method.stop={steps // 2}", then_papa)),
        Row("papa", ("method.name=papa",)),
        Row("papa_all", ("method.name=papa_all", f"method.every={epochs}")),
        Row("sparta", ("method.name=sparta",)),
        Row("sparta_partitioned", ("method.name=sparta", "method.draw=partitioned")),
        Row("local_sgd", ("method.name=local_sgd",)),
        Row("diloco", ("method.name=diloco",)),
        Row("data_parallel", ("method.name=data_parallel", f"data.batch_size={MEMBERS * batch_size}")),
        Row("single_long", ("method.name=independent", f"train.steps={MEMBERS * steps}", *threads), ranks=1),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what is not there yet, then show everything; returns the exit status."""
    options, started = _parser().parse_intermixed_args(arguments), time.monotonic()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        folder, rows = _plan(options)
        failed = []
        for number, row in enumerate(rows, 1):
            print(f"\n[{number}/{len(rows)}] {row.name}", flush=True)
            try:
                is_there = _train(options, folder, row)
            except WashError as error:  # somebody else has trained it meanwhile
                print(f"compare.py: {error}", file=sys.stderr)
                is_there = False
            if not is_there:
                failed.append(row.name)
        if len(failed) < len(rows):
            _show(folder, [row for row in rows if row.name not in failed])
    except WashError as error:
        print(f"compare.py: {error}", file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        print("\ncompare.py: stopped; the same command goes on with the rows that are missing", file=sys.stderr)
        return INTERRUPTED
    print(f"\n{len(rows) - len(failed)} of {len(rows)} rows are there after {time.monotonic() - started:.0f} s")
    for name in failed:
        print(f"compare.py: {name} has failed and is not in the table; its messages are above", file=sys.stderr)
    return SOME_FAILED if failed else DONE


def _plan(options: argparse.Namespace) -> tuple[Path, list[Row]]:
    """Where the rows' runs go, and which rows; everything that can be refused is refused here."""
    for override in options.overrides:
        if override.startswith("method.") and not override.startswith("method.p="):
            raise WashError(
                f"{override}: each row has a method and options of its own; only method.p is common to them"
            )
    if shutil.which("mpirun") is None:
        raise WashError("mpirun is not on PATH: source tools/mpi_env.sh first, or use `make compare`")
    config = load_config(options.config, options.overrides)
    num_train = open_source(config, torch.device("cpu")).num_train
    rows = make_rows(config, steps_per_epoch(num_train, config.data.batch_size))
    names = [row.name for row in rows]
    only = options.only.split(",") if options.only else names
    if unknown := set(only) - set(names):
        raise WashError(f"--only {unknown.pop()}: there is no such row; there are {', '.join(names)}")
    rows = [row for row in rows if row.name in only]
    for row in rows:
        _has_finished(config.folder / row.name, load_config(options.config, _overrides(options, config.folder, row)))
    return config.folder, rows


def _overrides(options: argparse.Namespace, folder: Path, row: Row) -> list[str]:
    return [*options.overrides, *row.overrides, f"run.dir={folder}", f"run.name={row.name}"]


def _train(options: argparse.Namespace, folder: Path, row: Row) -> bool:
    """Train a row, unless it is there; returns whether it is by then."""
    run, overrides = folder / row.name, _overrides(options, folder, row)
    if _has_finished(run, load_config(options.config, overrides)):
        print(f"      {run} has finished before with this configuration")
        return True
    if run.exists():
        RunLock(run).require_free()
        print(f"      (removing {run}: it has not finished)")
        shutil.rmtree(run)
    bar = "bar" if sys.stderr.isatty() else "lines"  # ranks under mpirun cannot see that somebody is looking
    command = ["mpirun", "-n", str(row.ranks), "wash-hpc", "train", str(options.config)]
    command += [*overrides, f"log.progress={bar}"]
    print("      " + " ".join(f"'{word}'" if " " in word else word for word in command), flush=True)
    return _run(command) == 0 and (run / "summary.json").is_file()


def _has_finished(run: Path, config: Config) -> bool:
    """Whether a run is there and need not be trained again.

    Raises:
        WashError: it has finished with another configuration: it is not ours to remove. Or it is no run at all.
    """
    if not run.exists():
        return False
    if not (run / "config.yaml").is_file() and any(path.name != LOCK for path in run.iterdir()):
        raise WashError(f"{run}: exists and is no run (nothing was touched); choose another run.name")
    if not (run / "summary.json").is_file():
        return False
    try:
        before = load_run_config(run)
        # Where it lies and on what it ran: another folder's name for it, or another host, makes no other run of it.
        config = replace(config, run=replace(config.run, dir=before.run.dir, threads=before.run.threads))
        changes = ", ".join(changed_keys(before, replace(config, parallel=before.parallel)))
    except WashError as error:  # of another version
        changes = str(error)
    if changes:
        raise WashError(
            f"{run} has finished with another configuration (nothing was touched): {changes}. Give these runs another "
            f"name, as in run.name={run.parent.name}-2, or remove {run}"
        )
    return True


def _run(command: Sequence[str]) -> int:
    """Run mpirun; when we are interrupted, wait until its ranks have ended."""
    # A session of its own keeps the terminal's Ctrl-C from it: a second signal would make it leave its ranks.
    with subprocess.Popen(command, start_new_session=True, env=ON_ONE_MACHINE | os.environ) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)
            process.wait()
            raise


def _show(folder: Path, rows: Sequence[Row]) -> None:
    """Print the table, all columns of it, and write the page."""
    page = folder.parent / "compare.html"
    command = [sys.executable, str(Path(__file__).with_name("summarize.py")), *(str(folder / row.name) for row in rows)]
    # By way of a pipe: on a terminal the table would leave out columns that do not fit.
    done = subprocess.run([*command, "--html", str(page)], stdout=subprocess.PIPE, text=True, check=False)
    print(f"\n{done.stdout}Curves: {page}")
    if done.returncode != 0:
        raise WashError(f"{page} or the table could not be made, as said above")


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="compare.py", description=__doc__, epilog=EXAMPLES, formatter_class=raw)
    parser.add_argument("--config", type=Path, default=CONFIG, help=f"that all rows have in common (default: {CONFIG})")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="overrides of it, for all rows")
    parser.add_argument("--only", metavar="ROW,ROW", help="these rows alone, by name")
    return parser


if __name__ == "__main__":
    sys.exit(main())
