"""Checkpoints: what a restart needs, complete or absent.

A checkpoint is a folder `checkpoints/step-XXXXXXXX` with one safetensors file a member and a manifest, written last,
that holds their checksums; without its manifest a checkpoint does not exist. Loading runs no code from a file.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from wash_hpc.config import Config
from wash_hpc.errors import RunFolderError
from wash_hpc.storage.files import make_folder, write_atomically

# In front of the names of a method's tensors, and of those of a member's averages, in a member's file.
_OF_METHOD = "method."
_OF_AVERAGES = "average."


class CheckpointError(RunFolderError):
    """A checkpoint that cannot be written, read, or continued from."""


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint holds, and what it belongs to.

    Attributes:
        step: updates done.
        num_members: M; a run continues with the same.
        num_parameters: P.
        seed: the run's.
        optimizer: its name.
        channels_last: `train.channels_last`, the order of the parameters in memory.
        values_moved: scalars sent so far, one number a member.
        bytes_sent: payload sent so far, one number a member.
        wall_seconds: of training so far, over all starts.
        checksums: SHA-256 of each file of the folder, by name.
    """

    step: int
    num_members: int
    num_parameters: int
    seed: int
    optimizer: str
    values_moved: list[int]
    bytes_sent: list[int]
    wall_seconds: float
    checksums: dict[str, str]
    channels_last: bool = False

    def require_fit(self, config: Config, num_members: int, num_parameters: int, num_steps: int) -> None:
        """Refuse to continue as another run.

        Raises:
            CheckpointError: naming the key that has changed.
        """
        seed, optimizer, channels_last = config.run.seed, config.optimizer.name, config.train.channels_last
        if seed != self.seed:
            raise CheckpointError(f"run.seed={seed}: the checkpoint's run has seed {self.seed}")
        if optimizer != self.optimizer:
            raise CheckpointError(f"optimizer.name={optimizer}: the checkpoint holds the state of {self.optimizer}")
        if channels_last != self.channels_last:
            raise CheckpointError(
                f"train.channels_last={str(channels_last).lower()}: the checkpoint's parameters lie in the other order"
            )
        if num_steps < self.step:
            raise CheckpointError(
                f"train.steps: the run would end after step {num_steps}, the checkpoint is of step {self.step}"
            )
        if num_members != self.num_members:
            raise CheckpointError(f"ensemble.members={num_members}: the checkpoint holds {self.num_members} members")
        if num_parameters != self.num_parameters:
            raise CheckpointError(
                f"model.name: the model has {num_parameters} parameters, the checkpoint's has {self.num_parameters}"
            )


def checkpoint_folder(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return folder / "checkpoints" / f"step-{step:08d}"


@dataclass(frozen=True)
class MemberState:
    """One member's part of a checkpoint, tensors by name.

    Attributes:
        own: of the member.
        method: of the method on the member's first replica.
        averages: of the member's averages over steps; a checkpoint of an early version has none.
    """

    own: dict[str, Tensor]
    method: dict[str, Tensor]
    averages: dict[str, Tensor]


def write_member(folder: Path, step: int, member: int, state: MemberState) -> str:
    """Write one member's part; called by one rank of each member.

    Args:
        folder: the run's.
        step: updates done.
        member: which.
        state: its part.

    Returns:
        The SHA-256 of the file, for the manifest.

    Raises:
        RunFolderError: it cannot be written.
    """
    tensors = {
        **state.own,
        **{f"{_OF_METHOD}{name}": tensor for name, tensor in state.method.items()},
        **{f"{_OF_AVERAGES}{name}": tensor for name, tensor in state.averages.items()},
    }
    content = save({name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()})
    target = checkpoint_folder(folder, step)
    make_folder(target)
    write_atomically(target / _member_name(member), content)
    return hashlib.sha256(content).hexdigest()


def write_manifest(folder: Path, manifest: Manifest, keep: int) -> None:
    """Complete a checkpoint, once all members' parts are there, and forget all but the last `keep`.

    Raises:
        RunFolderError: it cannot be written.
    """
    target = checkpoint_folder(folder, manifest.step) / "manifest.json"
    write_atomically(target, json.dumps(asdict(manifest), indent=2) + "\n")
    for old in _complete_checkpoints(folder)[:-keep]:
        (old / "manifest.json").unlink()  # first, so that a half-deleted checkpoint is none
        shutil.rmtree(old)


def last_manifest(folder: Path) -> Manifest | None:
    """The manifest of the last complete checkpoint of a run, or None.

    Raises:
        CheckpointError: the manifest cannot be read.
    """
    complete = _complete_checkpoints(folder)
    if not complete:
        return None
    file = complete[-1] / "manifest.json"
    try:
        return Manifest(**json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{file}: not readable as a manifest: {error}") from error


def read_member(folder: Path, manifest: Manifest, member: int) -> MemberState:
    """One member's part of a checkpoint, its checksum verified.

    Raises:
        CheckpointError: absent, or not the file that was written.
    """
    file = checkpoint_folder(folder, manifest.step) / _member_name(member)
    try:
        content = file.read_bytes()
        if hashlib.sha256(content).hexdigest() != manifest.checksums.get(file.name):
            raise CheckpointError(f"{file}: its checksum is not that of the manifest; the file has changed")
        tensors = load(content)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file}: cannot be read: {error}") from error
    of_method, of_averages = (_take(tensors, prefix) for prefix in (_OF_METHOD, _OF_AVERAGES))
    return MemberState(tensors, of_method, of_averages)


def _take(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Take those out whose names begin with a prefix; without it."""
    return {name.removeprefix(prefix): tensors.pop(name) for name in list(tensors) if name.startswith(prefix)}


def _member_name(member: int) -> str:
    return f"member-{member:04d}.safetensors"


def _complete_checkpoints(folder: Path) -> list[Path]:
    return sorted(manifest.parent for manifest in (folder / "checkpoints").glob("step-*/manifest.json"))
