"""State dicts that other programs wrote: opened without running code from them, read and written a tensor at a time.

Owns the formats: safetensors, and what torch.save writes. What is done with the tensors is the caller's.
"""

from __future__ import annotations

import hashlib
import json
import math
import pickle
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from wash_hpc.errors import WeightsError
from wash_hpc.storage.files import make_folder, open_atomically

_DTYPES = {  # by the names that safetensors gives them
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_PICKLED = (".pt", ".pth", ".bin")
SUFFIXES = (".safetensors", *_PICKLED)
_WRAPPERS = ("state_dict", "model")  # keys under which training programs keep it beside an epoch, an optimizer ...


@dataclass(frozen=True)
class Entry:
    """What is known of a tensor before it is read."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def num_values(self) -> int:
        """Of the tensor."""
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        """Of its values."""
        return self.num_values * self.dtype.itemsize


@dataclass(frozen=True)
class StateDictFile:
    """A file that is open, none of its tensors read.

    Attributes:
        path: the file's.
        entries: shape and dtype of each tensor, by key.
        found_under: the key of the file's dict that holds the state dict; None where it is the file's whole content.
        read: one tensor, on the CPU; it must not be changed.
    """

    path: Path
    entries: Mapping[str, Entry]
    found_under: str | None
    read: Callable[[str], Tensor]


def open_state_dict(path: Path) -> StateDictFile:
    """Open a `.safetensors` file, or a `.pt`, `.pth` or `.bin` file of torch.save, by memory map.

    Raises:
        WeightsError: absent, damaged, holding more than tensors, or of a kind that is not read.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: there is no such file")
    if path.suffix == ".safetensors":
        return _open_safetensors(path)
    if path.suffix in _PICKLED:
        return _open_pickled(path)
    raise WeightsError(f"{path}: expected a file that ends with one of {' '.join(SUFFIXES)}")


def write_state_dict(path: Path, entries: Mapping[str, Entry], make: Callable[[str], Tensor]) -> str:
    """Write a safetensors file, complete or not at all, with one tensor in memory at a time.

    The format is eight bytes with the length of a header, the header in JSON, and the values of one tensor behind
    those of the other.

    Args:
        path: the file.
        entries: of all tensors, by key.
        make: gives the tensor of a key, on the CPU and as its entry says; called once each.

    Returns:
        The SHA-256 of the file.

    Raises:
        RunFolderError: it cannot be written.
    """
    # Wide items first: so each tensor begins at a multiple of its item size, which readers by memory map need.
    keys = sorted(entries, key=lambda key: (-entries[key].dtype.itemsize, key))
    make_folder(path.parent)
    digest = hashlib.sha256()
    with open_atomically(path) as file:
        parts: Iterator[bytes | memoryview] = chain([_header(keys, entries)], map(_bytes_of, map(make, keys)))
        for part in parts:
            file.write(part)
            digest.update(part)
    return digest.hexdigest()


def _bytes_of(tensor: Tensor) -> memoryview:
    """The values as they lie in memory; no copy where they are contiguous."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _header(keys: Iterable[str], entries: Mapping[str, Entry]) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # without it transformers refuses a file
    end = 0
    for key in keys:
        start, end = end, end + entries[key].num_bytes
        dtype, shape = _NAMES[entries[key].dtype], entries[key].shape
        header[key] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _open_safetensors(path: Path) -> StateDictFile:
    try:
        file: Any = safe_open(path, framework="pt", device="cpu")
        slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118 - it is no dict
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path}: not readable as safetensors: {error}") from error
    entries = {}
    for key, part in slices.items():
        if part.get_dtype() not in _DTYPES:
            raise _unknown_dtype(path, key, part.get_dtype())
        entries[key] = Entry(tuple(part.get_shape()), _DTYPES[part.get_dtype()])
    return _require_any(StateDictFile(path, entries, None, file.get_tensor))


def _open_pickled(path: Path) -> StateDictFile:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        what = f" ({found[1]})" if found else ""
        raise WeightsError(
            f"{path}: refused: it is damaged, or holds more than tensors{what}, and reading that could run code; "
            "save the state dict alone"
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError) as error:
        said = " ".join(str(error).split())[:200]
        raise WeightsError(f"{path}: not readable as a file of torch.save (of torch 1.6 or later): {said}") from error
    state, found_under = _find_state_dict(path, content)
    entries = {key: Entry(tuple(tensor.shape), tensor.dtype) for key, tensor in state.items()}
    return _require_any(StateDictFile(path, entries, found_under, state.__getitem__))


def _find_state_dict(path: Path, content: Any) -> tuple[dict[str, Tensor], str | None]:
    """The state dict in what a file holds, all tensors plain ones, and the key that it was under."""
    found_under = None
    if isinstance(content, dict):
        found_under = next((key for key in _WRAPPERS if isinstance(content.get(key), dict)), None)
        content = content[found_under] if found_under else content
    if not isinstance(content, dict):
        raise WeightsError(
            f"{path}: holds a {type(content).__name__}, expected a state dict, which maps keys to tensors"
        )
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise WeightsError(
                f"{path}: {key} is of type {type(value).__name__}, expected a tensor: a state dict is looked for in "
                f"the whole file and under {' and '.join(_WRAPPERS)}"
            )
        if value.layout != torch.strided or value.device.type != "cpu":
            raise WeightsError(
                f"{path}: {key} is a tensor on {value.device} of layout {value.layout}: has no plain values"
            )
        if value.dtype not in _NAMES:
            raise _unknown_dtype(path, key, str(value.dtype))
    return {key: value.detach() for key, value in content.items()}, found_under


def _unknown_dtype(path: Path, key: str, dtype: str) -> WeightsError:
    return WeightsError(f"{path}: {key} has dtype {dtype}; known are {', '.join(_DTYPES)}")


def _require_any(file: StateDictFile) -> StateDictFile:
    if not file.entries:
        raise WeightsError(f"{file.path}: holds no tensors")
    return file
