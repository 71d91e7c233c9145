#!/usr/bin/env python3
"""Train what docs/results.md says of the method, sweep by sweep, and write its tables and figures.

Each sweep is a file in configs/evidence/. What has finished is not trained again and what was stopped goes on, so the
command can be given as often as one likes. Numbers of every run go to docs/evidence/SWEEP.csv; the tables are made of
these, mean ± standard deviation over seeds, and put between their marks in docs/results.md and README.md.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run from a clone that is not installed

import evidence_tables
from evidence_tables import read_rows, with_tables, write_rows
from link_tables import with_link_tables
from warm_python import warm_ranks, with_warm_command

from wash_hpc.errors import WashError
from wash_hpc.sweep.grid import Sweep, read_sweep, require_runs
from wash_hpc.sweep.runs import FINISHED, look_at

ROOT = Path(__file__).resolve().parent.parent
SWEEPS = ROOT / "configs/evidence"
RUNS = "runs/evidence"
DONE, SOME_MISSING, REFUSED, INTERRUPTED = 0, 1, 2, 130

EXAMPLES = """\
examples:
  tools/evidence.py --list                  the sweeps, and how many of their runs have finished
  tools/evidence.py                         all of them, in the order of the list: eight to nine hours on two cores
  tools/evidence.py main_3 members          these two
  tools/evidence.py --tables                trains nothing: tables out of docs/evidence/*.csv

Runs: runs/evidence/SWEEP/RUN, with the output in runs/evidence/SWEEP.log. Ctrl-C stops after a step, with a checkpoint.
exit status: 0 all there; 1 some runs failed or are missing; 2 wrong input; 130 interrupted.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; the exit status."""
    options = _parser().parse_args(arguments)
    os.chdir(ROOT)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        sweeps = _sweeps(options.sweeps)
        if options.list:
            return _list(sweeps)
        if options.tables:
            _write_tables()
            return DONE
        for sweep in sweeps.values():
            require_runs(sweep, sweep.runs)
        _train(sweeps, options.at_once)
        missing = [name for name, sweep in sweeps.items() if not _collect(name, sweep)]
        _write_tables()
    except WashError as error:
        print(f"evidence.py: {error}", file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        print("\nevidence.py: stopped; give the same command to go on", file=sys.stderr)
        return INTERRUPTED
    for name in missing:
        print(f"evidence.py: {name}: not all runs are there; {RUNS}/{name}.log says why", file=sys.stderr)
    return SOME_MISSING if missing else DONE


def _sweeps(names: Sequence[str]) -> dict[str, Sweep]:
    """The sweeps of these names, in this order; all where there are none."""
    files = {file.stem: file for file in sorted(SWEEPS.glob("*.yaml"))}
    for name in names:
        if name not in files:
            raise WashError(f"{name}: there is no such sweep in configs/evidence; there are {', '.join(files)}")
    return {name: read_sweep(files[name], [f"run.dir={RUNS}"]) for name in names or files}


def _finished(sweep: Sweep) -> list[str]:
    there = [run for run in sweep.runs if (sweep.folder / run.name).exists()]  # the others' configurations are not read
    return [run.name for run in there if look_at(sweep, run).kind == FINISHED]


def _list(sweeps: dict[str, Sweep]) -> int:
    for name, sweep in sweeps.items():
        print(f"{name:20} {len(_finished(sweep)):3} of {len(sweep.runs):3} runs have finished", flush=True)
    return DONE


def _train(sweeps: dict[str, Sweep], at_once: int) -> None:
    """Train what has not finished, so many sweeps at a time; their ranks' imports are done."""
    left = [name for name, sweep in sweeps.items() if len(_finished(sweep)) < len(sweep.runs)]
    if not left:
        return
    Path(RUNS).mkdir(parents=True, exist_ok=True)
    running: dict[str, subprocess.Popen[bytes]] = {}
    with warm_ranks(), tempfile.TemporaryDirectory(prefix="evidence-") as folder:
        environment = {**os.environ, "PATH": f"{with_warm_command(Path(folder))}:{os.environ['PATH']}"}
        try:
            while left or running:
                while left and len(running) < at_once:
                    running[left[0]] = _start(left[0], environment)
                    left.pop(0)
                time.sleep(0.2)
                for name in [name for name, process in running.items() if process.poll() is not None]:
                    print(f"{name}: ended with status {running.pop(name).returncode}", flush=True)
        except KeyboardInterrupt:
            _stop(list(running.values()))
            raise


def _start(name: str, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start one sweep by its own command, out of reach of the terminal's Ctrl-C: it would hear of it twice."""
    print(f"{name}: begins; output: {RUNS}/{name}.log", flush=True)
    command = ["wash-hpc", "sweep", str(SWEEPS / f"{name}.yaml"), f"run.dir={RUNS}"]
    with Path(RUNS, f"{name}.log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)


def _stop(sweeps: Sequence[subprocess.Popen[bytes]]) -> None:
    """Have sweeps stop after a step, with a checkpoint; what is pressed a second and a third time is handed on."""
    for _ in range(3):
        for process in sweeps:
            process.terminate()
        with suppress(KeyboardInterrupt):
            for process in sweeps:
                process.wait()
            return


def _collect(name: str, sweep: Sweep) -> bool:
    """Write the numbers of what has finished; whether that is all. Rows of runs that are not here are kept."""
    finished = _finished(sweep)
    if finished:
        write_rows(name, sweep, finished)
    return {run.name for run in sweep.runs} <= {row["run"] for row in read_rows(name)}


def _write_tables() -> None:
    for document in evidence_tables.DOCUMENTS:
        before = document.read_text(encoding="utf-8")
        after = with_link_tables(with_tables(before))
        if after != before:
            document.write_text(after, encoding="utf-8")
        print(f"{document}: {'the tables are as they were' if after == before else 'written'}")


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="evidence.py", description=__doc__, epilog=EXAMPLES, formatter_class=raw)
    parser.add_argument("sweeps", nargs="*", metavar="SWEEP", help="files in configs/evidence, by name (default: all)")
    parser.add_argument("--list", action="store_true", help="say what is there, and train nothing")
    parser.add_argument(
        "--tables", action="store_true", help="write the tables from docs/evidence/*.csv, and train nothing"
    )
    parser.add_argument("--at-once", type=int, default=1, metavar="N", help="sweeps trained side by side (default: 1)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
