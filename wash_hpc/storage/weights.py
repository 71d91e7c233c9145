"""Final weights as safetensors with the model's own state-dict keys, which torchvision and others can load."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from wash_hpc.errors import RunFolderError
from wash_hpc.storage.files import make_folder, write_atomically


def member_file(folder: Path, member: int) -> Path:
    """Where a member's final weights lie in a run's folder."""
    return folder / "members" / f"member-{member:04d}.safetensors"


def soup_file(folder: Path, kind: str) -> Path:
    """Where a soup's weights lie: `soup.safetensors` for a uniform one, else `KIND_soup.safetensors`."""
    return folder / "members" / ("soup.safetensors" if kind == "uniform" else f"{kind}_soup.safetensors")


def count_members(folder: Path) -> int:
    """How many members a finished run has left.

    Raises:
        RunFolderError: not a run, none there, or a gap in their numbers.
    """
    if not (folder / "config.yaml").is_file():
        raise RunFolderError(f"{folder}: not a run's folder: it holds no config.yaml")
    files = sorted((folder / "members").glob("member-*.safetensors"))
    if not files:
        raise RunFolderError(f"{folder}: the run has left no members/member-*.safetensors; has it finished?")
    for file in (member_file(folder, member) for member in range(len(files))):
        if not file.is_file():
            raise RunFolderError(f"{file}: missing, though {len(files)} members are there")
    return len(files)


def save_model(file: Path, model: nn.Module) -> None:
    """Write a model's state dict, complete or not at all.

    Raises:
        RunFolderError: it cannot be written.
    """
    # Copies: parameters are views of one vector, and safetensors refuses tensors that share memory.
    state = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in model.state_dict().items()}
    make_folder(file.parent)
    write_atomically(file, save(state, metadata={"format": "pt"}))


def load_model(file: Path, model: nn.Module) -> None:
    """Read a state dict into a model of the same architecture.

    Raises:
        RunFolderError: absent, unreadable, or of another architecture.
    """
    try:
        model.load_state_dict(load_file(file), strict=True)
    except (OSError, SafetensorError) as error:
        raise RunFolderError(f"{file}: not readable as safetensors: {error}") from error
    except RuntimeError as error:
        raise RunFolderError(f"{file}: does not fit the model: {' '.join(str(error).split())[:300]}") from error
