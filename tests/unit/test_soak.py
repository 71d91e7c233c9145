"""What tools/soak.py makes of its samples."""

from __future__ import annotations

import sys

import numpy as np
import pytest

sys.path.insert(0, "tools")
import soak_watch


def watched(minutes: float, megabytes, files=20, threads=5) -> dict[str, str]:
    """The promises broken in a run of one sample a second; arguments are numbers, or functions of the minutes."""
    random = np.random.default_rng(0)
    watch = soak_watch.Watch(minutes, 0, 100, (), num_checks=1)
    for second in range(round(60 * minutes)):
        now = [of(second / 60) if callable(of) else of for of in (megabytes, files, threads)]
        noise = 0.2 * random.standard_normal()
        watch.samples.extend((second, 1e6 * (now[0] + noise), int(now[1]), int(now[2])))
    return soak_watch.judge(0, watch).broken


@pytest.mark.parametrize("minutes", [1, 3, 12, 30])
def test_what_stays_as_it_is_keeps_every_promise(minutes):
    assert watched(minutes, 800) == {}


@pytest.mark.parametrize(
    ("minutes", "grows", "is_broken"),
    [(30, 0.08, False), (30, 0.12, True), (12, 0.08, False), (12, 0.12, True), (1, 1.5, False), (1, 3.0, True)],
)
def test_memory_may_grow_by_a_megabyte_in_ten_minutes_and_by_one_in_all_where_less_was_measured(
    minutes, grows, is_broken
):
    assert ("memory is flat" in watched(minutes, lambda now: 800 + grows * now)) == is_broken


def test_a_warm_up_is_not_judged_and_a_spike_is_no_leak():
    assert watched(30, lambda now: 800 + 50 * min(now, 1.9)) == {}
    assert watched(30, lambda now: 950 if 28 < now < 29 else 800) == {}


def test_one_more_file_or_thread_that_stays_is_said_and_one_that_comes_and_goes_is_not():
    assert watched(30, 800, files=lambda now: 20 + (now > 15)) == {"open files stay as many": "20, then 21"}
    assert watched(30, 800, threads=lambda now: 5 + now // 10) == {"threads stay as many": "5, then 7"}
    assert watched(30, 800, files=lambda now: 20 + (round(60 * now) % 7 == 0)) == {}
