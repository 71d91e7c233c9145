"""Reading HDF5 files that others may have written: quick, bounded, and out of the one file alone.

HDF5 can be told by a file to open other files (external and soft links, external and virtual datasets), to load
filters, or to make more memory than the machine has. Nothing of that is in what this package writes, so it is refused
before any of it is followed. Owns the import of h5py. What is in a file is `metrics`' business.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wash_hpc.errors import MissingDependencyError, WashError

_READ_ATTEMPTS = 26  # HDF5 waits 1 ns before the second, and twice as long each time: 0.1 s. Its own 100 never end
_SLACK_BYTES = 2**20  # what a dataset may claim beyond the file's size: its last chunk is perhaps not allocated yet
_MOST_ATTRIBUTE_ITEMS = 2**20
_ABOUT = "about"  # a group that holds attributes and nothing else


class MetricsError(WashError):
    """A metrics file that cannot be written or read."""


def import_h5py() -> Any:
    """The h5py module, with file locking off: network file systems often have no locks, and SWMR needs none.

    Raises:
        MissingDependencyError: h5py is not installed.
    """
    os.environ["HDF5_USE_FILE_LOCKING"] = "FALSE"  # HDF5 reads it when it is loaded
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise MissingDependencyError("h5py", "pip install 'wash_hpc[hdf5]'") from error
    return h5py


@contextmanager
def open_to_read(path: Path) -> Iterator[Any]:
    """The file, open for reading while somebody may write to it (SWMR); what HDF5 says of it names the file.

    A reader cannot tell a damaged block from one that is being written, and HDF5 tries again 100 times, waiting twice
    as long each time, which is for ever. So it is told to try less often, by its C function, which h5py lacks.

    Raises:
        MetricsError: it cannot be read, or is not as expected.
        MissingDependencyError: h5py is not installed.
    """
    h5py = import_h5py()
    try:
        access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
        access.set_libver_bounds(h5py.h5f.LIBVER_LATEST, h5py.h5f.LIBVER_LATEST)
        access.set_file_locking(False, True)
        set_attempts = ctypes.CDLL(h5py.h5p.__file__).H5Pset_metadata_read_attempts
        set_attempts.argtypes = [ctypes.c_int64, ctypes.c_uint]
        set_attempts(access.id, _READ_ATTEMPTS)
        flags = h5py.h5f.ACC_RDONLY | h5py.h5f.ACC_SWMR_READ
        with h5py.File(h5py.h5f.open(os.fsencode(path), flags, access)) as file:
            yield file
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError) as error:
        raise MetricsError(f"{path}: not readable as metrics: {' '.join(str(error).split())}") from error


def has_own(group: Any, path: str) -> bool:
    """Whether an object lies at a path below a group, and in the group's own file.

    Raises:
        ValueError: the path leads through a link to another place.
    """
    h5py = import_h5py()
    *groups, name = path.split("/")
    for part in groups:
        if not has_own(group, part):
            return False
        group = group[part]
        if not isinstance(group, h5py.Group):
            raise ValueError(f"{part} is no group")
    if not group.id.links.exists(name.encode()):
        return False
    if group.id.links.get_info(name.encode()).type != h5py.h5l.TYPE_HARD:
        raise ValueError(f"{path} is a link to another place")
    return True


def read_column(
    file: Any, path: str, dtype: type[np.int64] | type[np.float64], num_axes: int, rows: slice = slice(None)
) -> NDArray[Any]:
    """Numbers of a dataset: all, or those of some rows.

    Raises:
        KeyError: there is none.
        ValueError: it is of another type or shape, lies elsewhere than in this file, or claims more than there is.
    """
    column: NDArray[Any] = _plain_dataset(file, path, dtype, num_axes)[rows]
    return column


def num_rows(file: Any, path: str, dtype: type[np.int64] | type[np.float64] = np.int64) -> int:
    """How many numbers a dataset of one axis holds; raises what `read_column` raises."""
    return len(_plain_dataset(file, path, dtype, 1))


def _plain_dataset(file: Any, path: str, dtype: type[np.int64] | type[np.float64], num_axes: int) -> Any:
    """The dataset, after a look at all that could make reading it unsafe."""
    h5py = import_h5py()
    if not has_own(file, path):
        raise KeyError(f"there is no dataset {path}")
    dataset = file[path]
    if not isinstance(dataset, h5py.Dataset) or dataset.dtype != dtype or dataset.ndim != num_axes:
        raise ValueError(f"{path}: expected a dataset of {dtype.__name__} with {num_axes} axes")
    if dataset.is_virtual or dataset.external or dataset.id.get_create_plist().get_nfilters():
        raise ValueError(f"{path}: expected plain numbers in this file: no virtual or external dataset, no filter")
    num_bytes = Path(file.filename).stat().st_size + _SLACK_BYTES
    if dataset.nbytes > num_bytes:
        raise ValueError(f"{path}: claims to be larger, {dataset.shape}, than the file is")
    return dataset


def write_attributes(file: Any, attributes: Mapping[str, str | int | float | list[str]]) -> None:
    """Write what a file is about, twice: to its root, as h5py's users expect it, and to `about`, from where we read it.

    h5py writes text of any length, which HDF5 keeps in a heap that has no checksum, and where that is damaged its
    reader may never end. In `about` text has a fixed length, and a checksum.
    """
    h5py = import_h5py()
    about = file.create_group(_ABOUT)
    for name, value in attributes.items():
        file.attrs[name] = value
        if not isinstance(value, str | list):
            about.attrs[name] = value
            continue
        items = [item.encode() for item in ([value] if isinstance(value, str) else value)]
        kind = h5py.string_dtype("utf-8", max(1, *map(len, items)))
        about.attrs.create(name, items[0] if isinstance(value, str) else np.array(items, dtype=kind), dtype=kind)


def read_attributes(file: Any) -> dict[str, Any]:
    """What a file is about, in Python's own types; of an early version's, the attributes of its root.

    Raises:
        ValueError: one of them is neither numbers nor text, or there are too many in it.
    """
    h5py = import_h5py()
    holder = file[_ABOUT] if has_own(file, _ABOUT) else file
    attributes = {}
    for name in holder.attrs:
        found = holder.attrs.get_id(name)
        is_text = h5py.check_string_dtype(found.dtype) is not None
        if not (is_text or found.dtype.kind in "iuf") or found.shape is None:
            raise ValueError(f"attribute {name}: expected text or numbers")
        if int(np.prod(found.shape, dtype=np.float64)) > _MOST_ATTRIBUTE_ITEMS or found.dtype.itemsize > _SLACK_BYTES:
            raise ValueError(f"attribute {name}: claims to have {found.shape} items")
        attributes[name] = _plain(holder.attrs[name])
    return attributes


def _plain(value: Any) -> Any:
    """An attribute as Python has it: numpy's scalars and arrays undone, text decoded."""
    value = value.tolist() if isinstance(value, np.generic | np.ndarray) else value
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.decode() if isinstance(value, bytes) else value
