"""Runs of the command line in which something breaks at a chosen step, and what is told of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.support import TINY, mpirun

Fault = tuple[int, int, str]
"""In which step, from 1, while it fetches its batch, which member's rank runs which code; 0: before the first."""

# The step's data are where code is run: the other ranks go on to their first collective.
FAULTY = """
import json, os, random, signal, subprocess, sys, threading, time
from pathlib import Path
from wash_hpc import train
from wash_hpc.__main__ import main

rank = int(os.environ["OMPI_COMM_WORLD_RANK"])
faults = json.loads(sys.argv[1])
regularize = train.regularize

def regularize_and_break(raw, config, member, replica, first_step, num_classes):
    for at, who, code in faults:
        if (at, who) == (0, member):
            exec(code)
    for step, batch in enumerate(regularize(raw, config, member, replica, first_step, num_classes), first_step + 1):
        for at, who, code in faults:
            if (at, who) == (step, member):
                exec(code)
        yield batch

train.regularize = regularize_and_break
"""
MAIN = "sys.exit(main(sys.argv[2:]))"

# A run of 12 steps with a checkpoint after every third.
RUN = [*TINY, "train.steps=12", "checkpoint.every_steps=3", "log.every_steps=1", "parallel.reducer=mpi"]

# Ranks ask each other once a second whether they are to stop: a run that is to notice must last some seconds.
UNHURRIED: list[Fault] = [(step, 0, "time.sleep(0.3)") for step in range(1, 13)]


def command(folder: Path, name: str, faults: list[Fault], *overrides: str, program: str = MAIN) -> list[str]:
    """What mpirun is to start; `program` comes behind FAULTY."""
    config = folder / "tiny.yaml"
    config.write_text("{}\n")
    where = [f"run.dir={folder}", f"run.name={name}"]
    words = ["train", str(config), *RUN, *where, "checkpoint.resume=auto", *overrides]
    return [sys.executable, "-c", FAULTY + program, json.dumps(faults), *words]


def run(
    folder: Path, name: str, faults: list[Fault], *overrides: str, program: str = MAIN
) -> subprocess.CompletedProcess[str]:
    """Start, or go on with, a run on two ranks."""
    return mpirun(2, *command(folder, name, faults, *overrides, program=program))


def why_no_mount(folder: Path) -> str:
    """What keeps this process from mounting a file system of its own; empty: nothing."""
    folder.mkdir(exist_ok=True)
    try:
        mount(folder, 1)
    except (OSError, subprocess.CalledProcessError) as error:
        return f"a small file system cannot be mounted ({getattr(error, 'stderr', error)}); root may"
    unmount(folder)
    return ""


def mount(folder: Path, megabytes: int) -> None:
    """A file system in memory of so many megabytes."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)],
        check=True,
        capture_output=True,
        text=True,
    )


def unmount(folder: Path) -> None:
    """Take it away again, whoever still has a file open in it."""
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def files_of(folder: Path) -> dict[str, int]:
    """The files of a folder and when each was changed."""
    return {
        str(Path(root, name).relative_to(folder)): Path(root, name).stat().st_mtime_ns
        for root, _, names in os.walk(folder)
        for name in names
    }
