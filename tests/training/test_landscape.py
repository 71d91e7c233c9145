"""`tools/landscape.py` on a finished run, as users run it, and on what is none."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import mpirun, train
from wash_hpc.report.basin_condition import main
from wash_hpc.storage.metrics import read_metrics
from wash_hpc.storage.summary import read_summary


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    keys = [
        "evaluate.statistics_images=64",
        "checkpoint.every_steps=4",
        "checkpoint.keep=2",
        "log.consensus_every_steps=4",
    ]
    return train(tmp_path_factory.mktemp("runs"), "run", 3, *keys)


def landscape(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The tool without a launcher."""
    command = [sys.executable, "tools/landscape.py", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


def whole_distance(found: dict[str, Any]) -> float:
    return math.sqrt(sum(layer["distance"] ** 2 for layer in found["layers"]))


def recomputed_end(line: dict[str, Any], place: int) -> dict[str, float]:
    return {key: line["recomputed"][key][place] for key in ("loss", "accuracy")}


def test_the_whole_analysis_of_a_run_is_written_as_tables_and_figures(run):
    done = mpirun(2, sys.executable, "tools/landscape.py", str(run), "--points", "3", "--grid=3", "--eigenvalues=1")
    assert done.returncode == 0, done.stderr
    assert "highest barrier between members" in done.stdout
    found = json.loads((run / "landscape" / "landscape.json").read_text())
    summary = read_summary(run)
    assert (found["name"], found["method"], found["members"]) == ("run", "wash", [0, 1, 2])
    assert (found["num_parameters"], found["num_statistics_images"]) == (summary.num_parameters, 48)
    assert (found["seed"], found["step"]) == (0, 8)
    ends = [(line["start"], line["end"]) for line in found["lines"]]
    assert ends[:3] == [("member 0", "member 1"), ("member 0", "member 2"), ("member 1", "member 2")]
    assert ends[3:] == [(f"member {member}", "soup") for member in range(3)]
    ends_of_soup = {line["raw"]["accuracy"][-1] for line in found["lines"][3:]}
    assert ends_of_soup == {summary.soup_accuracy_raw}
    members = [line["raw"]["accuracy"][0] for line in found["lines"][3:]]
    assert max(members) == summary.best_member_accuracy
    # With statistics recomputed, as along the lines.
    assert found["averaging"]["soup"] == recomputed_end(found["lines"][3], -1)
    assert found["averaging"]["members"] == [recomputed_end(line, 0) for line in found["lines"][3:]]
    assert found["averaging"]["ensemble"]["loss"] < max(one["loss"] for one in found["averaging"]["members"])
    assert len(found["plane"]["loss"]) == len(found["plane"]["loss"][0]) == 3
    assert len(found["curvature"]) == 6
    assert [spectrum["point"] for spectrum in found["eigenvalues"]] == ["member 0", "member 1", "member 2", "soup"]
    assert whole_distance(found) == pytest.approx(summary.consensus_distance, rel=1e-5)
    figures = {file.name for file in (run / "landscape").iterdir()} - {"landscape.json"}
    assert figures == {
        f"{part}.{kind}"
        for part in ("lines", "plane", "curvature", "eigenvalues", "distance")
        for kind in ("png", "svg")
    }


def test_a_part_of_it_for_two_members_on_held_out_images(run):
    done = landscape(
        run, "--parts", "lines", "--members", "2,0", "--points=2", "--split=held_out", "evaluate.batch_size=8"
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((run / "landscape" / "landscape.json").read_text())
    assert (found["members"], found["split"], found["num_images"]) == ([0, 2], "held_out", 16)
    assert [len(found["lines"]), found["plane"], found["layers"]] == [3, None, None]
    assert {file.name for file in (run / "landscape").iterdir()} == {"landscape.json", "lines.png", "lines.svg"}


# All looks in one start of Python, which takes longer than they do.
LOOKS = """
import json, sys
from wash_hpc.landscape import main
for arguments in json.loads(sys.argv[1]):
    assert main(arguments) == 0
"""


def test_members_are_looked_at_as_they_were_in_a_checkpoint(run, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("landscape"))
    steps: tuple[list[str], ...] = ([], ["--step", "4"], ["--step", "8"])
    few = ["--parts=averaging,lines,curvature,distance", "--points=2", "--no-soup-lines", "parallel.reducer=mpi"]
    looks = [[str(copy), *few, *step] for step in steps]
    done = mpirun(2, sys.executable, "-c", LOOKS, json.dumps(looks))
    assert done.returncode == 0, done.stderr
    folders = [copy / "landscape" / name for name in ("", "step-00000004", "step-00000008")]
    final, early, late = (json.loads((folder / "landscape.json").read_text()) for folder in folders)
    assert (early["step"], late["step"]) == (4, 8)
    pairs = [("member 0", "member 1"), ("member 0", "member 2"), ("member 1", "member 2")]
    assert [(line["start"], line["end"]) for line in early["lines"]] == pairs
    assert [(line["start"], line["end"]) for line in early["curvature"]] == pairs
    assert main([str(copy), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["step"] for row in rows] == [4, 8]
    assert rows[0]["distance"] == pytest.approx(whole_distance(early))
    assert late == final  # the last checkpoint is of the weights with which the run has ended
    assert all(
        one["distance"] != other["distance"] for one, other in zip(early["layers"], final["layers"], strict=True)
    )
    assert early["averaging"] != final["averaging"]
    distances = read_metrics(copy).consensus_distance  # as training measured them after steps 4 and 8
    assert [whole_distance(early), whole_distance(late)] == pytest.approx(distances.tolist(), rel=1e-5)


# All of them in one start of Python, which takes longer than they do.
MISTAKES = """
import json, sys
from wash_hpc.landscape import main
for arguments in json.loads(sys.argv[1]):
    try:
        main(arguments)
    except SystemExit as ended:
        assert ended.code == 2
    else:
        raise AssertionError(arguments)
"""


def test_what_cannot_be_analysed_is_said_in_one_sentence_by_all_ranks_together(run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    (copy / "summary.json").unlink()
    damaged = tmp_path / "damaged"
    shutil.copytree(run, damaged)
    with (damaged / "checkpoints/step-00000004/member-0001.safetensors").open("ab") as file:
        file.write(b"0")
    mistakes = [
        ([tmp_path], "not a run's folder"),
        ([copy], "the run has not finished"),
        ([run, "--members", "0,3"], "has no member 3; it has 0 to 2"),
        ([run, "--members", "1"], "needs two of them at least"),
        ([run, "--split", "held_out", "data.held_out=0"], "no held_out images"),
        ([run, "--step", "7"], "there is no checkpoint of step 7; there are 4, 8 (checkpoint.every_steps"),
        ([damaged, "--step", "4"], "its checksum is not that of the manifest"),
    ]
    arguments = [[*map(str, words), "parallel.reducer=mpi"] for words, _ in mistakes]
    done = mpirun(2, sys.executable, "-c", MISTAKES, json.dumps(arguments))
    assert done.returncode == 0, done.stderr
    said = done.stderr.splitlines()
    assert len(said) == len(mistakes)
    for line, (_, sentence) in zip(said, mistakes, strict=True):
        assert line.startswith("wash_hpc: error: ")
        assert sentence in line


def test_the_tool_ends_with_status_2_where_there_is_no_run(tmp_path):
    done = landscape(tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"wash_hpc: error: {tmp_path}: not a run's folder: it holds no config.yaml\n"


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [("--parts=line", "there is no part line"), ("--members=a", "expected numbers"), ("--points=1", "at least 2")],
)
def test_a_wrong_option_is_refused_before_mpi_starts(argument, sentence):
    from wash_hpc.landscape import main

    with pytest.raises(SystemExit) as ended:
        main(["RUN", argument])
    assert ended.value.code == 2
