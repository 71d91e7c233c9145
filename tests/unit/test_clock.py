"""The stopwatch adds up by name and starts anew when it is read."""

from __future__ import annotations

import pytest

from wash_hpc.clock import Stopwatch


def test_seconds_add_up_by_name_until_they_are_read(monkeypatch):
    times = iter([0.0, 1.0, 10.0, 12.5, 20.0, 20.25])
    monkeypatch.setattr("time.perf_counter", lambda: next(times))
    clock = Stopwatch()
    for name in ("data", "data", "compute"):
        with clock(name):
            pass
    assert clock.read() == {"data": 3.5, "compute": 0.25}
    assert clock.read() == {}


def test_a_block_that_fails_is_counted_too():
    clock = Stopwatch()
    with pytest.raises(KeyError), clock("data"):
        raise KeyError
    assert list(clock.read()) == ["data"]
