"""A run in which no step ends says which rank is late, and two runs do not share a folder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from tests.faults.faulty import MAIN, RUN, UNHURRIED, command, files_of, run
from tests.support import mpirun
from wash_hpc.clock import Stopwatch
from wash_hpc.config import load_config
from wash_hpc.errors import STATUS_STOPPED
from wash_hpc.stalls import Sign, StallWatch, find_late, read_signs
from wash_hpc.storage.metrics import read_metrics

WAIT_FOR_THE_TEST = """
Path("{reached}").touch()
deadline = time.monotonic() + 240
while not Path("{go}").exists() and time.monotonic() < deadline:
    time.sleep(0.1)
"""
# Stopped as by a debugger or a scheduler that suspends: not even a thread of the rank runs.
SUSPEND = """
subprocess.Popen(["sh", "-c", f"sleep 9; kill -CONT {os.getpid()}"], stdout=subprocess.DEVNULL)
os.kill(os.getpid(), signal.SIGSTOP)
"""


# Back to back: what the root has given as a sign in the stall before is no sign of life.
STALLS = [(7, 1, SUSPEND), (8, 0, SUSPEND)]


@dataclass(frozen=True)
class Story:
    """What a run that stalls three times said, and what a second one did that was started into its folder meanwhile."""

    folder: Path
    first: subprocess.CompletedProcess[str]
    second: subprocess.CompletedProcess[str]
    before: dict[str, int]
    after: dict[str, int]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    folder = tmp_path_factory.mktemp("stalls")
    reached, go = folder / "reached", folder / "go"
    faults = [(4, 1, WAIT_FOR_THE_TEST.format(reached=reached, go=go)), *STALLS]
    launcher = shutil.which("mpirun")
    assert launcher is not None
    process = subprocess.Popen(
        [launcher, "-n", "2", *command(folder, "run", faults, "log.stall_seconds=3")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 120
        while not reached.exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        time.sleep(1)  # the root is waiting, too
        before = files_of(folder / "run")
        words = [sys.executable, "-m", "wash_hpc", "train", str(folder / "tiny.yaml"), *RUN, f"run.dir={folder}"]
        second = mpirun(2, *words, "checkpoint.resume=auto", "run.name=run")
        after = files_of(folder / "run")
        time.sleep(5)
        go.touch()
        out, errors = process.communicate(timeout=240)
    finally:
        process.kill()
    assert isinstance(process.args, list)
    return Story(
        folder, subprocess.CompletedProcess(process.args, process.returncode, out, errors), second, before, after
    )


@pytest.mark.slow
def test_a_second_run_in_one_folder_is_refused_and_touches_nothing(story: Story) -> None:
    assert story.second.returncode == 2, story.second.stderr
    assert story.second.stderr.count("wash_hpc: error:") == 1
    said = (
        rf"run: another run is going on in it, on {os.uname().nodename}, process \d+, since 20.* \(nothing was touched"
    )
    assert re.search(said, story.second.stderr), story.second.stderr
    assert "Traceback" not in story.second.stderr
    # LOCK is the first run's, which touches it, and so are its signs of where its ranks are.
    changed = {name for name, when in story.after.items() if story.before.get(name) != when}
    assert {name for name in changed if not name.startswith(("LOCK", "stalled/"))} == set()
    assert "LOCK" in story.before


@pytest.mark.slow
def test_the_first_run_ends_as_if_nothing_had_been_and_leaves_no_lock_and_no_signs(story: Story) -> None:
    assert story.first.returncode == 0, story.first.stderr
    assert {"LOCK", "stalled"} & {path.name for path in (story.folder / "run").iterdir()} == set()
    assert read_metrics(story.folder / "run").step.tolist() == list(range(1, 13))


@pytest.mark.slow
def test_a_rank_that_is_slow_with_its_data_is_named_and_so_is_its_step_and_that_it_goes_on(story: Story) -> None:
    said = story.first.stderr
    name = rf"rank 1 \(member 1, replica 0, on {os.uname().nodename}\)"
    late = re.findall(
        rf"wash_hpc: run: a step has not ended for (\d+) s: {name} is in data of step 4; the others wait", said
    )
    assert late, said
    assert int(late[0]) >= 3
    assert len(late) <= 8, "again only after twice as long"
    assert re.search(r"wash_hpc: run: it goes on after \d+ s, with step \d+\n", said)


@pytest.mark.slow
@pytest.mark.parametrize(("late", "step"), [(1, 7), (0, 8)], ids=["another", "the root"])
def test_a_rank_that_is_stopped_altogether_is_named_also_where_it_is_the_root(
    story: Story, late: int, step: int
) -> None:
    name = rf"rank {late} \(member {late}, replica 0, on {os.uname().nodename}\)"
    said = (
        rf"a step has not ended for \d+ s: {name} gives no sign of life: .* "
        rf"Others: 1 (in exchange of step {step}|between steps) "
    )
    assert len(re.findall(said, story.first.stderr)) in (1, 2), story.first.stderr


NAMES = [f"rank {rank}" for rank in range(4)]


@pytest.mark.parametrize(
    ("signs", "says"),
    [
        ([(0, 5, "exchange"), (1, 5, "exchange"), (2, 5, "data"), (3, 5, "exchange")], "rank 2 is in data of step 6;"),
        ([(0, 7, "between"), (1, 7, "between"), (2, 5, "compute"), (3, 7, "data")], "rank 2 is in compute of step 6;"),
        (
            [(0, 5, "between"), (1, 6, "exchange"), (2, 6, "exchange"), (3, 6, "data")],
            "rank 0 is between steps 5 and 6;",
        ),
        ([(0, 5, "exchange"), (1, 5, "exchange"), (3, 5, "data")], "rank 2 gives no sign of life"),
        ([(0, 5, "exchange"), (3, 5, "between")], "rank 1, rank 2 give no sign of life"),
        ([(0, 5, "data"), (1, 5, "data"), (2, 5, "exchange"), (3, 6, "data")], "rank 0, rank 1 are in data of step 6;"),
        ([(rank, 0, "compute") for rank in range(4)], "all ranks are in compute of step 1"),
        ([(rank, 5, "exchange") for rank in range(4)], "all ranks wait for each other in exchange of step 6:"),
        ([(rank, 5, "between") for rank in range(4)], ""),
    ],
)
def test_who_is_late_follows_from_what_the_ranks_are_in(signs: list[tuple[int, int, str]], says: str) -> None:
    found = find_late([Sign(*sign) for sign in signs], NAMES)
    assert found.startswith(says)
    assert bool(found) == bool(says)
    assert read_signs([Sign(*sign).name(17) for sign in signs], 17, 4) == [Sign(*sign) for sign in signs]


def test_answers_to_other_calls_and_other_files_are_passed_over() -> None:
    foreign = [".nfs0001", "call", "17-1-2", "17-1-2-data~", "-17-1-2-data", "17-1-2-da\nta", "17-2-9-data"]
    names = ["17-1-7-data", "17-1-8-compute", "16-1-9-data", "17-0-3-data", *foreign]
    assert read_signs(names, 17, 2) == [Sign(0, 3, "data"), Sign(1, 8, "compute")]


SECONDS = 2.0


def test_one_of_many_that_wait_says_who_is_late_and_all_take_their_signs_away(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rank 0 does short steps, in which nothing is written, until others wait for it; foreign files lie about."""
    folder = tmp_path / "run"
    folder.mkdir()
    clock = Stopwatch(torch.device("cpu"))
    said, step, signs = "", 0, set()
    deadline = time.monotonic() + 60
    with ExitStack() as stack:
        watches = [StallWatch(folder, rank, NAMES, clock, SECONDS, 1000 if rank else 0) for rank in range(4)]
        for watch in watches:
            stack.enter_context(watch)
        while "has not ended" not in said and time.monotonic() < deadline:
            step += 1
            watches[0].step_ended(step)
            time.sleep(SECONDS / 20)
            signs |= set(files_of(folder))
            if signs:
                with suppress(OSError):
                    (folder / "stalled" / "foreign-file").touch()
            said += capsys.readouterr().err
        for watch in watches:
            watch.step_ended(1001)
        while "it goes on" not in said and time.monotonic() < deadline:
            time.sleep(0.1)
            said += capsys.readouterr().err
    by_call = Counter(name.split("-")[0] for name in signs - {"stalled/foreign-file", "stalled/call"})
    assert max(by_call.values()) == 4, signs
    said += capsys.readouterr().err
    late, *_, goes_on = said.splitlines()
    where = r"rank 0 is between steps \d+ and \d+; the others wait \(log.stall_seconds\)"
    assert re.fullmatch(rf"wash_hpc: run: a step has not ended for \d+ s: {where}", late)
    assert re.fullmatch(r"wash_hpc: run: it goes on after \d+ s, with step 1001", goes_on)
    assert list(folder.iterdir()) == []


def test_the_default_is_two_minutes_and_it_can_be_off() -> None:
    assert load_config(None, []).log.stall_seconds == 120
    assert load_config(None, ["log.stall_seconds=0"]).log.stall_seconds == 0


SELDOM_ASKED = """
from wash_hpc import orders
orders._SECONDS_BETWEEN = 1e6  # so that members that do not meet first meet at the end
"""


@pytest.mark.slow
def test_a_rank_with_many_short_steps_for_which_the_others_wait_between_theirs_is_named(tmp_path: Path) -> None:
    faults = [(step, 1, "time.sleep(1)") for step in range(3, 13)]
    seldom = ["method.name=independent", "log.every_steps=100", "checkpoint.every_steps=0", "log.stall_seconds=5"]
    done = run(tmp_path, "run", faults, *seldom, program=SELDOM_ASKED + MAIN)
    assert done.returncode == 0, done.stderr
    said = r"a step has not ended for \d+ s: rank 1 \(.*\) is in data of step \d+; the others wait"
    assert re.search(said, done.stderr), done.stderr
    assert "no sign of life" not in done.stderr
    assert not (tmp_path / "run" / "stalled").exists()


HANGS = """
try:
    main(sys.argv[2:])
finally:
    if rank == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
"""


@pytest.mark.slow
def test_a_run_that_has_stopped_and_hangs_on_its_way_out_is_ended_by_force(tmp_path: Path) -> None:
    """One rank never comes to the end of MPI, in which the other waits for it."""
    stop = (5, 1, "os.kill(os.getpid(), signal.SIGTERM)")
    done = run(tmp_path, "run", [*UNHURRIED, stop], "checkpoint.grace_seconds=4", program=HANGS)
    assert done.returncode == STATUS_STOPPED, done.stderr
    assert "run: stopped after step" in done.stderr
    said = "the run has ended, and this process has not within 4 s: ends by force (checkpoint.grace_seconds)"
    assert f"wash_hpc: rank 0: {said}" in done.stderr
