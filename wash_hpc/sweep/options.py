"""The options of `wash-hpc sweep`. Imports nothing that takes time: every command of the package reads them."""

from __future__ import annotations

import argparse
from pathlib import Path

from wash_hpc.sweep.launch import MPIRUN
from wash_hpc.usage import SWEEP, SWEEP_EXAMPLES


def add_sweep(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Add the command to those of the package; returns its parser."""
    parser = commands.add_parser(
        "sweep",
        help="train the runs that one file describes, here or by Slurm, and report them",
        description=SWEEP,
        epilog=SWEEP_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="YAML, as in configs/sweeps/")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="for all runs, under what each has of its own"
    )
    parser.add_argument("--only", metavar="NAME,NAME", help="these runs alone, by name; * stands for anything")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--list", action="store_true", help="print each run with what is there of it; start nothing")
    what.add_argument("--report", action="store_true", help="put what has finished into the table; start nothing")
    what.add_argument("--slurm", action="store_true", help="submit what has not finished as an array of slurm/sweep.sh")
    what.add_argument(
        "--task", type=int, metavar="N", help="print the arguments of `wash-hpc train` for run N of --list, one a line"
    )
    parser.add_argument(
        "--launcher",
        default=MPIRUN,
        metavar="COMMAND",
        help="of ranks, where there is no --slurm (default: %(default)s)",
    )
    slurm = parser.add_argument_group("with --slurm")
    slurm.add_argument(
        "--sbatch",
        action="append",
        default=[],
        metavar='="OPTIONS"',
        help="for all jobs, such as --sbatch=--time=2:00:00",
    )
    slurm.add_argument(
        "--sbatch-report", action="append", default=[], metavar='="OPTIONS"', help="for the report's job"
    )
    slurm.add_argument("--at-once", type=int, metavar="N", help="so many tasks of an array at once (default: all)")
    return parser
