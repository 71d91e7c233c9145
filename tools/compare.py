#!/usr/bin/env python3
"""Train every method by one recipe for equally many steps, and put them into one table and one page.

A row is one run: the configuration, the method's name, and its options as they were published, but for what counts
over the whole run, which the configuration scales to its length. No method is tuned.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run from a clone that is not installed

from wash_hpc.config import Config, load_config
from wash_hpc.data import open_source
from wash_hpc.data.source import steps_per_epoch
from wash_hpc.errors import WashError
from wash_hpc.sweep.grid import Run, Sweep
from wash_hpc.sweep.launch import MPIRUN, launcher_words
from wash_hpc.sweep.runs import look_at, require_same, train_in_turn

CONFIG = Path("configs/compare_digits.yaml")
MEMBERS = 4
DONE, SOME_FAILED, REFUSED, INTERRUPTED = 0, 1, 2, 130

EXAMPLES = """\
examples:
  tools/compare.py                                      all rows on scikit-learn's digits
  tools/compare.py --config configs/compare_fashion_mnist.yaml run.seed=1 run.name=seed-1
  tools/compare.py --only wash,papa train.steps=200 run.name=look   two rows, beside finished ones

Rows that have finished with the same configuration are not trained again, those that were stopped go on, and none is
ever removed. Seeds, values and variants that do not follow from the recipe's length: wash-hpc sweep --help.
Runs: RUN.DIR/RUN.NAME/ROW; page: RUN.DIR/compare.html.
exit status: 0 all rows shown; 1 some failed, each named; 2 wrong input; 130 interrupted.
"""


def make_rows(config: Config, steps_of_epoch: int) -> list[Run]:
    """All rows for a common configuration, whose `method.p` is that of a constant p over the whole run.

    Raises:
        WashError: it does not say how many steps.
    """
    steps, p, batch_size = config.train.steps, config.method.p, config.data.batch_size
    if steps is None:
        raise WashError("train.steps=null: expected the number of steps that all methods have in common")
    if p is None:
        raise WashError("method.p=auto: expected the number that SPARTA has in common with WASH")
    # p follows a cosine to about zero, whose mean is a half: as many values are sent as by a constant p.
    falling = f"method.p={min(1.0, 2 * p)}"
    then_papa = f"method.then=[{{name: papa, start: {steps // 2}}}]"
    # Published are 5 epochs of 300 and 1 of 90; a short run, in which that would be once or never, takes every one.
    epochs = 5 if steps >= 20 * steps_of_epoch else 1
    threads = f"run.threads={min(MEMBERS, os.cpu_count() or 1)}"  # one rank has the cores of four
    return [
        _row("independent", "method.name=independent"),
        _row("wash", "method.name=wash"),
        _row("wash_opt", "method.name=wash", "method.optimizer_state=true"),
        _row("wash_lr", "method.name=wash", "method.p_schedule=lr", falling),
        _row("wash_then_papa", "method.name=wash", f"method.stop={steps // 2}", then_papa),
        _row("papa", "method.name=papa"),
        _row("papa_all", "method.name=papa_all", f"method.every={epochs}"),
        _row("sparta", "method.name=sparta"),
        _row("sparta_partitioned", "method.name=sparta", "method.draw=partitioned"),
        _row("local_sgd", "method.name=local_sgd"),
        _row("diloco", "method.name=diloco"),
        _row("data_parallel", "method.name=data_parallel", f"data.batch_size={MEMBERS * batch_size}"),
        _row("single_long", "method.name=independent", f"train.steps={MEMBERS * steps}", threads, ranks=1),
    ]


def _row(name: str, *overrides: str, ranks: int = MEMBERS) -> Run:
    return Run(name, overrides, ranks)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what is not there yet, then show everything; returns the exit status."""
    options, started = _parser().parse_intermixed_args(arguments), time.monotonic()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        rows, chosen = _plan(options)
        failed = train_in_turn(rows, chosen, MPIRUN, lambda line: print(line, flush=True))
        if len(failed) < len(chosen):
            _show(rows.folder, [row for row in chosen if row.name not in failed])
    except WashError as error:
        print(f"compare.py: {error}", file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        print("\ncompare.py: stopped; the same command goes on with the rows that are missing", file=sys.stderr)
        return INTERRUPTED
    print(f"\n{len(chosen) - len(failed)} of {len(chosen)} rows are there after {time.monotonic() - started:.0f} s")
    for name in failed:
        print(f"compare.py: {name} has failed and is not in the table; its messages are above", file=sys.stderr)
    return SOME_FAILED if failed else DONE


def _plan(options: argparse.Namespace) -> tuple[Sweep, list[Run]]:
    """All rows, and those that are asked for; everything that can be refused is refused here."""
    for override in options.overrides:
        if override.startswith("method.") and not override.startswith("method.p="):
            raise WashError(
                f"{override}: each row has a method and options of its own; only method.p is common to them"
            )
    launcher_words(MPIRUN, MEMBERS)
    config = load_config(options.config, options.overrides)
    num_train = open_source(config, torch.device("cpu")).num_train
    rows = make_rows(config, steps_per_epoch(num_train, config.data.batch_size))
    sweep = Sweep(options.config, tuple(options.overrides), config.folder, tuple(rows))
    chosen = [row for _, row in sweep.select(options.only)]
    for row in chosen:
        require_same(config.folder / row.name, look_at(sweep, row))
    return sweep, chosen


def _show(folder: Path, rows: Sequence[Run]) -> None:
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
