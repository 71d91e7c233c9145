"""When a run is told that it waits for its images."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wash_hpc.clock import Stopwatch
from wash_hpc.config import DataConfig
from wash_hpc.rates import PARTS, Rates
from wash_hpc.storage.records import TrainRecord


def record(step: int, data: float, compute: float) -> TrainRecord:
    """Seconds a step of two members, the first of which waits twice as long."""
    waiting, rest = np.array([data * 4 / 3, data * 2 / 3]), np.array([compute / 2] * 2)
    zeros = np.zeros(2)
    counts = np.zeros(2, dtype=np.int64)
    return TrainRecord(
        step, 0.0, 0.1, zeros, zeros, zeros, waiting, rest, rest, zeros, counts, counts, counts, 0.0, zeros
    )


@pytest.fixture
def rates() -> Rates:
    return Rates(Stopwatch(torch.device("cpu")), DataConfig(workers=3))


def test_waiting_for_more_than_a_twentieth_of_the_time_is_said_once_with_its_share_and_what_helps(rates):
    told = [rates.warn(record(10 * number, 0.1, 0.9), 10) for number in range(1, 6)]
    assert told[:2] == [None, None]  # the first record is the start, and ten steps say little
    assert told[2] is not None
    assert told[2].startswith("step 30: 10% of the time is spent waiting for batches; try more data.workers (now 3;")
    assert told[3:] == [None, None]


def test_waiting_for_less_is_not_said(rates):
    assert [rates.warn(record(50 * number, 0.049, 0.951), 50) for number in range(1, 6)] == [None] * 5


def test_a_slow_start_is_not_counted(rates):
    told = [rates.warn(record(50, 1.0, 0.1), 50), rates.warn(record(100, 0.01, 0.9), 50)]
    assert told == [None, None]


def test_a_set_in_memory_has_advice_of_its_own():
    rates = Rates(Stopwatch(torch.device("cpu")), DataConfig(name="digits"))
    told = [rates.warn(record(50 * number, 0.5, 0.5), 50) for number in (1, 2)]
    assert told[1] == (
        "step 100: 50% of the time is spent waiting for batches; data.name=digits makes them in the training process "
        "itself: a larger model hides it"
    )


def test_seconds_are_by_part_and_add_up():
    clock = Stopwatch(torch.device("cpu"))
    rates = Rates(clock, DataConfig())
    read = []
    for _ in range(2):
        with clock("compute"), clock("reduce"):
            pass
        read.append(rates.read())
    assert all(list(seconds) == list(PARTS) for seconds in [*read, rates.seconds])
    assert read[0]["data"] == read[0]["exchange"] == 0
    assert all(rates.seconds[part] == pytest.approx(read[0][part] + read[1][part]) for part in PARTS)
