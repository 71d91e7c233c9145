"""ImageNet-style folders, `split/class/image.jpg`: what is in them, and whether each file is an image. No decoding."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wash_hpc.data.encoded import EXTENSIONS, START_BYTES, Landmark, Splits, fault_of
from wash_hpc.data.source import Positions
from wash_hpc.errors import ConfigError, DataError

ENDINGS = tuple(f".{extension}".encode() for extension in EXTENSIONS)
EXPECTED = "a folder that holds train/<class>/<image>.jpg and the same for val or test or both"


@dataclass(frozen=True)
class ImageFiles:
    """The files of one split, in the order of classes and names.

    A million paths as Python strings would take some 150 MB on every rank; so only the names are kept, in one array.

    Attributes:
        folder: the split's folder.
        classes: names of the class folders, sorted; a label is a place in this list.
        names: [N] bytes, file names within the class folder.
        labels: [N] int64.
    """

    folder: Path
    classes: tuple[str, ...]
    names: NDArray[np.bytes_]
    labels: NDArray[np.int64]
    are_paths: bool = True

    def __len__(self) -> int:
        return len(self.labels)

    def at(self, positions: Positions) -> ImageFiles:
        """The files at these positions, in this order."""
        return ImageFiles(self.folder, self.classes, self.names[positions], self.labels[positions])

    def name(self, position: int) -> str:
        """The path of one file."""
        return f"{self.folder}/{self.classes[self.labels[position]]}/{os.fsdecode(bytes(self.names[position]))}"

    def inputs(self, positions: Positions) -> list[NDArray[np.uint8]]:
        """The paths, as bytes."""
        return [np.frombuffer(os.fsencode(self.name(position)), dtype=np.uint8) for position in positions]

    def find_fault(self, position: int) -> str | None:
        """As `EncodedImages.find_fault`."""
        return find_fault(self.name(position))


def scan_splits(path: str | None) -> Splits:
    """Find the splits and their files.

    `test/` is the test set and `val/`, if there, is held out; without `test/`, `val/` is the test set.

    Args:
        path: `data.path`.

    Raises:
        ConfigError: no path is given.
        DataError: a folder is absent or unreadable, a class is empty, splits have different classes, or a file is
            no image by its name.
    """
    if path is None:
        raise ConfigError(f"data.path is not set: expected {EXPECTED}")
    root = Path(path)
    if not root.is_dir():
        raise DataError(f"data.path={path}: there is no such folder; expected {EXPECTED}")
    if not (root / "train").is_dir():
        raise DataError(f"data.path={path}: there is no folder train in it; expected {EXPECTED}")
    if not (root / "test").is_dir() and not (root / "val").is_dir():
        raise DataError(f"data.path={path}: there is no folder val or test in it; expected {EXPECTED}")
    names = [name for name in ("train", "val", "test") if (root / name).is_dir()]
    splits = {name: _scan_split(root / name) for name in names}
    for name in names[1:]:
        _refuse_different_classes(splits["train"], splits[name])
    num_classes = len(splits["train"].classes)
    landmarks = tuple(_find_landmarks(splits.values()))
    if "test" in splits:
        return Splits(splits["train"], splits.get("val"), splits["test"], num_classes, landmarks)
    return Splits(splits["train"], None, splits["val"], num_classes, landmarks)


def find_fault(path: str) -> str | None:
    """What is wrong with the first bytes of a file, as a sentence; None where nothing is."""
    try:
        with Path(path).open("rb") as file:
            start = file.read(START_BYTES)
    except OSError as error:
        return f"{path}: cannot be read: {error.strerror}"
    return fault_of(path, start)


def _find_landmarks(splits: Iterable[ImageFiles]) -> Iterator[Landmark]:
    """The first and the last file of each split."""
    for files in splits:
        for path in (files.name(0), files.name(len(files) - 1)):
            with suppress(OSError):  # a bad file, about which others decide (`data.on_bad_file`)
                yield Landmark(path, Path(path).stat().st_size)


def _scan_split(folder: Path) -> ImageFiles:
    try:
        with os.scandir(folder) as entries:
            classes = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error.strerror}") from error
    if not classes:
        raise DataError(f"{folder}: there is no class in it; expected one folder a class, with images in it")
    names = [_scan_class(folder / name) for name in classes]
    return ImageFiles(
        folder=folder,
        classes=tuple(classes),
        names=np.array([name for of_class in names for name in of_class], dtype=np.bytes_),
        labels=np.repeat(np.arange(len(classes)), [len(of_class) for of_class in names]),
    )


def _scan_class(folder: Path) -> list[bytes]:
    """The sorted names of the images of one class."""
    try:
        with os.scandir(os.fsencode(folder)) as entries:
            names = sorted((entry.name, entry.is_dir()) for entry in entries if not entry.name.startswith(b"."))
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error.strerror}") from error
    if not names:
        raise DataError(f"{folder}: this class is empty; expected at least one image")
    for name, is_folder in names:
        if is_folder or not name.lower().endswith(ENDINGS):
            kind = "a folder" if is_folder else "no image by its name"
            raise DataError(
                f"{folder / os.fsdecode(name)}: this is {kind}; a class folder may hold images only (.jpg, .png ...)"
            )
    return [name for name, _ in names]


def _refuse_different_classes(train: ImageFiles, other: ImageFiles) -> None:
    for has, lacks in ((train, other), (other, train)):
        missing = sorted(set(has.classes) - set(lacks.classes))
        if missing:
            named = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
            raise DataError(
                f"{lacks.folder}: {_count(missing)} of {has.folder} missing: {named}; both need the same class folders"
            )


def _count(classes: list[str]) -> str:
    return "1 class" if len(classes) == 1 else f"{len(classes)} classes"
