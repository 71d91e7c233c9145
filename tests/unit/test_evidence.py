"""The tables of what docs/results.md says of the method: they are what the numbers of the runs make them."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, "tools")
import evidence
import evidence_tables
import link_tables

from wash_hpc.errors import WashError
from wash_hpc.sweep.grid import read_sweep

NUMBERS = """\
run,metric,member,ensemble,soup,soup_raw,greedy,sent,samples,seconds
wash-p_0.1-steps_50-seed_0,accuracy,80,84,85,84,,1000,51200,58
wash-p_0.1-steps_50-seed_1,accuracy,82,86,86,85,,3000,51200,62
wash-p_0.1-steps_200-seed_0,accuracy,90,91,92,91,90,4e6,51200,300
papa-p_0-steps_50-seed_0,accuracy,81,83,50,10,80,,,
"""


@pytest.fixture
def numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(evidence_tables, "NUMBERS", tmp_path)
    (tmp_path / "made_up.csv").write_text(NUMBERS)
    return tmp_path


def lines(what: str) -> list[str]:
    text = f"before\n<!-- evidence {what} -->\nold\n<!-- end -->\nafter\n"
    before, mark, *table, end, after = evidence_tables.with_tables(text).splitlines()
    assert (before, mark, end, after) == ("before", f"<!-- evidence {what} -->", "<!-- end -->", "after")
    return table


def test_the_documents_hold_the_tables_that_their_numbers_make() -> None:
    marks = 0
    for document in evidence_tables.DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        made = link_tables.with_link_tables(evidence_tables.with_tables(text))
        assert made == text, "run: python tools/evidence.py --tables"
        marks += text.count("<!-- evidence ")
    assert marks > 0


def test_every_file_of_numbers_belongs_to_a_sweep_and_has_only_runs_of_it() -> None:
    for file in evidence_tables.NUMBERS.glob("*.csv"):
        sweep = read_sweep(evidence.SWEEPS / f"{file.stem}.yaml")
        rows = evidence_tables.read_rows(file.stem)
        assert {row["run"] for row in rows} <= {run.name for run in sweep.runs}
        assert len(rows) == len({row["run"] for row in rows}) > 0


@pytest.mark.usefixtures("numbers")
def test_a_row_is_mean_and_deviation_over_seeds() -> None:
    assert lines("made_up columns=member,gap,sent,samples,seconds") == [
        "| | seeds | mean member | soup - ensemble | sent per member | samples a member | time |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        "| wash-p_0.1-steps_50 | 2 | 81.00 ± 1.41 | +0.50 ± 0.71 | 2 kB | 51,200 | 60 s |",
        "| wash-p_0.1-steps_200 | 1 | 90.00 | +1.00 | 4 MB | 51,200 | 300 s |",
        "| papa-p_0-steps_50 | 1 | 81.00 | -33.00 | - | - | - |",
    ]


@pytest.mark.usefixtures("numbers")
def test_rows_can_be_chosen_and_a_key_of_their_names_be_put_across() -> None:
    assert [line.split(" | ")[0] for line in lines("made_up only=papa*,*_200")[2:]] == [
        "| wash-p_0.1-steps_200",
        "| papa-p_0-steps_50",
    ]
    assert lines("made_up columns=soup across=steps") == [
        "| | steps = 50 | steps = 200 |",
        "| --- | --- | --- |",
        "| wash-p = 0.1 | 85.50 ± 0.71 | 92.00 |",
        "| papa-p = 0 | 50.00 | - |",
    ]


@pytest.mark.usefixtures("numbers")
def test_what_has_not_run_is_said_and_what_there_is_not_is_refused() -> None:
    assert lines("nothing") == ["*No run of nothing has finished yet.*"]
    with pytest.raises(WashError, match="there is no number speed"):
        lines("made_up columns=speed")
    with pytest.raises(WashError, match="has no lr_ in its name"):
        lines("made_up across=lr")


def test_an_unknown_sweep_is_refused_with_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert evidence.main(["main_4", "--list"]) == evidence.REFUSED
    assert "main_4: there is no such sweep in configs/evidence; there are ablation, " in capsys.readouterr().err


def test_numbers_of_runs_that_are_not_here_are_kept(numbers: Path, tmp_path: Path) -> None:
    shutil.copy("configs/sweeps/digits_p.yaml", tmp_path / "made_up.yaml")
    sweep = read_sweep(tmp_path / "made_up.yaml")
    kept = sweep.runs[1].name
    (numbers / "made_up.csv").write_text(f"run,metric,soup\n{kept},accuracy,50\nno_longer,accuracy,1\n")
    evidence_tables.write_rows("made_up", sweep, [])
    assert [(row["run"], row["soup"]) for row in evidence_tables.read_rows("made_up")] == [(kept, "50")]
