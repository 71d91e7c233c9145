"""A checkpoint: what a restart needs, complete or absent.

It is a folder `checkpoints/step-XXXXXXXX` with one safetensors file a member and a manifest, written last, that holds
their checksums and its own; without its manifest a checkpoint does not exist. Loading runs no code from a file. Which
checkpoints there are is the business of `kept`.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from wash_hpc.config import Config
from wash_hpc.errors import RunFolderError
from wash_hpc.storage.files import write_atomically
from wash_hpc.storage.state_dicts import Entry, write_state_dict

# In front of the names of a method's tensors, and of those of a member's averages, in a member's file.
_OF_METHOD = "method."
_OF_AVERAGES = "average."
_OWN_CHECKSUM = "manifest_checksum"  # of the manifest; an early version wrote none


class CheckpointError(RunFolderError):
    """A checkpoint that cannot be written, read, or continued from."""


class DamageError(CheckpointError):
    """A file of a checkpoint is absent, or not as it was written; a disk that does not answer is not that."""


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
        num_replicas: R when it was written, for people: a run may continue with others; early versions wrote none.
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
    num_replicas: int = 0

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


def member_name(member: int) -> str:
    """What a member's file is called, in the folder and in the manifest."""
    return f"member-{member:04d}.safetensors"


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

    def by_name(self) -> dict[str, Tensor]:
        """All of them, by their names in the member's file."""
        return {
            **self.own,
            **{f"{_OF_METHOD}{name}": tensor for name, tensor in self.method.items()},
            **{f"{_OF_AVERAGES}{name}": tensor for name, tensor in self.averages.items()},
        }

    @classmethod
    def of_names(cls, tensors: dict[str, Tensor]) -> MemberState:
        """What gave these by `by_name`."""
        own = dict(tensors)
        of_method, of_averages = (_take(own, prefix) for prefix in (_OF_METHOD, _OF_AVERAGES))
        return cls(own, of_method, of_averages)


class HostCopy:
    """Memory of the host that holds a copy of a member's state, and is used again for the next one.

    Of a GPU's tensors it is pinned, so that the copy goes at the speed of the bus.
    """

    def __init__(self) -> None:
        self._held: dict[str, Tensor] = {}

    def take(self, state: MemberState) -> MemberState:
        """A copy, which is good until the next is taken. Waits for the device."""
        tensors = state.by_name()
        self._held = {name: self._room_for(name, tensor) for name, tensor in tensors.items()}
        for name, tensor in tensors.items():
            self._held[name].copy_(tensor.detach(), non_blocking=True)
        if any(tensor.is_cuda for tensor in tensors.values()):
            torch.cuda.current_stream().synchronize()
        return MemberState.of_names(self._held)

    def _room_for(self, name: str, tensor: Tensor) -> Tensor:
        held = self._held.get(name)
        if held is not None and (held.shape, held.dtype) == (tensor.shape, tensor.dtype):
            return held
        return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)


def write_member(folder: Path, step: int, member: int, state: MemberState) -> str:
    """Write one member's part, without a copy of it; called by one rank of each member, in any thread.

    Args:
        folder: the run's.
        step: updates done.
        member: which.
        state: its part; what of it is on a GPU is copied.

    Returns:
        The SHA-256 of the file, for the manifest.

    Raises:
        RunFolderError: it cannot be written.
    """
    tensors = state.by_name()
    entries = {name: Entry(tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
    file = checkpoint_folder(folder, step) / member_name(member)
    return write_state_dict(file, entries, lambda name: tensors[name].cpu())


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Complete a checkpoint, once all members' parts are there.

    Raises:
        RunFolderError: it cannot be written.
    """
    content = asdict(manifest)
    text = json.dumps({**content, _OWN_CHECKSUM: _checksum(content)}, indent=2)
    write_atomically(checkpoint_folder(folder, manifest.step) / "manifest.json", text + "\n")


def read_manifest(folder: Path, step: int) -> Manifest:
    """The manifest of a complete checkpoint.

    Raises:
        DamageError: it is absent, or not as it was written.
        CheckpointError: it cannot be read.
    """
    file = checkpoint_folder(folder, step) / "manifest.json"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("expected one JSON object")
        checksum = content.pop(_OWN_CHECKSUM, None)
        if checksum not in (None, _checksum(content)):
            raise ValueError("its checksum is not that of its content; the file has changed")
        manifest = Manifest(**content)
        wrong = [field.name for field in fields(Manifest) if not _is_of_kind(getattr(manifest, field.name), field.type)]
        if wrong or manifest.step != step or len(manifest.values_moved) != manifest.num_members:
            raise ValueError(f"{', '.join(wrong) or 'step or num_members'} is not what it should be")
    except OSError as error:
        raise _cannot_be_read(file, error) from error
    except (ValueError, TypeError, RecursionError) as error:
        raise DamageError(f"{file}: not readable as a manifest: {error}") from error
    return manifest


def verify_member(folder: Path, manifest: Manifest, member: int) -> None:
    """Look whether one member's part of a checkpoint is as it was written. Reads all of it, and keeps nothing.

    Raises:
        DamageError: absent, or not the file that was written.
        CheckpointError: it cannot be read, or its checkpoint cannot be seen from here.
    """
    file = checkpoint_folder(folder, manifest.step) / member_name(member)
    try:
        with file.open("rb") as opened:
            _require_checksum(file, hashlib.file_digest(opened, "sha256").hexdigest(), manifest)
    except OSError as error:
        raise _cannot_be_read(file, error) from error


def read_member(folder: Path, manifest: Manifest, member: int) -> MemberState:
    """One member's part of a checkpoint, its checksum verified.

    Raises:
        CheckpointError: as `verify_member`.
    """
    file = checkpoint_folder(folder, manifest.step) / member_name(member)
    try:
        content = file.read_bytes()
        _require_checksum(file, hashlib.sha256(content).hexdigest(), manifest)
        return MemberState.of_names(load(content))
    except OSError as error:
        raise _cannot_be_read(file, error) from error
    except (SafetensorError, LookupError, ValueError) as error:
        raise DamageError(f"{file}: cannot be read: {error}") from error


def _cannot_be_read(file: Path, error: OSError) -> CheckpointError:
    is_damage = isinstance(error, FileNotFoundError) and file.parent.is_dir()
    return (DamageError if is_damage else CheckpointError)(f"{file}: cannot be read: {error.strerror or error}")


def _require_checksum(file: Path, checksum: str, manifest: Manifest) -> None:
    if checksum != manifest.checksums.get(file.name):
        raise DamageError(f"{file}: its checksum is not that of the manifest; the file has changed")


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _is_of_kind(value: Any, kind: Any) -> bool:
    """Whether a JSON value is what a field of the manifest holds; the annotations are strings here."""
    if kind.startswith("list"):
        return isinstance(value, list) and all(_is_of_kind(item, "int") for item in value)
    if kind.startswith("dict"):
        return isinstance(value, dict) and all(isinstance(item, str) for item in value.values())
    types = {"int": (int,), "float": (int, float), "str": (str,), "bool": (bool,)}[kind]
    return isinstance(value, types) and (kind == "bool" or not isinstance(value, bool))


def _take(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Take those out whose names begin with a prefix; without it."""
    return {name.removeprefix(prefix): tensors.pop(name) for name in list(tensors) if name.startswith(prefix)}
