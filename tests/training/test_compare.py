"""`make compare` on real ranks: one table, finished rows kept, failing rows named, and an end that ends all ranks."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support import interrupted_in_mid_run, with_quick_ranks

TINY = ["train.steps=4", "model.width=4", "evaluate.every_epochs=0", "evaluate.statistics_images=32"]


def compare(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "tools/compare.py", f"run.dir={folder}", *TINY, *arguments]
    environment = with_quick_ranks(folder.parent)
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=900, check=False)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def first(runs: Path) -> subprocess.CompletedProcess[str]:
    """Three rows, of which one has to fail: four members on the one rank of the single long run."""
    return compare(runs, "ensemble.members=4", "--only", "wash,papa,single_long")


def rows_of_table(printed: str) -> list[str]:
    lines = printed.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("run  "))
    return [
        line.split()[0] for line in lines[start + 1 :] if line and line.split()[0] in ("wash", "papa", "single_long")
    ]


def test_a_failing_row_is_named_and_the_others_are_in_the_table_with_all_columns(runs, first):
    assert first.returncode == 1, first.stderr
    assert rows_of_table(first.stdout) == ["wash", "papa"]
    for title in ("member mean", "best", "ensemble", "soup", "soup raw", "greedy soup", "sent per member", "time"):
        assert title in first.stdout
    assert "compare.py: single_long has failed and is not in the table" in first.stderr
    assert "ensemble.members=4" in first.stderr
    assert "papa" in (runs / "compare.html").read_text()


def test_rows_that_have_finished_are_not_trained_again(runs, first):
    summaries = [runs / "compare_digits" / name / "summary.json" for name in ("wash", "papa")]
    before = [file.stat().st_mtime_ns for file in summaries]
    again = compare(runs, "ensemble.members=4", "--only", "wash,papa")
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("has finished before with this configuration") == 2
    assert "mpirun" not in again.stdout
    assert rows_of_table(again.stdout) == ["wash", "papa"]
    shorter = compare(runs, "ensemble.members=4", "--only", "sparta,papa", "train.steps=3")
    assert shorter.returncode == 2
    assert "papa has finished with another configuration (nothing was touched): train.steps: 4 -> 3" in shorter.stderr
    assert [file.stat().st_mtime_ns for file in summaries] == before
    assert not (runs / "compare_digits" / "sparta").exists()


def test_ctrl_c_ends_the_ranks_with_a_checkpoint_from_which_the_same_command_goes_on(runs):
    arguments = [f"run.dir={runs}", "run.name=stopped", *TINY, "--only", "independent"]
    long = ["train.steps=400", "log.every_steps=2"]
    command = [sys.executable, "tools/compare.py", *arguments, *long]
    status, said = interrupted_in_mid_run(command, with_quick_ranks(runs.parent))
    assert status == 130
    assert "stopped; the same command goes on" in said
    assert ranks_of(runs / "stopped") == []
    other = compare(runs, "run.name=stopped", "--only", "independent", "train.steps=300")
    assert other.returncode == 2
    assert (
        "independent was begun with another configuration (nothing was touched): train.steps: 400 -> 300"
        in other.stderr
    )
    again = compare(runs, "run.name=stopped", "--only", "independent", *long)
    assert again.returncode == 0, again.stderr
    assert "independent has not finished: it is there at step " in again.stdout
    assert "step 2/400" not in again.stdout


def ranks_of(folder: Path) -> list[str]:
    """Processes that still train in a folder; those that are ending are given some time to."""
    for _ in range(100):
        lines = [
            line
            for entry in Path("/proc").iterdir()
            if entry.name.isdecimal() and int(entry.name) != os.getpid()
            for line in [_command_line(entry)]
            if f"run.dir={folder}" in line
        ]
        if not lines:
            break
        time.sleep(0.2)
    return lines


def _command_line(process: Path) -> str:
    try:
        return (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:  # it has ended meanwhile
        return ""
