"""Encoded images in WebDataset shards, read where the index (`shards`) says that they are."""

from __future__ import annotations

import os
import tarfile
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from wash_hpc.data.encoded import START_BYTES, Landmark, Splits, fault_of
from wash_hpc.data.shards import BLOCK_BYTES, Index, find_index
from wash_hpc.data.source import Positions
from wash_hpc.errors import DataError

MOST_OPEN = 512  # shards that stay open; a process may as a rule have 1024 files open


class ShardFiles:
    """The tar files of a folder, read at any place from any thread; those met first stay open.

    Args:
        root: their folder.
        names: [S] of the files.
    """

    def __init__(self, root: Path, names: NDArray[np.str_]) -> None:
        self._root = root
        self._names = names
        self._open: dict[int, FileIO] = {}
        self._lock = Lock()

    def path(self, shard: int) -> Path:
        """Of one shard."""
        return self._root / str(self._names[shard])

    def read(self, shard: int, offset: int, num_bytes: int) -> bytes:
        """Bytes of one shard, fewer where it ends.

        Raises:
            OSError: it cannot be read.
        """
        file = self._open.get(shard)
        if file is None and len(self._open) < MOST_OPEN:
            with self._lock:
                file = self._open.get(shard) or self.path(shard).open("rb", buffering=0)
                self._open[shard] = file
        if file is not None:
            return os.pread(file.fileno(), num_bytes, offset)
        with self.path(shard).open("rb", buffering=0) as once:
            return os.pread(once.fileno(), num_bytes, offset)

    def __reduce__(self) -> tuple[type[ShardFiles], tuple[Path, NDArray[np.str_]]]:
        """It travels between ranks, each of which opens the files for itself."""
        return type(self), (self._root, self._names)

    def __del__(self) -> None:
        for file in self._open.values():
            file.close()


@dataclass(frozen=True)
class ShardImages:
    """The images of one split, as `EncodedImages` says, in the order of shards and of samples in them.

    Attributes:
        files: the shards.
        shard: [N] int32.
        offset: [N] int64.
        size: [N] int64.
        labels: [N] int64.
    """

    files: ShardFiles
    shard: NDArray[np.int32]
    offset: NDArray[np.int64]
    size: NDArray[np.int64]
    labels: NDArray[np.int64]
    are_paths: bool = False

    def __len__(self) -> int:
        return len(self.labels)

    def at(self, positions: Positions) -> ShardImages:
        """As `EncodedImages.at`."""
        return ShardImages(
            self.files, self.shard[positions], self.offset[positions], self.size[positions], self.labels[positions]
        )

    def name(self, position: int) -> str:
        """`SHARD.tar: KEY.jpg`, the key by the tar file's header, or the place where that cannot be read."""
        shard, offset, _ = self._place(position)
        try:
            header = self.files.read(shard, offset - BLOCK_BYTES, BLOCK_BYTES)
            key = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape").name
        except (OSError, tarfile.HeaderError):
            key = f"the image at byte {offset:,}"
        return f"{self.files.path(shard)}: {key}"

    def inputs(self, positions: Positions) -> list[NDArray[np.uint8]]:
        """The bytes of the images' files, none of one that cannot be read whole."""
        return [np.frombuffer(self._read(int(position)), dtype=np.uint8) for position in positions]

    def find_fault(self, position: int) -> str | None:
        """As `EncodedImages.find_fault`."""
        shard, offset, size = self._place(position)
        try:
            start = self.files.read(shard, offset, min(START_BYTES, size))
            is_whole = size == 0 or len(self.files.read(shard, offset + size - 1, 1)) == 1
        except OSError as error:
            return f"{self.name(position)}: cannot be read: {error.strerror}"
        if not is_whole:
            return f"{self.name(position)}: the shard ends before this image does; is it complete?"
        return fault_of(self.name(position), start)

    def _read(self, position: int) -> bytes:
        shard, offset, size = self._place(position)
        try:
            content = self.files.read(shard, offset, size)
        except OSError:
            return b""
        return content if len(content) == size else b""

    def _place(self, position: int) -> tuple[int, int, int]:
        return int(self.shard[position]), int(self.offset[position]), int(self.size[position])


def open_shards(path: str | None) -> Splits:
    """The splits of a folder of shards; `test` and `val` mean what they do for class folders (`scan_splits`).

    Args:
        path: `data.path`.

    Raises:
        ConfigError, DataError: as `find_index`; and DataError where a split is empty or labels leave a hole.
    """
    index = find_index(path)
    root = Path(str(path))
    files = ShardFiles(root, index.names)
    has = {name.partition("-")[0] for name in index.names.tolist()}
    splits = {split: _split(index, files, split, root) for split in sorted(has)}
    num_classes = _count_classes(splits["train"], root)
    for split in has - {"train"}:
        beyond = np.flatnonzero(splits[split].labels >= num_classes)
        if len(beyond):
            first = int(beyond[0])
            raise DataError(
                f"{splits[split].name(first)}: its label is {splits[split].labels[first]}; train has the labels 0 to "
                f"{num_classes - 1} alone"
            )
    sizes = index.sizes.tolist()
    # All of them: a host may have a copy of its own, and a shard that was cut in copying would otherwise go unseen.
    landmarks = tuple(Landmark(str(files.path(shard)), size) for shard, size in enumerate(sizes))
    if "test" in has:
        return Splits(splits["train"], splits.get("val"), splits["test"], num_classes, landmarks)
    return Splits(splits["train"], None, splits["val"], num_classes, landmarks)


def _split(index: Index, files: ShardFiles, split: str, root: Path) -> ShardImages:
    mine = np.flatnonzero(np.char.startswith(index.names, f"{split}-"))
    positions = np.flatnonzero(np.isin(index.shard, mine))
    if not len(positions):
        raise DataError(f"{root}: there is no sample in its shards {split}-*.tar")
    return ShardImages(files, index.shard, index.offset, index.size, index.label).at(positions)


def _count_classes(train: ShardImages, root: Path) -> int:
    labels = np.unique(train.labels)
    hole = np.flatnonzero(labels != np.arange(len(labels)))
    if len(hole):
        raise DataError(
            f"{root}: no image of train has the label {hole[0]}, but some have {labels[hole[0]]}; expected every whole "
            f"number from 0 to the largest label, {labels[-1]}"
        )
    return len(labels)
