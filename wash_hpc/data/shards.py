"""The index of WebDataset shards: where in which tar file each sample is, and its label. No image is read here.

A folder holds `train-*.tar`, and `val-*.tar` or `test-*.tar` or both, with samples `KEY.jpg` (or another image) and
`KEY.cls`, one behind the other. The index is `index.npz` beside them, or is made by going through all headers of the
tar files, which takes minutes for a million images. In memory it is a few arrays: some 30 MB for ImageNet.
"""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wash_hpc.data.encoded import EXTENSIONS
from wash_hpc.errors import ConfigError, DataError
from wash_hpc.storage.files import open_atomically

INDEX = "index.npz"
SPLITS = ("train", "val", "test")
EXPECTED = "a folder that holds train-*.tar and val-*.tar or test-*.tar or both"
NUM_SCANNING_THREADS = 8
BLOCK_BYTES = 512  # of tar: a header is one block, and right before the file
MOST_LABEL_BYTES = 32

Samples = NDArray[np.int64]
"""[N, 3]: offset in the shard and size of each image's file, and its label."""


@dataclass(frozen=True)
class Index:
    """All samples of all splits; S shards in the order of their names, N samples in the order in which they lie.

    Attributes:
        names: [S] of the shards' files.
        sizes: [S] int64, bytes of each shard.
        shard: [N] int32, number of the shard.
        offset: [N] int64, where in it the image's file starts.
        size: [N] int64, bytes of the image's file.
        label: [N] int64, 0 or more.
    """

    names: NDArray[np.str_]
    sizes: NDArray[np.int64]
    shard: NDArray[np.int32]
    offset: NDArray[np.int64]
    size: NDArray[np.int64]
    label: NDArray[np.int64]


def find_index(path: str | None) -> Index:
    """The index of a folder of shards: `index.npz`, or what the headers of the tar files say.

    Args:
        path: `data.path`.

    Raises:
        ConfigError: no path is given.
        DataError: the folder or a split is absent, a shard is not as expected, or `index.npz` does not fit the shards.
    """
    if path is None:
        raise ConfigError(f"data.path is not set: expected {EXPECTED}")
    root = Path(path)
    if not root.is_dir():
        raise DataError(f"data.path={path}: there is no such folder; expected {EXPECTED}")
    names = _find_shards(root)
    if not any(name.startswith("train-") for name in names):
        raise DataError(f"data.path={path}: there is no shard train-*.tar in it; expected {EXPECTED}")
    if all(name.startswith("train-") for name in names):
        raise DataError(f"data.path={path}: there is no shard val-*.tar or test-*.tar in it; expected {EXPECTED}")
    return _read_index(root, names) if (root / INDEX).exists() else _scan(root, names)


def write_index(root: Path) -> int:
    """Go through the shards of a folder and write `index.npz`, or replace it.

    Returns:
        The number of samples.

    Raises:
        DataError: there is no shard, or one that is not as expected.
        RunFolderError: the file cannot be written.
    """
    names = _find_shards(root)
    if not names:
        raise DataError(f"{root}: there is no shard in it; expected {EXPECTED}")
    index = _scan(root, names)
    with open_atomically(root / INDEX) as file:
        np.savez(file, **{field.name: getattr(index, field.name) for field in fields(Index)})
    return len(index.label)


def _find_shards(root: Path) -> list[str]:
    try:
        return sorted(file.name for split in SPLITS for file in root.glob(f"{split}-*.tar"))
    except OSError as error:
        raise DataError(f"{root}: cannot be read: {error.strerror}") from error


def _read_index(root: Path, names: Sequence[str]) -> Index:
    file = root / INDEX
    again = f"`python tools/make_dataset.py index {root}` makes it anew"
    try:
        with np.load(file, allow_pickle=False) as arrays:
            index = Index(**{field.name: arrays[field.name] for field in fields(Index)})
    except Exception as error:  # a damaged zip file raises almost anything
        raise DataError(f"{file}: cannot be read as an index ({' '.join(str(error).split())}); {again}") from error
    _check_index(index, f"{file}: does not fit its shards", again)
    sizes = dict(zip(index.names.tolist(), index.sizes.tolist(), strict=True))
    for name in sorted({*sizes, *names}):
        if name not in sizes or name not in names:
            raise DataError(
                f"{file}: does not fit its shards: {name} is not in {'it' if name in names else 'the folder'}; {again}"
            )
        size = _size_of(root / name)
        if size != sizes[name]:
            raise DataError(
                f"{file}: does not fit its shards: {name} has {size:,} bytes and had {sizes[name]:,} when the "
                f"index was made; is the shard complete? If so, {again}"
            )
    return index


def _size_of(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from error


def _scan(root: Path, names: Sequence[str]) -> Index:
    with ThreadPoolExecutor(NUM_SCANNING_THREADS) as threads:
        parts = list(threads.map(scan_shard, [root / name for name in names]))
    samples = np.concatenate(parts)
    index = Index(
        names=np.array(names),
        sizes=np.array([_size_of(root / name) for name in names]),
        shard=np.repeat(np.arange(len(names), dtype=np.int32), [len(part) for part in parts]),
        offset=samples[:, 0].copy(),
        size=samples[:, 1].copy(),
        label=samples[:, 2].copy(),
    )
    _check_index(index, f"data.path={root}", "are the shards complete?")
    return index


def _check_index(index: Index, what: str, remedy: str) -> None:
    """Refuse an index that would have anything read but bytes of its shards.

    Raises:
        DataError: naming the first sample, or the array, that does not fit.
    """
    if index.names.dtype.kind != "U" or index.names.shape != index.sizes.shape or index.names.ndim != 1:
        raise DataError(f"{what}: names or sizes are no list of as many shards; {remedy}")
    of_samples = {name: getattr(index, name) for name in ("shard", "offset", "size", "label")}
    for name, values in of_samples.items():
        if values.dtype.kind != "i" or values.shape != index.label.shape or values.ndim != 1:
            raise DataError(f"{what}: {name} is no list of one whole number a sample; {remedy}")
    is_wrong = (index.shard < 0) | (index.shard >= len(index.names)) | (index.label < 0) | (index.label >= 2**31)
    ends = index.sizes[np.where(is_wrong, 0, index.shard)] if len(index.sizes) else index.size
    is_wrong |= (index.offset < BLOCK_BYTES) | (index.size < 0) | (index.size > ends - index.offset)
    if is_wrong.any():
        raise DataError(f"{what}: sample {int(np.flatnonzero(is_wrong)[0])} does not lie within a shard; {remedy}")


def scan_shard(file: Path) -> Samples:
    """The samples of one shard, in the order in which they lie.

    Raises:
        DataError: it cannot be read, is no tar file, ends early, or holds a sample that is not an image and a label.
    """
    try:
        with tarfile.open(file, "r:") as tar:
            samples = _read_samples(file, tar)
            assert tar.fileobj is not None
            tar.fileobj.seek(tar.offset)  # behind the last file: a tar file that is whole says there that it ends
            if tar.fileobj.read(BLOCK_BYTES) != bytes(BLOCK_BYTES):
                raise _ends_early(file)
    except (tarfile.TarError, ValueError, OverflowError) as error:
        if "unexpected end" in str(error) or file.stat().st_size == 0:
            raise _ends_early(file) from error
        raise DataError(f"{file}: this is no tar file; expected a WebDataset shard, not compressed") from error
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror or error}") from error
    return np.array(samples, dtype=np.int64).reshape(-1, 3)


def _read_samples(file: Path, tar: tarfile.TarFile) -> list[tuple[int, int, int]]:
    samples: list[tuple[int, int, int]] = []
    key, image, label = "", None, None
    while (member := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined]  # it would keep them all
        folder, _, base = member.name.rpartition("/")
        stem, _, extension = base.partition(".")
        if not stem or not member.isfile():
            continue
        if key != f"{folder}/{stem}":
            samples += _sample(file, key, image, label)
            key, image, label = f"{folder}/{stem}", None, None
        if extension.lower() in EXTENSIONS:
            if image is not None:
                raise DataError(f"{file}: {key.lstrip('/')} has two images; expected one and KEY.cls")
            image = member
        elif extension.lower() == "cls":
            label = _read_label(file, tar, member)
    samples += _sample(file, key, image, label)
    return samples


def _sample(file: Path, key: str, image: tarfile.TarInfo | None, label: int | None) -> list[tuple[int, int, int]]:
    """What goes into the index for the files of one key; nothing where there were none."""
    if not key:
        return []
    if image is None:
        raise DataError(f"{file}: {key.lstrip('/')} has no image; expected KEY.jpg, or another format, beside KEY.cls")
    if label is None:
        raise DataError(f"{file}: {key.lstrip('/')} has no label; expected KEY.cls beside {image.name}")
    return [(image.offset_data, image.size, label)]


def _read_label(file: Path, tar: tarfile.TarFile, member: tarfile.TarInfo) -> int:
    content = tar.extractfile(member)
    assert content is not None
    text = content.read(MOST_LABEL_BYTES)
    if member.size >= MOST_LABEL_BYTES or not text.strip().isdigit() or int(text) >= 2**31:
        raise DataError(f"{file}: {member.name} holds {text!r}; expected a class as a whole number, 0 or more")
    return int(text)


def _ends_early(file: Path) -> DataError:
    return DataError(f"{file}: the shard ends early, after {file.stat().st_size:,} bytes; it is truncated or damaged")
