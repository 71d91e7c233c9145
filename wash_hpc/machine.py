"""What was measured on a kind of machine and is remembered for it, in one small file of the user's.

The file is `wash_hpc/machines.json` in XDG_CONFIG_HOME, or in ~/.config: one object a kind of machine, so that a home
that many nodes share serves all of them. Owns the file and the names of machines; measuring is `tune`'s.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch

from wash_hpc.errors import ConfigError
from wash_hpc.storage.files import make_folder, write_atomically

SHARE = "hw_decoder_share"


def machines_file() -> Path:
    """Where what was measured is kept."""
    home = os.environ.get("XDG_CONFIG_HOME")
    return (Path(home) if home else Path.home() / ".config") / "wash_hpc" / "machines.json"


def machine_name(num_threads: int, gpu: str | None = None) -> str:
    """The kind of machine that a rank has, such as `NVIDIA H200, 8 threads`: what the best share depends on.

    Not the cores that a process may run on, of which a job that tunes and a job that trains are seldom given as many.

    Args:
        num_threads: `data.workers`.
        gpu: its model; default: the model of torch's current GPU.
    """
    gpu = torch.cuda.get_device_name() if gpu is None else gpu
    return f"{gpu}, {num_threads} threads"


def remembered_share(machine: str) -> float | None:
    """The share of JPEG files for the GPU's decoder that was found best for this kind of machine, or None.

    Raises:
        ConfigError: the file is there and is not as it should be.
    """
    found = _read().get(machine, {})
    share = found.get(SHARE) if isinstance(found, dict) else found
    if share is None:
        return None
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
        raise ConfigError(f"{machines_file()}: {machine}: {SHARE} is {json.dumps(share)}; expected a share in [0, 1]")
    return float(share)


def remember_share(machine: str, share: float, images_per_second: float) -> Path:
    """Write down the best share of this kind of machine; what is known of others stays.

    Returns:
        The file.

    Raises:
        ConfigError: the file is there and is not as it should be; it is left as it is.
        RunFolderError: it cannot be written.
    """
    file = machines_file()
    known = {**_read(), machine: {SHARE: share, "images_per_second": round(images_per_second, 1)}}
    make_folder(file.parent)
    write_atomically(file, json.dumps(known, indent=2, sort_keys=True) + "\n")
    return file


def _read() -> dict[str, Any]:
    file = machines_file()
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"it is no JSON ({error})"
        raise ConfigError(f"{file}: cannot be read: {reason}; mend or remove it, or set data.{SHARE}") from error
    if not isinstance(known, dict):
        raise ConfigError(f"{file}: expected one JSON object; mend or remove it, or set data.{SHARE}")
    return known
