"""How this program was started, and the command that starts a run again, as one types it."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

OURS = "wash-hpc"
_SCRIPT = re.compile(r"python [\w./+-]+\.py")  # of others' files no other text becomes a command to paste


def program() -> list[str]:
    """The words that start this program anew: `wash-hpc`, or the script that has registered something of its own."""
    spec, script = sys.modules["__main__"].__spec__, Path(sys.argv[0])
    if spec is not None:
        name = spec.name.removesuffix(".__main__")
        return [OURS] if name == "wash_hpc" else [sys.executable, "-m", name]
    return [OURS] if script.name == OURS or not script.is_file() else [sys.executable, str(script)]


def describe_program() -> str:
    """The same as a run keeps it: `wash-hpc`, or `python SCRIPT`."""
    python, *rest = program()
    return shlex.join(["python", *rest]) if rest else python


def train_command(config: Path, num_ranks: object, started_by: object, argument: str) -> str:
    """What one types to train by a configuration.

    Args:
        config: its file.
        num_ranks: as a run's metrics have it; where it is no number above 1, no launcher is named.
        started_by: as a run's metrics have it; `wash-hpc` where it is no script's name.
        argument: `key=value`.
    """
    launcher = f"mpirun -n {num_ranks} " if isinstance(num_ranks, int) and num_ranks > 1 else ""
    by = started_by if isinstance(started_by, str) and _SCRIPT.fullmatch(started_by) else OURS
    return f"{launcher}{by} train {shlex.quote(str(config))} {shlex.quote(argument)}"
