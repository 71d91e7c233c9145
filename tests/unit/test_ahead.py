"""Plans made in the background."""

from __future__ import annotations

import threading

import pytest

from wash_hpc.shuffle.ahead import Ahead


def test_the_next_step_is_made_in_the_background_and_only_once():
    made: list[tuple[int, str]] = []
    ready = threading.Event()

    def make(step: int) -> int:
        made.append((step, threading.current_thread().name))
        if step == 4:
            ready.set()
        return 10 * step

    ahead = Ahead(make)
    assert ahead.take(2) == 20
    ahead.start(4)
    assert ready.wait(timeout=10)
    assert ahead.take(4) == 40
    ahead.close()
    assert [step for step, _ in made] == [2, 4]
    assert all(name != threading.current_thread().name for _, name in made)


def test_a_step_that_was_not_foreseen_is_made_all_the_same():
    ahead = Ahead(lambda step: step)
    taken = []
    for step in (1, 2, 7, 3):
        taken.append(ahead.take(step))
        ahead.start(step + 1)
    assert taken == [1, 2, 7, 3]
    ahead.close()


def test_an_error_in_the_background_is_raised_where_the_result_is_taken():
    def fail(step: int) -> int:
        raise KeyError(step)

    ahead = Ahead(fail)
    with pytest.raises(KeyError):
        ahead.take(1)
    ahead.close()
