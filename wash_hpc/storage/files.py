"""Files that are complete or absent. No knowledge of what is in them."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from wash_hpc.errors import RunFolderError


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write or replace a file so that a reader, or a machine that dies, sees the old one or the new one, never a part.

    Args:
        path: the file; its folder exists.
        content: text, written as UTF-8, or bytes.

    Raises:
        RunFolderError: it cannot be written; the old file is as it was.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.new")  # the same folder: a rename must not cross devices
    try:
        with unfinished.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):
            unfinished.unlink()
        raise RunFolderError(f"{path}: cannot be written: {error.strerror or error}") from error


def make_folder(path: Path) -> None:
    """Make a folder and those above it, where there is none.

    Raises:
        RunFolderError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFolderError(f"{path}: cannot be made: {error.strerror or error}") from error


def _sync_folder(folder: Path) -> None:
    """Make a rename in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
