"""Files that are complete or absent. No knowledge of what is in them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from wash_hpc.errors import RunFolderError


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write or replace a file so that a reader, or a machine that dies, sees the old one or the new one, never a part.

    Args:
        path: the file; its folder exists.
        content: text, written as UTF-8, or bytes.

    Raises:
        RunFolderError: it cannot be written; the old file is as it was.
    """
    with open_atomically(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def open_atomically(path: Path) -> Iterator[BinaryIO]:
    """A file to write in pieces, which takes the name `path` when the block ends, and leaves nothing if it raises.

    Args:
        path: the file; its folder exists.

    Raises:
        RunFolderError: as `write_atomically`.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.new")  # the same folder: a rename must not cross devices
    try:
        unfinished.unlink(missing_ok=True)
        with unfinished.open("xb") as file:  # a link of this name would lead elsewhere
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise RunFolderError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):  # as a rule it has its name by now
            unfinished.unlink()


def remove_unfinished(folder: Path) -> None:
    """Remove what writers that were killed have left in a folder, none of which has its name yet. Not below it."""
    for file in folder.glob(".*.new"):
        with suppress(OSError):  # it harms nobody
            file.unlink()


def make_folder(path: Path) -> None:
    """Make a folder and those above it, where there is none.

    Raises:
        RunFolderError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFolderError(f"{path}: cannot be made: {error.strerror or error}") from error


def sync_folder(folder: Path) -> None:
    """Make what was renamed or made in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
