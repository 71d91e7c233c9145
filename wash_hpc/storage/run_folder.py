"""A run's folder: whether a run may start in it, and where it goes on."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path

from wash_hpc.config import Config, dump_config, load_run_config
from wash_hpc.errors import RunFolderError, StoppedError
from wash_hpc.storage.checkpoint import CheckpointError, Manifest
from wash_hpc.storage.files import write_atomically
from wash_hpc.storage.kept import Found, find_checkpoints, last_manifest, put_aside
from wash_hpc.storage.run_lock import RunLock
from wash_hpc.storage.summary import Summary, read_summary

STOP = "STOP"  # a file that a user puts into the folder: stop after this step with a checkpoint, and do not start again
SAVE = "SAVE"  # likewise: write a checkpoint, and go on
STALLED = "stalled"  # a folder, there while a step lasts and lasts: where each rank is

# Keys that say where and by what means a run is made, by their beginnings.
_CHANGE_NO_RESULT = ("parallel.", "run.threads", "data.path", "data.workers", "data.prefetch", "data.decoder_size_hint")
_LENGTH = ("train.steps", "train.epochs")


def find_start(config: Config, lock: RunLock) -> list[Found]:
    """From which checkpoints a run may continue, the last one first; none: a fresh start. Touches nothing.

    Args:
        config: the run's.
        lock: of its folder; not yet taken.

    Raises:
        RunFolderError: the folder exists and `checkpoint.resume` is `never`, or it is `must` and there is nothing to
            continue from; or another run is going on in it.
        StoppedError: a file STOP lies in the folder.
    """
    folder, resume = config.folder, config.checkpoint.resume
    if resume == "never" and folder.exists():
        raise _exists(folder)
    lock.require_free()
    if (folder / STOP).exists():
        raise StoppedError(f"{folder / STOP}: this file says that the run is to stop; remove it to go on")
    found = [] if resume == "never" else find_checkpoints(folder)
    if resume == "must" and not found:
        raise CheckpointError(f"checkpoint.resume=must: {folder} holds no complete checkpoint")
    return found


def find_finished(config: Config) -> Summary | None:
    """What the run came to where it has finished and `checkpoint.resume` would have it go on; else None.

    A run that is to be longer, and has a checkpoint to go on from, has not finished.

    Raises:
        RunFolderError: it has, and other keys differ that may change a result: under its old name it would be lost, or
            what it came to would be laid to values that it was not trained with.
        WashError: the files of the folder cannot be read.
    """
    folder = config.folder
    if config.checkpoint.resume == "never" or not (folder / "summary.json").is_file():
        return None
    changed = changes_of_result(load_run_config(folder), config)
    if not changed:
        return read_summary(folder)
    if any(change.startswith(_LENGTH) for change in changed) and last_manifest(folder) is not None:
        return None
    raise RunFolderError(
        f"{folder} has finished with other values ({', '.join(changed)}; nothing was touched): "
        "choose another run.name, or remove the folder"
    )


def claim_folder(config: Config, found: list[Found], lock: RunLock) -> str:
    """Make the run's folder, and have it for this run alone until `lock` is released. Nothing else is written.

    Args:
        config: the run's.
        found: what `find_start` gave.
        lock: of the folder.

    Returns:
        What a user is to be told; empty: nothing.

    Raises:
        RunFolderError: another run is going on in it, or has gone on since; or it cannot be made.
    """
    folder, resume = config.folder, config.checkpoint.resume
    try:
        folder.mkdir(parents=True, exist_ok=resume != "never")
    except FileExistsError:
        raise _exists(folder) from None
    except OSError as error:
        raise RunFolderError(f"{folder}: cannot be made: {error.strerror}") from error
    note = lock.take()
    shutil.rmtree(folder / STALLED, ignore_errors=True)  # of a run that was killed
    if resume != "never" and (find_finished(config) is not None or find_checkpoints(folder) != found):
        raise RunFolderError(f"{folder}: another run has gone on in it just now: start again to go on from there")
    return note


def _exists(folder: Path) -> RunFolderError:
    return RunFolderError(
        f"{folder} exists (nothing was touched): choose another run.name, or continue with checkpoint.resume=auto"
    )


def create_folder(config: Config, start: Manifest | None = None) -> list[str]:
    """Write `config.yaml` into the run's folder, made where need be; what an earlier start came to speaks no longer.

    What its killed writers have left, and checkpoints beyond the start, which are damaged, are put aside.

    Args:
        config: the run's.
        start: the checkpoint from which it continues, or None.

    Returns:
        What a user is to be told: that an earlier start is begun anew, and keys whose values differ from its own.

    Raises:
        RunFolderError: it cannot be made.
    """
    folder, notes = config.folder, []
    is_continued = start is not None
    if (folder / "config.yaml").is_file():
        if not is_continued:
            notes.append(f"{folder} holds no checkpoint: starts anew, in place of what is there")
        if changes := changed_keys(load_run_config(folder), config):
            how = "continues" if is_continued else "starts"
            notes.append(f"{how} with other values than before: {', '.join(changes)}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "summary.json").unlink(missing_ok=True)
        if not is_continued:  # then members may be others, and more, than this run's will be
            shutil.rmtree(folder / "members", ignore_errors=True)
    except OSError as error:
        raise RunFolderError(f"{folder}: cannot be made: {error.strerror}") from error
    put_aside(folder, 0 if start is None else start.step)
    write_atomically(folder / "config.yaml", dump_config(config))
    return notes


def changes_of_result(before: Config, after: Config) -> list[str]:
    """What differs between two configurations and may change what a run comes to."""
    return [change for change in changed_keys(before, after) if not change.startswith(_CHANGE_NO_RESULT)]


def changed_keys(before: Config, after: Config) -> list[str]:
    """What differs between two configurations, but for how often things are written down."""
    old, new = asdict(before), asdict(after)
    return [
        f"{section}.{key}: {old[section][key]} -> {value}"
        for section, values in new.items()
        for key, value in values.items()
        if section not in {"log", "checkpoint"} and old[section][key] != value
    ]
