"""The set of runs behind docs/results.md is trained, gone on with, and put into tables, on real ranks."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml

from tests.support import TINY

sys.path.insert(0, "tools")
import evidence
import evidence_tables


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two sweeps of tiny runs, the second of which has one that fails, and a document for their tables."""
    keys = dict(word.split("=", 1) for word in [*TINY, "train.steps=3", "parallel.reducer=mpi"])
    common = {key: yaml.safe_load(value) for key, value in keys.items()}
    grid = {"run.seed": [0, 1]}
    sound = {"wash": {}, "independent": {"method.name": "independent"}}
    failing = {"sound": {}, "failing": {"data.name": "cifar10", "data.path": "/nowhere", "data.num_images": 1}}
    for name, variants, of_grid in (("one", sound, grid), ("two", failing, {"run.seed": [0]})):
        content = {"config": "configs/smoke.yaml", "ranks": 2, "common": common, "variants": variants, "grid": of_grid}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    document = tmp_path / "results.md"
    document.write_text("<!-- evidence one columns=soup,sent -->\n<!-- end -->\n")
    monkeypatch.setattr(evidence, "SWEEPS", tmp_path)
    monkeypatch.setattr(evidence, "RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(evidence_tables, "NUMBERS", tmp_path)
    monkeypatch.setattr(evidence_tables, "DOCUMENTS", [document])
    return tmp_path


def test_the_set_is_trained_once_and_its_numbers_are_those_of_the_runs(
    small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evidence.main(["--at-once", "2"]) == evidence.SOME_MISSING
    assert "two: not all runs are there; " in capsys.readouterr().err
    rows = {row["run"]: row for row in evidence_tables.read_rows("one")}
    assert list(rows) == ["wash-seed_0", "wash-seed_1", "independent-seed_0", "independent-seed_1"]
    for name, row in rows.items():
        summary = json.loads((small / "runs/one" / name / "summary.json").read_text())
        assert float(row["soup"]) == pytest.approx(100 * summary["soup_accuracy"])
        assert float(row["sent"]) == summary["bytes_sent_per_member"]
    assert [row["run"] for row in evidence_tables.read_rows("two")] == ["sound-seed_0"]
    table = (small / "results.md").read_text().splitlines()
    assert [line.split(" | ")[:2] for line in table[3:5]] == [["| wash", "2"], ["| independent", "2"]]

    log = (small / "runs/one.log").read_text()
    assert evidence.main(["one"]) == evidence.DONE
    assert (small / "runs/one.log").read_text() == log
    assert evidence.main(["--list"]) == evidence.DONE
    assert "one                    4 of   4 runs have finished" in capsys.readouterr().out
