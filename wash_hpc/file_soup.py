"""A soup of files that other programs wrote: what must be alike, and the mean, out of core.

No MPI, no model, no data. Running statistics are averaged like all else: to recompute them takes images.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from wash_hpc.errors import WeightsError
from wash_hpc.storage.state_dicts import SUFFIXES, StateDictFile, open_state_dict, write_state_dict


def make_file_soup(paths: Sequence[Path], output: Path) -> str:
    """Average state dicts in files into one file.

    Args:
        paths: safetensors files, or files of torch.save; two or more.
        output: the safetensors file to write or replace; none of `paths`.

    Returns:
        What to print.

    Raises:
        WashError: files that cannot be read or averaged, or an output that cannot be written; nothing is written then.
    """
    _check_names(paths, output)
    files = [open_state_dict(path) for path in paths]
    for file in files[1:]:
        _require_alike(files[0], file)
    entries = files[0].entries
    write_state_dict(output, entries, lambda key: average(files, key))
    num_values = sum(entry.num_values for entry in entries.values())
    lines = [f"{output}: mean of {len(files)} files, {len(entries)} tensors, {num_values:,} values"]
    lines += [f"  {file.path}: its state dict was under '{file.found_under}'" for file in files if file.found_under]
    if any(key.endswith("running_var") for key in entries):
        lines.append("  running statistics are averaged, not recomputed: do that on training images before it is used")
    return "\n".join(lines)


def average(files: Sequence[StateDictFile], key: str) -> Tensor:
    """The mean of one tensor of all files, summed in float64, in the files' own dtype.

    Values that are not finite have no mean, unless the tensor, without NaN, is the same in all files. Integers have
    none either: they must be equal, and of scalars, which count something (num_batches_tracked), the largest is taken.

    Raises:
        WeightsError: values that are not finite, or integers that differ.
    """
    first = files[0].read(key)
    if not first.is_floating_point():
        return _common_integers(files, key)
    total = first.double().clone()
    for file in files[1:]:
        total += file.read(key)
    if not bool(total.isfinite().all()):
        if all(torch.equal(file.read(key), first) for file in files[1:]):
            return first  # a constant, as the -inf of a mask
        raise _not_finite(files, key)
    return (total / len(files)).to(first.dtype)


def _common_integers(files: Sequence[StateDictFile], key: str) -> Tensor:
    common = files[0].read(key)
    for file in files[1:]:
        other = file.read(key)
        if common.dim() == 0 and common.dtype != torch.bool:
            common = torch.maximum(common, other)
        elif not torch.equal(common, other):
            raise WeightsError(
                f"{file.path}: {key} differs from {files[0].path}, and integers ({common.dtype}) must be equal"
            )
    return common


def _not_finite(files: Sequence[StateDictFile], key: str) -> WeightsError:
    for file in files:
        if not bool(file.read(key).isfinite().all()):
            return WeightsError(f"{file.path}: {key} holds values that are not finite (inf or nan)")
    return WeightsError(f"{files[0].path}: {key}: the sum of all files is too large for float64")


def _check_names(paths: Sequence[Path], output: Path) -> None:
    if output.suffix != ".safetensors":
        raise WeightsError(f"--output {output}: expected a name that ends with .safetensors, which is what is written")
    for path in paths:
        if path.is_dir():
            raise WeightsError(
                f"{path}: a folder among files; a soup is made of one run, or of files: {' '.join(SUFFIXES)}"
            )
        if output.exists() and path.exists() and output.samefile(path):
            raise WeightsError(f"--output {output}: is one of the files to average ({path}); choose another name")
    if len(paths) < 2:
        raise WeightsError(f"{paths[0]}: a soup of files needs two or more; one run is given by its folder")


def _require_alike(first: StateDictFile, file: StateDictFile) -> None:
    """Refuse a file that has other keys, shapes or dtypes than the first, naming the first difference."""
    missing = [key for key in first.entries if key not in file.entries]
    unexpected = [key for key in file.entries if key not in first.entries]
    differs = f"{file.path} differs from {first.path}"
    if missing or unexpected:
        said = [f"{word} {_some(keys)}" for word, keys in (("lacks", missing), ("has besides", unexpected)) if keys]
        raise WeightsError(f"{differs}: it {' and '.join(said)}")
    for key, entry in first.entries.items():
        other = file.entries[key]
        if entry.shape != other.shape:
            raise WeightsError(f"{differs}: {key} has shape {list(other.shape)}, expected {list(entry.shape)}")
        if entry.dtype != other.dtype:
            raise WeightsError(f"{differs}: {key} has dtype {other.dtype}, expected {entry.dtype}")


def _some(keys: Sequence[str]) -> str:
    """Up to three keys, and how many more there are."""
    return ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
