"""The stopwatch adds up by name and starts anew when it is read."""

from __future__ import annotations

import pytest
import torch

from wash_hpc import clock as clock_module
from wash_hpc.clock import Stopwatch

CPU = torch.device("cpu")


@pytest.fixture
def at(monkeypatch):
    """Sets what the host's clock will say, reading by reading."""

    def set_times(*times: float) -> None:
        readings = iter(times)
        monkeypatch.setattr("time.perf_counter", lambda: next(readings))

    return set_times


def test_seconds_add_up_by_name_until_they_are_read(at):
    at(0.0, 1.0, 10.0, 12.5, 20.0, 20.25)
    clock = Stopwatch(CPU)
    for name in ("data", "data", "compute"):
        with clock(name):
            pass
    assert clock.read() == {"data": 3.5, "compute": 0.25}
    assert clock.read() == {}


def test_a_block_within_another_is_not_counted_twice(at):
    at(0.0, 1.0, 3.0, 4.0, 4.5, 8.5)
    clock = Stopwatch(CPU)
    with clock("compute"):
        for _ in range(2):
            with clock("reduce"):
                pass
    assert clock.read() == {"compute": 1.0 + 1.0 + 4.0, "reduce": 2.0 + 0.5}


def test_a_block_that_fails_is_counted_too_and_the_outer_one_goes_on(at):
    at(0.0, 1.0, 3.0, 4.0)
    clock = Stopwatch(CPU)
    with clock("compute"), pytest.raises(KeyError), clock("data"):
        raise KeyError
    assert clock.read() == {"compute": 2.0, "data": 2.0}


def test_many_blocks_between_two_readings_take_no_memory(monkeypatch):
    monkeypatch.setattr(clock_module, "_MOST_SPANS", 10)
    clock = Stopwatch(CPU)
    for _ in range(95):
        with clock("data"):
            pass
    assert len(clock._spans) < 10
    assert 0 < clock.read()["data"] < 1
