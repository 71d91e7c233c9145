"""`wash-hpc sweep`: from its options to what it does, and its exit status."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
import time
from collections.abc import Sequence

from wash_hpc.commands import program
from wash_hpc.sweep.grid import Run, Sweep, read_sweep, require_runs
from wash_hpc.sweep.runs import STOPPED, Say, look_at, report, train_in_turn
from wash_hpc.sweep.slurm import Submission, submit, task_arguments

DONE, SOME_MISSING, INTERRUPTED = 0, 1, 130


def sweep(options: argparse.Namespace, say: Say) -> int:
    """Do what the command line says.

    Args:
        options: as `options` has them.
        say: prints a line.

    Returns:
        The exit status.

    Raises:
        WashError: a mistake of the user's; nothing has been started or submitted.
    """
    plan = read_sweep(options.file, options.overrides)
    if options.task is not None:
        say("\n".join(task_arguments(plan, options.task)))
        return DONE
    chosen = plan.select(options.only)
    runs = [run for _, run in chosen]
    require_runs(plan, runs)
    if options.list:
        return _list(plan, chosen, say)
    if options.report:
        return DONE if report(plan, runs, say) else SOME_MISSING
    if options.slurm:
        words = [str(options.file), *options.overrides]
        given = (" ".join(options.sbatch), " ".join(options.sbatch_report))
        submit(plan, chosen, Submission(words, options.only, *given, options.at_once), say)
        return DONE
    return _train(plan, runs, options.launcher, say)


def _list(plan: Sweep, chosen: Sequence[tuple[int, Run]], say: Say) -> int:
    """One line a run: its number, its state, its name, its ranks and what makes it this run."""
    found = [look_at(plan, run) for _, run in chosen]
    states = [str(state) if state.kind == STOPPED else state.kind for state in found]
    width = max(map(len, states))
    length = max(len(run.name) for _, run in chosen)
    for (number, run), state in zip(chosen, states, strict=True):
        ranks = f"{run.ranks} rank{'s' * (run.ranks != 1)}"
        say(f"{number:4}  {state:{width}}  {run.name:{length}}  {ranks:8}  {shlex.join(run.overrides)}")
    return DONE


def _train(plan: Sweep, runs: Sequence[Run], launcher: str, say: Say) -> int:
    """Train what has not finished, then report; Ctrl-C or SIGTERM ends it with what can be gone on from, unreported."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    begun = time.monotonic()
    try:
        failed = train_in_turn(plan, runs, launcher, say, program())
        is_complete = report(plan, runs, say)
    except KeyboardInterrupt:
        sys.stderr.write("\nwash_hpc: stopped; the same command goes on with the runs that are missing\n")
        return INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, before)
    say(f"{len(runs) - len(failed)} of {len(runs)} runs are there after {time.monotonic() - begun:.0f} s")
    for name in failed:
        sys.stderr.write(f"wash_hpc: {name} has failed; its messages are above\n")
    return DONE if is_complete else SOME_MISSING
