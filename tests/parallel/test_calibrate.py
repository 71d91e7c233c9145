"""Calibration: real exchanges between real ranks, by the command line."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from tests.support import TINY, mpirun
from wash_hpc.parallel.calibrate import measure_exchanges
from wash_hpc.shuffle.draw import Drawer
from wash_hpc.shuffle.topology import Topology

PLAN = ["wash-hpc", "plan", "configs/digits_wash.yaml", *TINY]


def test_calibration_on_two_ranks_gives_positive_constants_that_can_be_given_again():
    done = mpirun(2, *PLAN, "--calibrate")
    assert done.returncode == 0, done.stderr
    options = next(line for line in done.stdout.splitlines() if line.startswith("link")).split()[1:]
    given = dict(zip(options[::2], map(float, options[1::2]), strict=True))
    assert {"--latency-us", "--bandwidth-gb", "--overhead-us"} <= given.keys()
    assert min(given.values()) > 0
    assert "members         2" in done.stdout
    again = subprocess.run([*PLAN, "--members", "2", "--json", *options], capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["link"]["latency"] == pytest.approx(given["--latency-us"] * 1e-6)


def test_calibration_on_more_ranks_measures_pairs_too_and_predicts_for_any_number():
    done = mpirun(3, *PLAN, "--calibrate", "--members", "1000", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert {timing["messages"] for timing in said["calibration"]["timings"]} == {1, 2}
    assert said["calibration"]["link"] == said["link"]
    assert said["messages_per_exchange"] == 999


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_calibration_says_what_it_lacks(num_ranks):
    done = mpirun(num_ranks, *PLAN, "--calibrate", *([] if num_ranks == 1 else ["method.p=0"]))
    assert done.returncode == 2
    expected = "start it under mpirun" if num_ranks == 1 else "nothing is ever exchanged"
    assert done.stderr.count("wash_hpc: error:") == 1
    assert expected in done.stderr


def test_the_scaling_benchmark_predicts_what_it_measures():
    arguments = [*TINY, "--config", "configs/digits_wash.yaml", "--ranks", "2", "--p", "0.1,0.5", "--json"]
    command = [sys.executable, "tools/bench_scaling.py", *arguments, "--calibrate-on", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert [(row["num_ranks"], row["p"], row["messages"]) for row in rows] == [(2, 0.1, 1), (2, 0.5, 1)]
    assert rows[1]["num_bytes"] - 4 == pytest.approx(5 * (rows[0]["num_bytes"] - 4))
    assert min(row[name] for row in rows for name in ("predicted_seconds", "measured_seconds")) > 0


@pytest.mark.mpi(ranks=[2, 3], timeout=120)
def test_a_timing_counts_messages_and_bytes_of_the_exchanges_it_times(mpi_ranks, comm):
    everyone = measure_exchanges(comm, Drawer(0, comm.size, [1000], np.array([1.0]), "cyclic"), num_rows=2, rounds=2)
    assert everyone.messages == mpi_ranks - 1
    assert everyone.num_bytes == (2 * 1000 + mpi_ranks - 1) * 4
    assert everyone.seconds > 0
    assert comm.allreduce(everyone.seconds) == pytest.approx(comm.size * everyone.seconds)
    pairs = measure_exchanges(comm, Drawer(0, Topology(comm.size, "ring"), [1000], np.array([1.0]), "cyclic"), rounds=2)
    assert pairs.messages == 1
