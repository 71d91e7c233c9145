"""Seconds of the start by part."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

from wash_hpc.startup import StartClock, describe_start, slowest


def test_the_first_part_begins_with_the_process_and_the_parts_fill_the_time():
    code = """
import json, time
time.sleep(0.3)  # before the clock is imported
from wash_hpc.startup import start_clock
start_clock.ended("imports")
time.sleep(0.2)
start_clock.ended("data")
start_clock.ended("imports")
print(json.dumps(start_clock.read()))
"""
    begin = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    outside = time.perf_counter() - begin
    seconds = json.loads(done.stdout)
    assert list(seconds) == ["imports", "data"]
    assert seconds["imports"] >= 0.29
    assert seconds["data"] >= 0.2
    assert sum(seconds.values()) <= outside + 0.05  # the process's age is known to some hundredths


def test_a_second_run_of_a_process_does_not_count_the_first():
    clock = StartClock()
    clock.ended("imports")
    assert clock.read()["imports"] > 0
    time.sleep(0.2)
    clock.ended("imports")
    clock.ended("data")
    assert clock.read() == {"data": pytest.approx(0, abs=0.1)}


def test_of_each_part_the_slowest_rank_is_said():
    found = slowest([{"imports": 3.0, "MPI": 2.0}, {"imports": 4.5, "MPI": 0.25}])
    assert found == {"total": 5.0, "imports": 4.5, "MPI": 2.0}
    assert describe_start(found) == "started in 5.0 s: imports 4.5, MPI 2.0 (each of the rank that took longest)"
