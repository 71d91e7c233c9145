"""CIFAR-10 and CIFAR-100 from the folders that torchvision users have. No download, no device.

The files are pickles that others wrote: they are read with an unpickler that can build arrays of bytes and nothing
else, and leaves nothing of that to numpy's own code for pickles.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wash_hpc.data.arrays import ArraySet, Images
from wash_hpc.errors import ConfigError, DataError

# METHOD: the constants of PAPA's code, of the 50,000 training images.
MEAN_10 = (125.307 / 255, 122.961 / 255, 113.8575 / 255)
STD_10 = (51.5865 / 255, 50.847 / 255, 51.255 / 255)
MEAN_100 = (0.5071, 0.4865, 0.4409)
STD_100 = (0.2673, 0.2564, 0.2762)


def load_cifar10(path: str | None) -> ArraySet:
    """CIFAR-10, three channels, 32x32.

    Args:
        path: the folder that holds `cifar-10-batches-py`.

    Raises:
        ConfigError: no path is given.
        DataError: a file is absent, truncated, or holds something else.
    """
    folder = _folder(path, "cifar-10-batches-py")
    parts = [_read_batch(folder / f"data_batch_{number}", "labels", 10) for number in range(1, 6)]
    train = Images(np.concatenate([part.pixels for part in parts]), np.concatenate([part.labels for part in parts]))
    return ArraySet(
        train,
        held_out=None,
        test=_read_batch(folder / "test_batch", "labels", 10),
        num_classes=10,
        mean=MEAN_10,
        std=STD_10,
    )


def load_cifar100(path: str | None) -> ArraySet:
    """CIFAR-100 with its 100 fine classes; arguments and errors as `load_cifar10`, folder `cifar-100-python`."""
    folder = _folder(path, "cifar-100-python")
    train, test = (_read_batch(folder / name, "fine_labels", 100) for name in ("train", "test"))
    return ArraySet(train, held_out=None, test=test, num_classes=100, mean=MEAN_100, std=STD_100)


class _ArrayUnpickler(pickle.Unpickler):
    """Builds lists, dictionaries, strings, numbers and `_Array`; refuses every other name a pickle asks for."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in {("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct")}:
            return _empty_array
        if (module, name) in {("numpy", "ndarray"), ("numpy", "dtype")}:
            return {"ndarray": _Array, "dtype": _Dtype}[name]
        if (module, name) == ("_codecs", "encode"):
            return _encode_latin1
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no CIFAR file needs")


class _Dtype:
    """What a pickle says of a numpy dtype."""

    def __init__(self, name: str, *flags: object) -> None:
        self.name = name

    def __setstate__(self, state: object) -> None:
        pass


class _Array:
    """What a pickle says of a numpy array of bytes."""

    content: NDArray[np.uint8] | None = None

    def __setstate__(self, state: tuple[int, tuple[int, ...], _Dtype, bool, bytes | str]) -> None:
        _, shape, dtype, is_fortran, values = state
        if dtype.name != "u1" or is_fortran:
            return  # without content it is refused
        values = values.encode("latin1") if isinstance(values, str) else values
        self.content = np.frombuffer(values, dtype=np.uint8).reshape(shape)


def _empty_array(kind: type, shape: tuple[int, ...], code: bytes) -> _Array:
    """What numpy's `_reconstruct` does for a plain array; its content follows in the pickle."""
    return _Array()


def _encode_latin1(text: str, encoding: str) -> bytes:
    """How Python 3 writes bytes into the old pickle protocol 2."""
    return text.encode("latin1")


def _folder(path: str | None, name: str) -> Path:
    if path is None:
        raise ConfigError(f"data.path is not set: expected the folder that holds {name}")
    folder = Path(path) / name
    if not folder.is_dir():
        raise DataError(f"data.path={path}: there is no folder {name} in it, as torchvision unpacks it")
    return folder


def _read_batch(file: Path, label_key: str, num_classes: int) -> Images:
    try:
        with file.open("rb") as stream:
            content = _ArrayUnpickler(stream, encoding="latin1").load()
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from error
    except Exception as error:  # a damaged pickle raises almost anything
        raise DataError(f"{file}: this is no CIFAR file, or it is truncated: {error}") from error
    array = content.get("data") if isinstance(content, dict) else None
    pixels = array.content if isinstance(array, _Array) else None
    labels = content.get(label_key) if isinstance(content, dict) else None
    if pixels is None or pixels.ndim != 2 or pixels.shape[1] != 3072:
        raise DataError(f"{file}: expected 'data' with rows of 3072 bytes, a 32x32 image of three channels each")
    if not isinstance(labels, list) or len(labels) != len(pixels):
        raise DataError(f"{file}: expected '{label_key}' with one class for each of {len(pixels)} images")
    if not all(isinstance(label, int) and 0 <= label < num_classes for label in labels):
        raise DataError(f"{file}: '{label_key}' has a class that is not a number from 0 to {num_classes - 1}")
    return Images(pixels.reshape(-1, 3, 32, 32), np.asarray(labels, dtype=np.int64))
