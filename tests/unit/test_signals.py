"""Signals are noticed at once, even while the main thread waits in C, and end the process if need be."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from wash_hpc.errors import STATUS_AGAIN
from wash_hpc.signals import Signals

# A mutex that is locked twice: the main thread waits in C for ever, as in a collective whose partner is gone.
WAITING_IN_C = """
import ctypes, sys
from wash_hpc.signals import Signals
mutex, lock = ctypes.create_string_buffer(64), ctypes.CDLL(None).pthread_mutex_lock
with Signals() as signals:
    signals.end_by_force_after(float(sys.argv[1]), "rank 7")
    print("ready", flush=True)
    lock(mutex)
    lock(mutex)
"""


def wait_for(signals: Signals) -> signal.Signals | None:
    deadline = time.monotonic() + 10
    while signals.received is None and time.monotonic() < deadline:
        time.sleep(0.01)
    return signals.received


def start_waiting(grace_seconds: str) -> subprocess.Popen[str]:
    started = subprocess.Popen(
        [sys.executable, "-c", WAITING_IN_C, grace_seconds], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert started.stdout is not None
    assert started.stdout.readline() == "ready\n"
    return started


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM])
def test_a_signal_is_noted_and_does_nothing_else(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with Signals() as signals:
        assert signals.received is None
        os.kill(os.getpid(), number)
        assert wait_for(signals) is number
    assert signal.getsignal(number) is before


def test_who_wants_the_end_for_good_counts_more_than_who_wants_another_start() -> None:
    with Signals() as signals:
        os.kill(os.getpid(), signal.SIGUSR2)
        wait_for(signals)
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGUSR2)
        deadline = time.monotonic() + 10
        while signals.received is not signal.SIGTERM and time.monotonic() < deadline:
            time.sleep(0.01)
        assert signals.received is signal.SIGTERM


def test_ctrl_c_that_was_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Signals() as signals:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGUSR1)
            assert wait_for(signals) is signal.SIGUSR1
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_what_a_job_script_ignores_for_itself_is_caught_all_the_same() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with Signals() as signals:
            os.kill(os.getpid(), signal.SIGTERM)
            assert wait_for(signals) is signal.SIGTERM
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


def test_outside_of_the_main_thread_nothing_is_caught() -> None:
    before = signal.getsignal(signal.SIGUSR2)
    seen = []

    def run() -> None:
        with Signals() as signals:
            signals.end_by_force_after(1, "rank 0")
            seen.append(signal.getsignal(signal.SIGUSR2))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [before]


def test_a_process_that_does_not_stop_is_ended_by_force_after_its_grace() -> None:
    process = start_waiting("0.5")
    process.send_signal(signal.SIGUSR2)
    _, said = process.communicate(timeout=20)
    assert process.returncode == STATUS_AGAIN
    assert said.startswith("wash_hpc: rank 7: SIGUSR2 came 0.5 s ago and the run has not stopped since: ends by force")
    assert said.count("\n") == 1


def test_without_a_grace_it_may_take_as_long_as_it_likes_but_not_after_a_second_signal() -> None:
    process = start_waiting("0")
    process.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        process.communicate(timeout=1.5)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGTERM
    assert said == "wash_hpc: rank 7: a second SIGTERM: ends at once\n"


def test_two_signals_of_one_request_count_once() -> None:
    process = start_waiting("2")
    process.send_signal(signal.SIGTERM)
    time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=20)
    assert "SIGTERM came 2 s ago" in said
    assert process.returncode == 128 + signal.SIGTERM


def test_the_end_for_good_is_timed_from_when_it_was_first_asked_for() -> None:
    process = start_waiting("4")
    process.send_signal(signal.SIGUSR2)
    time.sleep(1.5)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=20)
    assert "SIGTERM came 4 s ago" in said


LEAVING = """
import sys, time
from wash_hpc.signals import Signals
signals = Signals()
with signals:
    signals.end_by_force_after(0.5, "rank 7")
    signals.stay_until_exit()
time.sleep(1.5)
print("lives", flush=True)
signals.leave()
time.sleep(60)
"""


def test_what_follows_a_run_may_take_as_long_as_it_likes_and_its_way_out_may_not() -> None:
    done = subprocess.run([sys.executable, "-c", LEAVING], capture_output=True, text=True, timeout=30, check=False)
    assert done.stdout == "lives\n"
    assert done.stderr == (
        "wash_hpc: rank 7: the run has ended, and this process has not within 0.5 s: ends by force "
        "(checkpoint.grace_seconds)\n"
    )
