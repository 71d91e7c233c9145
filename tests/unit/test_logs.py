"""What a run says: a bar on a terminal, lines in a file, nothing on ranks other than the root."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import termios
from contextlib import suppress
from itertools import pairwise

import pytest

from wash_hpc import logs
from wash_hpc.durations import format_seconds
from wash_hpc.logs import ProgressReport

TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ")


class Clock:
    """Stands for the module `time`, so that a run of days takes none."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now

    def strftime(self, form: str) -> str:
        return "2026-01-01 00:00:00"


def report(mode, speaks: bool = True) -> None:
    progress = ProgressReport(mode, "run-1", 0, 40, speaks)
    progress.show_step(10, 1.25, 640.0)
    progress.show_evaluation(20, "accuracy", 0.5, 0.75, 0.625)
    progress.show_evaluation(30, "perplexity", 4.5, 3.25, 12.346)
    progress.show_step(40, 0.5, 650.0)
    progress.close()


def test_bar_shows_loss_and_rate(capsys):
    report("bar")
    shown = capsys.readouterr()
    assert "40/40" in shown.err
    assert "loss 0.5000, 650 img/s a member" in shown.err
    assert "ensemble 75.00%, soup 62.50%" in shown.err
    assert shown.out == ""


def test_lines_say_the_time_the_first_and_the_last_step_and_every_evaluation(capsys):
    report("lines")
    lines = capsys.readouterr().out.splitlines()
    assert all(TIME.match(line) for line in lines)
    assert [TIME.sub("", line) for line in lines] == [
        "run-1: step 10/40  loss 1.2500  640 img/s a member",
        "run-1: step 20/40  test accuracy: members 50.00%, ensemble 75.00%, soup 62.50%",
        "run-1: step 30/40  test perplexity: members 4.50, ensemble 3.25, soup 12.35",
        "run-1: step 40/40  loss 0.5000  650 img/s a member",
    ]


def test_lines_come_ten_seconds_apart_then_a_minute_and_say_what_is_left(monkeypatch, capsys):
    """90 epochs of 625 steps, 1.2 s each, recorded every tenth; a start of two minutes, 30 s for an evaluation."""
    clock = Clock()
    monkeypatch.setattr(logs, "time", clock)
    num_steps = 90 * 625
    progress = ProgressReport("lines", "run", 0, num_steps, speaks=True)
    said_at, left = [], []
    clock.now = 120.0
    for step in range(10, num_steps + 1, 10):
        clock.now += 12.0 + (30.0 if step % 625 < 10 else 0.0)
        progress.show_step(step, 1.0, 100.0)
        for line in capsys.readouterr().out.splitlines():
            said_at.append(clock.now)
            left.append((num_steps - step, line.partition("member  ")[2]))
    apart = [later - sooner for sooner, later in pairwise(said_at)]
    assert min(apart[:30]) >= 10
    assert max(apart[:30]) <= 54  # an evaluation lies between
    assert min(apart[60:-1]) >= 60
    assert max(apart[60:]) <= 120
    assert len(said_at) < 1300
    assert left[0] == (num_steps - 10, "")
    steps, words = left[600]
    found = re.fullmatch(r"(\d+) h (\d\d) min left", words)
    assert found is not None
    hours, minutes = map(int, found.groups())
    assert hours * 60 + minutes == pytest.approx(steps * (1.2 + 30 / 625) / 60, rel=0.01)
    assert left[-1] == (0, "")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.04, "0.0 s"),
        (59.94, "59.9 s"),
        (59.97, "1 min 00 s"),
        (183.2, "3 min 03 s"),
        (3599.4, "59 min 59 s"),
        (3599.9, "1 h 00 min"),
        (3900, "1 h 05 min"),
        (86399, "23 h 59 min"),
        (86401, "1 d 0 h"),
        (200_000, "2 d 8 h"),
    ],
)
def test_a_duration_is_said_as_a_person_says_it(seconds, words):
    assert format_seconds(seconds) == words


SHOW = """
from wash_hpc.logs import ProgressReport
progress = ProgressReport("auto", "run", 0, 40, True)
progress.show_step(10, 1.25, 640.0)
progress.say("something")
progress.show_step(40, 0.5, 650.0)
progress.close()
"""


def shown_on_terminal(width: int, **environment: str) -> bytes:
    """What a real terminal of so many columns is sent."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, width))
    done = subprocess.Popen(
        [sys.executable, "-c", SHOW], stdout=theirs, stderr=theirs, env={**os.environ, **environment}
    )
    os.close(theirs)
    sent = b""
    with suppress(OSError):  # that is how its end is said
        while piece := os.read(ours, 2**16):
            sent += piece
    os.close(ours)
    assert done.wait() == 0
    return sent


def test_control_codes_go_to_a_terminal_alone_and_no_colour_with_no_color():
    piped = subprocess.run([sys.executable, "-c", SHOW], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=True)
    assert len(piped.stdout.splitlines()) == 3
    assert not set(b"\r\x1b\b") & set(piped.stdout)
    sent = shown_on_terminal(100, NO_COLOR="1")
    assert b"40/40" in sent
    assert b"run: something\r\n" in sent
    assert re.search(rb"\r[^\n]", sent)
    assert not re.search(rb"\x1b\[[\d;]*m", sent)


def test_without_a_terminal_auto_means_lines(capsys):
    report("auto")
    shown = capsys.readouterr()
    assert len(shown.out.splitlines()) == 4
    assert shown.err == ""


def test_nothing_is_said_when_switched_off_or_by_ranks_other_than_the_root(capsys):
    report("off")
    report("bar", speaks=False)
    report("lines", speaks=False)
    assert capsys.readouterr() == ("", "")
