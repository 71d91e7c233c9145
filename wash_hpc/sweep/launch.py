"""Starting a command on ranks of this machine, and ending it together with them. Waits for it; queues nothing."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from wash_hpc.commands import OURS
from wash_hpc.errors import ConfigError

MPIRUN = "mpirun -n {ranks}"
"""The launcher where nobody names another."""

ON_ONE_MACHINE = {
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "PRTE_MCA_hwloc_default_binding_policy": "none",
    "OMPI_MCA_mpi_yield_when_idle": "1",
    "OMP_NUM_THREADS": "1",
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
}
"""What more ranks than cores need of Open MPI, as in tools/mpi_env.sh, for who has not sourced it."""


def launcher_words(launcher: str, ranks: int, program: Sequence[str] = (OURS,)) -> list[str]:
    """A launcher's words for so many ranks.

    Args:
        launcher: with `{ranks}` in it.
        ranks: how many.
        program: the words that stand behind it.

    Raises:
        ConfigError: it says nothing of ranks, cannot be read, or is not on PATH.
    """
    try:
        words = [word.replace("{ranks}", str(ranks)) for word in shlex.split(launcher)]
    except ValueError as error:
        raise ConfigError(f"--launcher {launcher}: cannot be read: {error}") from error
    if "{ranks}" not in launcher or not words:
        raise ConfigError(f"--launcher {launcher}: expected {{ranks}} in it, as in '{MPIRUN}'")
    for word in (words[0], program[0]):
        if shutil.which(word) is None:
            raise ConfigError(
                f"{word} is not on PATH: activate the environment; in a clone, source tools/mpi_env.sh first"
            )
    return words


def run_ranks(command: Sequence[str], ranks: int) -> int:
    """Run a launcher and wait for it.

    Args:
        command: the launcher's words and those behind them.
        ranks: that it starts; each has its share of the machine's cores, unless OMP_NUM_THREADS says otherwise.

    Returns:
        Its exit status.

    Raises:
        KeyboardInterrupt: after the ranks have ended: by themselves, with a checkpoint; at a second one at once; at a
            third they are killed.
    """
    threads = {"OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // ranks))}
    # A session of its own keeps the terminal's Ctrl-C from it: mpirun would give its ranks one second to end.
    with subprocess.Popen(command, start_new_session=True, env=ON_ONE_MACHINE | threads | os.environ) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            sys.stderr.write("\nwash_hpc: stops after this step, with a checkpoint; Ctrl-C again: at once\n")
            process.send_signal(signal.SIGUSR2)  # which the launcher hands on to its ranks
            try:
                process.wait()
            except KeyboardInterrupt:
                process.send_signal(signal.SIGINT)
                try:
                    process.wait()
                except KeyboardInterrupt:
                    _kill_session(process.pid)
            raise


def _kill_session(leader: int) -> None:
    """End all processes of a session: ranks are in groups of their own, so that the launcher's is not enough."""
    for entry in Path("/proc").iterdir():
        with suppress(ValueError, ProcessLookupError):  # no process, or it has ended meanwhile
            if os.getsid(int(entry.name)) == leader:
                os.kill(int(entry.name), signal.SIGKILL)
