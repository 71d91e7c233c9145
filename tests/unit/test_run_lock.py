"""A folder has one run at a time, whatever the file system and the clocks do, and a dead run does not keep it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from wash_hpc.config import load_config
from wash_hpc.errors import RunFolderError
from wash_hpc.storage.run_folder import claim_folder, find_start
from wash_hpc.storage.run_lock import LOCK, Holder, RunLock

HOLDS = """
import sys, time
from pathlib import Path
from wash_hpc.storage.run_lock import RunLock
RunLock(Path(sys.argv[1]), beat_seconds=0.1).take()
print("held", flush=True)
time.sleep(600)
"""


@contextmanager
def holding(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds a folder."""
    command = [sys.executable, "-c", HOLDS, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def leave(folder: Path, **changes: object) -> None:
    """A LOCK as this process would leave it, with other values."""
    (folder / LOCK).write_text(json.dumps({**asdict(Holder.myself()), **changes}))


def test_a_folder_is_refused_while_a_run_holds_it_and_free_at_once_when_that_was_killed(tmp_path: Path) -> None:
    with holding(tmp_path) as process:
        with pytest.raises(RunFolderError) as refused:
            RunLock(tmp_path).take()
        assert str(refused.value).startswith(f"{tmp_path}: another run is going on in it, on {os.uname().nodename}, ")
        assert f"process {process.pid}, since 20" in str(refused.value)
        assert "stop it, or choose another run.name" in str(refused.value)
        process.kill()
        process.wait()
    lock = RunLock(tmp_path)
    assert lock.take().startswith("the run before in this folder has died (on ")
    lock.release()
    assert not (tmp_path / LOCK).exists()


def test_a_process_that_was_killed_and_that_nobody_has_waited_for_yet_is_dead(tmp_path: Path) -> None:
    with holding(tmp_path) as process:
        process.kill()
        time.sleep(0.2)  # a zombie from now on
        lock = RunLock(tmp_path, dead_seconds=60)
        lock.take()
        lock.release()


@pytest.mark.parametrize(
    "content",
    ["[" * 4000, '{"process": 1}', *(json.dumps({**asdict(Holder.myself()), "process": p}) for p in ("12", 10**30, 0))],
    ids=["nested", "half", "text", "huge", "zero"],
)
def test_a_lock_of_no_run_is_watched_and_then_taken(tmp_path: Path, content: str, capsys) -> None:
    (tmp_path / LOCK).write_text(content)
    lock = RunLock(tmp_path, dead_seconds=0.2)
    lock.require_free()
    assert capsys.readouterr().err.count("looks for 0.2 s whether that run still lives") == 1
    lock.take()
    assert capsys.readouterr().err == "", "it has been watched once"
    lock.release()


def test_a_lock_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    (tmp_path / LOCK).mkdir()
    with pytest.raises(RunFolderError, match="LOCK: cannot be read: Is a directory; if no run is going on"):
        RunLock(tmp_path).take()


def test_another_process_with_the_number_of_a_dead_one_holds_nothing(tmp_path: Path) -> None:
    leave(tmp_path, started=Holder.myself().started - 1)
    RunLock(tmp_path).require_free()


@pytest.mark.parametrize("other", [{"kernel": "of another host"}, None], ids=["another host", "unreadable"])
def test_of_a_process_that_cannot_be_seen_the_touches_count_and_not_the_clocks(
    tmp_path: Path, other: dict[str, str] | None
) -> None:
    """Its host's clock stands a year behind or ahead, or jumps: only that the file's time changes is looked at."""
    if other is None:
        (tmp_path / LOCK).write_text("{")
    else:
        leave(tmp_path, **other)
    ended = threading.Event()

    def touch() -> None:
        number = 0
        while not ended.wait(0.1):
            number += 1
            os.utime(tmp_path / LOCK, (number % 3 * 3.15e7, number % 3 * 3.15e7))

    toucher = threading.Thread(target=touch)
    toucher.start()
    lock = RunLock(tmp_path, beat_seconds=0.1, dead_seconds=1)
    try:
        with pytest.raises(RunFolderError, match="another run is going on in it"):
            lock.take()
    finally:
        ended.set()
        toucher.join()
    assert lock.take()
    lock.release()


def test_of_those_that_find_the_same_dead_run_one_goes_on(tmp_path: Path) -> None:
    leave(tmp_path, started=1)
    command = [sys.executable, "-c", f"input()\n{HOLDS}", str(tmp_path)]
    pipe = subprocess.PIPE
    processes = [subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) for _ in range(3)]
    try:
        time.sleep(0.5)
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        deadline = time.monotonic() + 60
        while sum(process.poll() is None for process in processes) > 1 and time.monotonic() < deadline:
            time.sleep(0.05)
        (winner,) = [process for process in processes if process.poll() is None]
        assert json.loads((tmp_path / LOCK).read_text())["process"] == winner.pid
    finally:
        for process in processes:
            process.kill()
    for process in processes:
        _, said = process.communicate()
        assert process is winner or f"another run is going on in it, on {os.uname().nodename}, process" in said


def test_a_run_whose_folder_was_taken_over_ends_before_it_writes_more(tmp_path: Path) -> None:
    """As one that was suspended for longer than others wait for a sign of it."""
    with holding(tmp_path) as process:
        leave(tmp_path, host="node7", process=12)
        _, said = process.communicate(timeout=20)
        assert process.returncode == 2
        assert f"{tmp_path}: another run has taken this folder over, on node7, process 12" in said
    assert json.loads((tmp_path / LOCK).read_text())["host"] == "node7"


def test_a_holder_touches_its_lock_and_two_of_one_process_are_two(tmp_path: Path) -> None:
    first = RunLock(tmp_path, beat_seconds=0.1)
    first.take()
    before = (tmp_path / LOCK).stat().st_mtime_ns
    time.sleep(1)
    assert (tmp_path / LOCK).stat().st_mtime_ns > before
    with pytest.raises(RunFolderError, match=f"process {os.getpid()}"):
        RunLock(tmp_path).take()
    first.release()
    first.release()


def test_a_folder_in_which_nothing_was_written_is_gone_when_it_is_released(tmp_path: Path) -> None:
    config = load_config(None, [f"run.dir={tmp_path}", "run.name=run"])
    lock = RunLock(config.folder)
    assert claim_folder(config, None, lock) == ""
    with pytest.raises(RunFolderError, match="run exists"):
        claim_folder(config, None, RunLock(config.folder))
    lock.release()
    assert not config.folder.exists()
    claim_folder(config, None, lock := RunLock(config.folder))
    (config.folder / "config.yaml").touch()
    lock.release()
    assert [path.name for path in config.folder.iterdir()] == ["config.yaml"]


def test_a_lock_that_cannot_be_written_is_said_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="LOCK: cannot be written: No such file or directory"):
        RunLock(tmp_path / "absent").take()


def test_a_run_that_went_on_while_another_was_starting_is_not_gone_over_again(tmp_path: Path) -> None:
    from wash_hpc.storage.checkpoint import Manifest, write_manifest

    config = load_config(None, [f"run.dir={tmp_path}", "run.name=run", "checkpoint.resume=auto"])
    manifest = Manifest(5, 1, 1, 0, "sgd", [0], [0], 0.0, {})
    (config.folder / "checkpoints" / "step-00000005").mkdir(parents=True)
    write_manifest(config.folder, manifest)
    there = find_start(config, RunLock(config.folder))
    lock = RunLock(config.folder)
    claim_folder(config, there, lock)
    lock.release()
    for found in ([], [replace(there[0], step=4)]):
        lock = RunLock(config.folder)
        with pytest.raises(RunFolderError, match="another run has gone on in it just now: start again"):
            claim_folder(config, found, lock)
        lock.release()
