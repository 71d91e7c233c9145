"""The processes of a test cluster: found by what stands in their environment, and killed.

Owns no daemon and no folder while the tests live. Run as a program it guards one cluster against tests that are killed:
it waits for their end, then kills what runs and deletes the cluster's folder. It imports nothing of ours, so that it
runs from any folder.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

# The first is for slurmd, which is started with it; Slurm gives the second to every task.
NODE_VARIABLES = ("WASH_TEST_NODE", "SLURMD_NODENAME")


def start_guard(folder: Path) -> subprocess.Popen[bytes]:
    """Start the guard of a cluster. It acts when its standard input, which only its caller holds open, is closed."""
    return subprocess.Popen([sys.executable, __file__, folder], stdin=subprocess.PIPE, start_new_session=True)


def spool_of(folder: Path, node: str) -> Path:
    """Where a node's slurmd keeps its files, and runs."""
    return folder / f"spool.{node}"


def find_processes(folder: Path, node: str = "*") -> list[int]:
    """Everything that runs with the slurm.conf of a cluster's folder: daemons, job steps, ranks.

    Args:
        folder: the cluster's.
        node: only what runs on this node of it.

    Returns:
        Process ids, parents before their children as a rule.
    """
    mark = f"SLURM_CONF={folder / 'slurm.conf'}".encode()
    marks_of_node = {f"{variable}={node}".encode() for variable in NODE_VARIABLES}
    found = []
    for process in sorted(Path("/proc").glob("[0-9]*"), key=lambda entry: int(entry.name)):
        try:
            environment = set((process / "environ").read_bytes().split(b"\0"))
            is_ours = mark in environment and (node == "*" or bool(marks_of_node & environment))
            # slurmstepd writes its title over its environment, but stays where its slurmd was started.
            if (process / "comm").read_text() == "slurmstepd\n":
                is_ours = (process / "cwd").readlink().match(str(spool_of(folder, node)))
        except OSError:  # it has ended, or is another user's
            continue
        if is_ours:
            found.append(int(process.name))
    return found


def names_of(pids: Iterable[int]) -> set[str]:
    """The names of the commands that these processes run."""
    found = set()
    for pid in pids:
        with suppress(OSError):  # it has ended
            found.add(Path(f"/proc/{pid}/comm").read_text().strip())
    return found


def kill_processes(find: Callable[[], list[int]]) -> None:
    """Kill what `find` finds, until that is nothing (one may start another meanwhile) or 10 seconds are over."""
    deadline = time.monotonic() + 10
    while (pids := find()) and time.monotonic() < deadline:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)


def _guard(folder: Path) -> None:
    """Wait for the end of the tests, then leave nothing of their cluster."""
    sys.stdin.read()
    kill_processes(lambda: find_processes(folder))
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    _guard(Path(sys.argv[1]))
