"""summary.json: strict, complete or absent, and a sentence for every way in which it can be wrong."""

from __future__ import annotations

import json
import os
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wash_hpc.errors import RunFolderError
from wash_hpc.storage.files import write_atomically
from wash_hpc.storage.summary import Summary, read_summary, write_summary

SUMMARY = Summary(
    name="demo-wash",
    method="wash",
    num_members=4,
    num_replicas=1,
    seed=0,
    steps=500,
    epochs=12.5,
    samples_seen=16000,
    num_parameters=78042,
    mean_member_accuracy=0.971,
    best_member_accuracy=0.975,
    ensemble_accuracy=0.977,
    soup_accuracy=0.987,
    soup_accuracy_raw=0.986,
    greedy_soup_accuracy=None,
    consensus_distance=3.25,
    bytes_sent_per_member=12_345_678,
    wall_seconds=41.5,
    images_per_second_per_member=390.25,
    metric="accuracy",
    disagreement=0.031,
    scores={"soup": {"accuracy": 0.987, "top5": 1.0, "nll": 0.0625, "calibration_error": None}},
    skipped_files=2,
    member_accuracies=[0.971, None],
    member_nlls=[0.1, None],
    greedy_soup_members=[2, 0],
)
KEYS = [
    "name",
    "method",
    "num_members",
    "num_replicas",
    "seed",
    "steps",
    "epochs",
    "samples_seen",
    "num_parameters",
    "mean_member_accuracy",
    "best_member_accuracy",
    "ensemble_accuracy",
    "soup_accuracy",
    "soup_accuracy_raw",
    "greedy_soup_accuracy",
    "consensus_distance",
    "bytes_sent_per_member",
    "wall_seconds",
    "images_per_second_per_member",
    "left_out_members",
    "metric",
    "disagreement",
    "scores",
    "seconds",
    "skipped_files",
    "member_accuracies",
    "member_nlls",
    "greedy_soup_members",
]


def make_run(folder: Path, summary: Summary = SUMMARY) -> Path:
    """A finished run's folder, without metrics."""
    folder.mkdir()
    (folder / "config.yaml").write_text(f"run:\n  name: {summary.name}\n")
    write_summary(folder, summary)
    return folder


def write_object(run: Path, change: dict[str, Any], drop: tuple[str, ...] = ()) -> None:
    """Replace the run's summary.json by one with other values."""
    content = {**json.loads((run / "summary.json").read_text()), **change}
    (run / "summary.json").write_text(json.dumps({key: value for key, value in content.items() if key not in drop}))


def test_a_summary_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert read_summary(make_run(tmp_path / "run")) == SUMMARY


def test_the_keys_are_the_promised_ones_in_their_order(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    assert list(json.loads((run / "summary.json").read_text())) == KEYS
    assert [field.name for field in fields(Summary)] == KEYS


def test_the_file_is_strict_json_with_null_for_what_is_not_a_number(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", replace(SUMMARY, soup_accuracy=float("nan"), consensus_distance=float("inf")))
    text = (run / "summary.json").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    assert (read_summary(run).soup_accuracy, read_summary(run).consensus_distance) == (None, None)


def test_numbers_of_numpy_are_written_as_numbers(tmp_path: Path) -> None:
    numpy_numbers: dict[str, Any] = {"steps": np.int64(500), "ensemble_accuracy": np.float32(0.5)}
    read = read_summary(make_run(tmp_path / "run", replace(SUMMARY, **numpy_numbers)))
    assert (read.steps, read.ensemble_accuracy) == (500, 0.5)


def test_keys_of_later_versions_are_ignored(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    write_object(run, {"nll": 0.1})
    assert read_summary(run) == SUMMARY


def test_summaries_of_early_versions_are_read(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    write_object(run, {}, drop=tuple(KEYS[KEYS.index("left_out_members") :]))
    early = read_summary(run)
    later = {"disagreement": None, "scores": {}, "skipped_files": 0, "member_accuracies": [], "member_nlls": []}
    assert early == replace(SUMMARY, **later, greedy_soup_members=[])
    assert (early.score("soup", "nll"), SUMMARY.score("soup", "nll")) == (None, 0.0625)


def test_members_that_were_left_out_have_null_for_their_accuracy(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", replace(SUMMARY, member_accuracies=[np.float64(0.5), float("nan")]))
    assert read_summary(run).member_accuracies == [0.5, None]


@pytest.mark.parametrize("wrong", [["high"], [True], [[0.5]], 0.5, [1e300]])
def test_accuracies_of_members_of_the_wrong_kind_are_named(tmp_path: Path, wrong: object) -> None:
    run = make_run(tmp_path / "run")
    write_object(run, {"member_accuracies": wrong})
    with pytest.raises(RunFolderError, match=r"member_accuracies=.*: expected a list of numbers or nulls$"):
        read_summary(run)


def test_scores_that_are_not_finite_are_null(tmp_path: Path) -> None:
    scores: dict[str, Any] = {"ema": {"accuracy": np.float64(0.5), "nll": float("inf")}}
    read = read_summary(make_run(tmp_path / "run", replace(SUMMARY, disagreement=float("nan"), scores=scores)))
    assert (read.disagreement, read.scores) == (None, {"ema": {"accuracy": 0.5, "nll": None}})


@pytest.mark.parametrize("soup", [0.5, {"nll": "low"}, {"nll": True}])
def test_scores_of_the_wrong_kind_are_named(tmp_path: Path, soup: object) -> None:
    run = make_run(tmp_path / "run")
    write_object(run, {"scores": {"soup": soup}})
    with pytest.raises(RunFolderError, match=r"scores\.soup=.*: expected an object of numbers or nulls$"):
        read_summary(run)


def test_no_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="nowhere: there is no such folder"):
        read_summary(tmp_path / "nowhere")


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="file: not a run's folder: it is a file"):
        read_summary(tmp_path / "file")


def test_a_folder_that_is_no_run_is_said(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"not a run's folder: it holds no config\.yaml"):
        read_summary(tmp_path)


def test_a_run_that_has_not_finished_is_said(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("run: {}\n")
    with pytest.raises(RunFolderError, match=r"the run has not finished: it holds no summary\.json"):
        read_summary(tmp_path)


@pytest.mark.parametrize("text", ["", '{"name": "x"', '{"name": NaN}', "\x00\xff"])
def test_broken_json_is_named(tmp_path: Path, text: str) -> None:
    run = make_run(tmp_path / "run")
    (run / "summary.json").write_text(text, encoding="latin-1")
    with pytest.raises(RunFolderError, match=r"run/summary\.json: not readable as JSON"):
        read_summary(run)


def test_a_list_is_no_summary(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "summary.json").write_text("[]")
    with pytest.raises(RunFolderError, match=r"summary\.json: expected one JSON object"):
        read_summary(run)


def test_missing_keys_are_named(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    write_object(run, {}, drop=("soup_accuracy", "wall_seconds"))
    with pytest.raises(RunFolderError, match=r"summary\.json: lacks soup_accuracy, wall_seconds$"):
        read_summary(run)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("name", 3, "text"),
        ("steps", 1.5, "a whole number"),
        ("steps", True, "a whole number"),
        ("wall_seconds", None, "a number"),
        ("soup_accuracy", "high", "a number or null"),
    ],
)
def test_a_value_of_the_wrong_kind_is_named(tmp_path: Path, key: str, value: object, expected: str) -> None:
    run = make_run(tmp_path / "run")
    write_object(run, {key: value})
    with pytest.raises(RunFolderError, match=f"{key}={json.dumps(value)}: expected {expected}$"):
        read_summary(run)


@pytest.mark.parametrize("content", ["text, accents: é", b"\x00bytes\xff"])
def test_an_atomic_file_holds_what_was_given(tmp_path: Path, content: str | bytes) -> None:
    write_atomically(tmp_path / "file", "old")
    write_atomically(tmp_path / "file", content)
    assert (tmp_path / "file").read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    write_atomically(tmp_path / "file", "old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunFolderError, match="file: cannot be written: No space left on device"):
        write_atomically(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_file_in_no_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="nowhere/file: cannot be written: No such file"):
        write_atomically(tmp_path / "nowhere" / "file", "text")
