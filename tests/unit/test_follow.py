"""The live view: a line or a screen that says what the files say, and when it ends."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from wash_hpc.errors import RunFolderError
from wash_hpc.report.alarms import Alarm
from wash_hpc.report.follow import _Printer, status_line
from wash_hpc.report.live import screen, sparkline
from wash_hpc.report.watch import Look, RunWatch, describe_unfinished, how_to_go_on
from wash_hpc.storage.metrics import EvaluationRecord, MetricsWriter, TrainRecord, read_metrics
from wash_hpc.storage.run_lock import Holder, LockWatch
from wash_hpc.storage.summary import Summary, write_summary

SUMMARY = Summary("demo", "wash", 2, 1, 0, 40, 1.5, 900, 100, 0.97, 0.98, 0.977, 0.987, 0.986, None, 3.2, 10, 18.0, 9.0)
ATTRIBUTES = {"num_steps": 40, "first_step": 0, "config": "data:\n  name: digits\n"}


def train_record(step: int, num_members: int = 2) -> TrainRecord:
    row = np.arange(1, num_members + 1) / step
    counts = np.full(num_members, 10 * step)
    times = [np.full(num_members, seconds) for seconds in (0.0, 0.5, 0.0, 0.0)]
    distance = step / 10 if step % 10 == 0 else float("nan")
    return TrainRecord(step, step / 20, 0.1, row, 1 - row / 20, row, *times, *[counts] * 3, distance, np.zeros(1))


def evaluation_record(step: int, num_members: int = 2) -> EvaluationRecord:
    row = np.full(num_members, 0.9)
    return EvaluationRecord(step, row, 0.95, 0.9 + step / 1000, row, 1.0, 0.5, 0.02)


@contextmanager
def going_run(folder: Path, num_members: int = 2, **attributes: Any) -> Iterator[MetricsWriter]:
    """A run of 40 steps that has done 30 and lives in this process."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("run:\n  name: demo\n")
    (folder / "LOCK").write_text(json.dumps(asdict(Holder.myself())))
    with MetricsWriter(folder, num_members, ["fc"], {**ATTRIBUTES, **attributes}) as writer:
        for step in range(1, 31):
            writer.append_train(train_record(step, num_members))
        writer.append_evaluation(evaluation_record(30, num_members))
        yield writer


def dead_holder(folder: Path) -> None:
    """LOCK of a process of this host that is gone."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    (folder / "LOCK").write_text(json.dumps(asdict(replace(Holder.myself(), process=gone.pid))))


def text_of(look: Look, width: int = 100, height: int = 40) -> str:
    text = io.StringIO()
    console = Console(width=width, height=height, force_terminal=True, color_system=None, file=text)
    console.print(screen(look, status_line(look), console))
    return text.getvalue()


def test_the_live_line_says_the_last_record(tmp_path: Path) -> None:
    with going_run(tmp_path / "a"):
        line = status_line(RunWatch(tmp_path / "a").look())
    assert line == (
        "step 30 of 40, epoch 1.50, loss 0.05, accuracy 99.75 %, 0 images/s a member, 300 B sent, distance 3, "
        "soup 93.00 %, ensemble 95.00 %"
    )


def test_of_a_text_evaluations_are_perplexities(tmp_path: Path) -> None:
    with going_run(tmp_path / "a", config="data:\n  name: text\n"):
        look = RunWatch(tmp_path / "a").look()
    assert status_line(look).endswith("soup perplexity 1.65, ensemble perplexity 2.72")
    assert "best perplexity 2.46" in text_of(look)
    assert "test perplexity" in text_of(look)


def test_a_run_that_has_not_begun_is_waited_for(tmp_path: Path) -> None:
    watch = RunWatch(tmp_path / "a")
    assert status_line(watch.look()) == f"waiting for {tmp_path}/a to begin"
    (tmp_path / "a").mkdir()
    assert watch.look().state == "waiting"
    (tmp_path / "a/LOCK").write_text(json.dumps(asdict(Holder.myself())))
    assert status_line(watch.look()) == "waiting for the first metrics"


@pytest.mark.parametrize("what", ["a folder", "a file"])
def test_what_is_no_run_is_refused(tmp_path: Path, what: str) -> None:
    place = tmp_path / "a"
    if what == "a folder":
        place.mkdir()
        (place / "photo.jpg").touch()
    else:
        place.touch()
    with pytest.raises(RunFolderError, match="a: not a run's folder"):
        RunWatch(place).look()


def test_files_are_read_only_when_they_have_changed(tmp_path: Path) -> None:
    with going_run(tmp_path / "a"):
        pass
    watch = RunWatch(tmp_path / "a")
    first = watch.look()
    assert watch.look().metrics is first.metrics
    with MetricsWriter(tmp_path / "a", 2, ["fc"], {**ATTRIBUTES, "first_step": 30}) as writer:
        writer.append_train(train_record(31))
    assert watch.look().step == 31


def test_a_run_that_stops_or_is_killed_ends_the_view(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    with going_run(folder):
        watch = RunWatch(folder)
        assert (watch.look().state, watch.look().has_ended) == ("going", False)
        dead_holder(folder)
        assert status_line(watch.look()).endswith("was killed after step 30 of 40")
        (folder / "LOCK").unlink()
        assert status_line(watch.look()).endswith("has stopped after step 30 of 40")
        write_summary(folder, SUMMARY)
        assert status_line(watch.look()).endswith("finished")


def test_a_run_of_an_early_version_without_a_lock_has_stopped_when_nothing_is_written_for_a_while(
    tmp_path: Path,
) -> None:
    with going_run(tmp_path / "a"):
        (tmp_path / "a/LOCK").unlink()
    assert RunWatch(tmp_path / "a").look().state == "going"
    assert RunWatch(tmp_path / "a", quiet_seconds=-1).look().state == "stopped"


def test_a_holder_elsewhere_lives_while_its_lock_changes_whatever_the_clocks_say(tmp_path: Path) -> None:
    lock = tmp_path / "LOCK"
    lock.write_text(json.dumps(asdict(replace(Holder.myself(), kernel="elsewhere"))))
    os.utime(lock, (0, 0))
    patient, hasty = LockWatch(tmp_path), LockWatch(tmp_path, dead_seconds=0)
    assert (patient.look(), hasty.look()) == ("unknown", "dead")
    os.utime(lock, (1, 1))
    assert (patient.look(), patient.look()) == ("alive", "alive")
    lock.unlink()
    assert patient.look() == "none"


def test_an_unfinished_run_is_described_with_its_last_step_and_how_to_go_on(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    with going_run(folder):
        assert describe_unfinished(folder) == f"{folder}: the run is going: step 30 of 40; --follow shows it"
        dead_holder(folder)
        assert describe_unfinished(folder) == (
            f"{folder}: the run has not finished: it was killed after step 30 of 40; it has left no checkpoint: start "
            f"it anew with wash-hpc train {folder}/config.yaml checkpoint.resume=auto"
        )
        (folder / "LOCK").unlink()
        (folder / "checkpoints/step-00000020").mkdir(parents=True)
        assert f"it has stopped after step 30 of 40; continue it with wash-hpc train {folder}" in describe_unfinished(
            folder
        )
    (folder / "metrics/0000.h5").write_bytes(b"no HDF5")
    assert "metrics/0000.h5: not readable" in describe_unfinished(folder)


@pytest.mark.parametrize(
    ("about", "command"),
    [
        ({"num_ranks": 4, "program": "wash-hpc"}, "mpirun -n 4 wash-hpc train"),
        ({"num_ranks": 2, "program": "python my_model.py"}, "mpirun -n 2 python my_model.py train"),
        ({"num_ranks": 1, "program": "wash-hpc; rm -r x"}, "wash-hpc train"),  # somebody else's file
        ({}, "wash-hpc train"),
    ],
)
def test_a_run_is_continued_by_as_many_ranks_of_the_program_that_began_it(
    tmp_path: Path, about: dict[str, str | int], command: str
) -> None:
    with MetricsWriter(tmp_path, 2, ["fc"], about):
        pass
    said = how_to_go_on(tmp_path, read_metrics(tmp_path))
    assert said.endswith(f"start it anew with {command} {tmp_path}/config.yaml checkpoint.resume=auto")


def test_the_live_line_says_when_nothing_has_been_written_for_long(tmp_path: Path) -> None:
    with going_run(tmp_path / "a"):
        look = RunWatch(tmp_path / "a").look()
    assert "nothing written" not in status_line(look)
    assert status_line(replace(look, quiet_seconds=600)).endswith("nothing written for 10 min 00 s")


def test_the_live_line_names_an_unreadable_file(tmp_path: Path) -> None:
    with going_run(tmp_path / "a"):
        pass
    (tmp_path / "a/metrics/0000.h5").write_bytes(b"no HDF5")
    assert "metrics/0000.h5: not readable" in status_line(RunWatch(tmp_path / "a").look())


def test_the_screen_shows_progress_members_numbers_evaluation_and_alarms(tmp_path: Path) -> None:
    with going_run(tmp_path / "a"):
        text = text_of(RunWatch(tmp_path / "a").look())
    for words in (
        "step 30/40  75%  epoch 1.50",
        "trained for about 15.0 s, about 5.0 s left",
        "0.0333",
        "99.83",
        "learning rate  0.1",
        "distance       3  ▁▅█",
        "300 B by a member",
        "compute 100.0%",
        "evaluated at step 30: members 90.00 %, best 90.00 %, ensemble 95.00 %, soup 93.00 %",
    ):
        assert words in text


@pytest.mark.parametrize(("width", "height"), [(100, 24), (40, 12), (100, 5), (20, 2)])
def test_the_screen_fits_the_terminal_whatever_the_number_of_members(tmp_path: Path, width: int, height: int) -> None:
    with going_run(tmp_path / "a", num_members=300):
        text = text_of(RunWatch(tmp_path / "a").look(), width, height)
    assert len(text.splitlines()) < max(height, 4)
    assert max(map(len, text.splitlines())) <= width


def test_of_many_members_least_median_and_most_are_shown(tmp_path: Path) -> None:
    with going_run(tmp_path / "a", num_members=9):
        text = text_of(RunWatch(tmp_path / "a").look())
    rows = [line.split()[:2] for line in text.splitlines() if line.split()[:1] in (["least"], ["median"], ["most"])]
    assert rows == [["least", "0.0333"], ["median", "0.1667"], ["most", "0.3000"]]


def test_a_curve_of_text_goes_from_the_least_to_the_largest_value() -> None:
    assert sparkline([1, float("nan"), 2.1, 3], 10) == "▁▅█"
    assert (sparkline([], 10), sparkline([5, 5], 10), sparkline([0, 7], 10, is_ascii=True)) == ("", "▁▁", "_#")
    assert len(sparkline(list(range(1000)), 12)) == 12


def test_in_a_log_an_alarm_is_said_once_and_of_members_once_for_those_it_names() -> None:
    text = io.StringIO()
    printer = _Printer(Console(file=text, width=1000))
    slow, faster = (Alarm("data", f"{share}% of the time is spent waiting for batches", "Try") for share in (19, 18))
    low, sick = (Alarm("member", what, "Try") for what in ("member 1 is far below", "loss of member 3 is not finite"))
    for said in ([slow, low], [faster, low], [faster, sick], [sick, low]):
        printer.show(Look(Path("a"), "going", None, "", 0.0, alarms=said))
    alarms = [line.partition("alarm: ")[2] for line in text.getvalue().splitlines() if "alarm" in line]
    assert alarms == [str(slow), str(low), str(sick)]
