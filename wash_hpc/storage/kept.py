"""Which checkpoints a run has: the last so many and the best are kept, what is damaged or unfinished is put aside."""

from __future__ import annotations

import json
import math
import re
import shutil
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import chain, count
from pathlib import Path

from wash_hpc.errors import RunFolderError
from wash_hpc.storage.checkpoint import (
    CheckpointError,
    DamageError,
    Manifest,
    checkpoint_folder,
    read_manifest,
    write_manifest,
)
from wash_hpc.storage.files import remove_unfinished, sync_folder, write_atomically

_BEST = "best.json"


@dataclass(frozen=True)
class Best:
    """The checkpoint that was judged best so far, as `checkpoints/best.json` has it.

    Attributes:
        step: updates done.
        merit: of the soup then; higher is better.
        by: what the merit is.
    """

    step: int
    merit: float
    by: str


@dataclass(frozen=True)
class Found:
    """A checkpoint that says of itself that it is complete.

    Attributes:
        step: updates done.
        manifest: None where it cannot be read.
        damage: why it cannot, or empty.
    """

    step: int
    manifest: Manifest | None
    damage: str = ""


def find_checkpoints(folder: Path) -> list[Found]:
    """All that are complete, the last one first; what is in the members' files is not looked at.

    Raises:
        CheckpointError: a manifest cannot be read, which is no damage.
    """
    return [_find(folder, step) for step in reversed(_complete_steps(folder))]


def last_manifest(folder: Path) -> Manifest | None:
    """The last manifest of a run that is whole, or None; raises as `find_checkpoints`."""
    return next((found.manifest for found in find_checkpoints(folder) if found.manifest is not None), None)


def find_step(folder: Path, step: int) -> Manifest:
    """The manifest of the checkpoint of one step.

    Raises:
        CheckpointError: there is none, and those that there are are named; or it is damaged.
    """
    steps = _complete_steps(folder)
    if step not in steps:
        there = f"there are {', '.join(map(str, steps))}" if steps else "there is none at all"
        raise CheckpointError(
            f"{folder}: there is no checkpoint of step {step}; {there} (checkpoint.every_steps, checkpoint.keep)"
        )
    return read_manifest(folder, step)


def complete(folder: Path, manifest: Manifest, keep: int, best: Best | None) -> None:
    """Complete a checkpoint, once all members' parts are there, and forget all but the last `keep` and the best.

    Args:
        folder: the run's.
        manifest: of the checkpoint.
        keep: how many.
        best: the best so far, perhaps this one.

    Raises:
        RunFolderError: the manifest, or what says which one is best, cannot be written; then nothing is forgotten.
    """
    write_manifest(folder, manifest)
    with suppress(OSError):  # of the new folder's own name
        sync_folder(folder / "checkpoints")
    if best is not None and best.step == manifest.step:
        write_best(folder, best)
    forget_old(folder, keep, best)


def forget_old(folder: Path, keep: int, best: Best | None) -> None:
    """Remove all complete checkpoints but the last `keep` and the best. What cannot be removed stays."""
    steps: list[int] = []
    with suppress(OSError):
        steps = _complete_steps(folder)[:-keep]
    for step in steps:
        if best is None or step != best.step:
            old = checkpoint_folder(folder, step)
            with suppress(OSError):
                (old / "manifest.json").unlink()  # first, so that a half-deleted checkpoint is none
                shutil.rmtree(old)


def write_best(folder: Path, best: Best) -> None:
    """Say which checkpoint is the best.

    Raises:
        RunFolderError: it cannot be written.
    """
    write_atomically(folder / "checkpoints" / _BEST, json.dumps(asdict(best), indent=2) + "\n")


def read_best(folder: Path) -> Best | None:
    """Which checkpoint is the best; None where none is known, or it is no longer there."""
    try:
        content = json.loads((folder / "checkpoints" / _BEST).read_text(encoding="utf-8"))
        best = Best(int(content["step"]), float(content["merit"]), str(content["by"]))
    except (OSError, ValueError, TypeError, LookupError, ArithmeticError, RecursionError):
        return None
    return best if best.step in _complete_steps(folder) and math.isfinite(best.merit) else None


def put_aside(folder: Path, start: int) -> None:
    """Make room for a run that goes on from step `start`, or begins at 0.

    What killed writers have left is removed, and so are checkpoints without a manifest. Complete ones beyond the start,
    which are damaged, or the run would go on from there, are renamed to `damaged-step-XXXXXXXX` and left to the user.

    Raises:
        RunFolderError: it cannot be done.
    """
    checkpoints = folder / "checkpoints"
    for place in (folder, folder / "members", checkpoints, *checkpoints.glob("step-*")):
        remove_unfinished(place)
    try:
        for left in checkpoints.glob("step-*"):
            if left.is_dir() and not (left / "manifest.json").exists():
                shutil.rmtree(left)
        for step in _complete_steps(folder):
            if step > start:
                damaged = checkpoint_folder(folder, step)
                names = chain([f"damaged-{damaged.name}"], (f"damaged-{damaged.name}-{n}" for n in count(2)))
                damaged.rename(next(aside for aside in map(checkpoints.joinpath, names) if not aside.exists()))
    except OSError as error:
        raise RunFolderError(f"{checkpoints}: cannot be put in order: {error.strerror or error}") from error


def _find(folder: Path, step: int) -> Found:
    try:
        return Found(step, read_manifest(folder, step))
    except DamageError as error:
        return Found(step, None, str(error))


def _complete_steps(folder: Path) -> list[int]:
    manifests = (folder / "checkpoints").glob("step-*/manifest.json")
    names = [re.fullmatch(r"step-(\d{8,})", manifest.parent.name) for manifest in manifests]
    return sorted(int(name[1]) for name in names if name)
