"""The tables of what a slow link costs, from the numbers of runs and of steps."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, "tools")
import evidence_tables
import link_tables

from wash_hpc.errors import WashError

SECONDS = {"wash": (0.01, 0.02), "papa": (0.01, 1.054), "wash_overlap": (0.01, 0.015)}
MEASURED = {
    "links": {
        "not slowed": {"rate": None, "found": {"rate": 2e10}},
        "10 Gbit/s": {"rate": 1e10, "found": {"rate": 7e9}},
    },
    "rows": [
        {"method": method, "link": link, "seconds": its, "waiting_seconds": its / 4}
        for method, seconds in SECONDS.items()
        for link, its in zip(("not slowed", "10 Gbit/s"), seconds, strict=True)
    ],
}
RUNS = """\
run,soup
wash-steps_100-seed_0,79
wash-steps_100-seed_1,81
wash-steps_1000-seed_0,90
papa-steps_100-seed_0,30
papa-steps_1000-seed_0,40
"""


@pytest.fixture
def numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(evidence_tables, "NUMBERS", tmp_path)
    (tmp_path / "links.json").write_text(json.dumps(MEASURED))
    (tmp_path / "links.csv").write_text(RUNS)
    return tmp_path


def lines(what: str) -> list[str]:
    text = f"before\n<!-- links {what} -->\nold\n<!-- end -->\nafter\n"
    before, mark, *table, end, after = link_tables.with_link_tables(text).splitlines()
    assert (before, mark, end, after) == ("before", f"<!-- links {what} -->", "<!-- end -->", "after")
    return table


@pytest.mark.usefixtures("numbers")
def test_a_step_has_its_milliseconds_and_those_waited_and_a_link_that_was_slower_is_said_to_be() -> None:
    assert lines("step") == [
        "| | not slowed | at most 10 Gbit/s |",
        "| --- | --- | --- |",
        "| wash | 10 (2.5) | 20 (5) |",
        "| papa | 10 (2.5) | 1,054 (264) |",
        "| wash_overlap | 10 (2.5) | 15 (3.75) |",
    ]


@pytest.mark.usefixtures("numbers")
def test_time_to_an_accuracy_is_steps_to_it_times_a_step_of_methods_that_were_trained() -> None:
    assert lines("time_to=80")[2:] == ["| wash | 1 | 2 |", "| papa | - | - |"]
    assert lines("time_to=85")[2] == "| wash | 3.16 | 6.32 |"  # half way from 80 to 90: sqrt(100 x 1000) steps


def test_steps_to_an_accuracy_grow_with_its_logarithm_and_are_none_where_no_run_has_it() -> None:
    soups = {100: 70.0, 1000: 80.0, 10000: 80.0}
    assert link_tables.steps_to(60, soups) == 100
    assert link_tables.steps_to(75, soups) == pytest.approx(316.2, abs=0.1)
    assert link_tables.steps_to(80, soups) == pytest.approx(1000)
    assert link_tables.steps_to(80.1, soups) is None


def test_what_was_not_measured_is_said_and_what_there_is_not_is_refused(numbers: Path) -> None:
    with pytest.raises(WashError, match="links speed: expected step or time_to=ACCURACY"):
        lines("speed")
    (numbers / "links.json").unlink()
    assert lines("step") == ["*Not measured yet.*"]
