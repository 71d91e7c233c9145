"""`tools/landscape.py` on a finished run, as users run it, and on what is none."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import mpirun, train
from wash_hpc.storage.summary import read_summary


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("runs"), "run", 3, "evaluate.statistics_images=64")


def landscape(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The tool without a launcher."""
    command = [sys.executable, "tools/landscape.py", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


def test_the_whole_analysis_of_a_run_is_written_as_tables_and_figures(run):
    done = mpirun(2, sys.executable, "tools/landscape.py", str(run), "--points", "3", "--grid=3", "--eigenvalues=1")
    assert done.returncode == 0, done.stderr
    assert "highest barrier between members" in done.stdout
    found = json.loads((run / "landscape" / "landscape.json").read_text())
    summary = read_summary(run)
    assert (found["name"], found["method"], found["members"]) == ("run", "wash", [0, 1, 2])
    assert (found["num_parameters"], found["num_statistics_images"]) == (summary.num_parameters, 48)
    ends = [(line["start"], line["end"]) for line in found["lines"]]
    assert ends[:3] == [("member 0", "member 1"), ("member 0", "member 2"), ("member 1", "member 2")]
    assert ends[3:] == [(f"member {member}", "soup") for member in range(3)]
    ends_of_soup = {line["raw"]["accuracy"][-1] for line in found["lines"][3:]}
    assert ends_of_soup == {summary.soup_accuracy_raw}
    members = [line["raw"]["accuracy"][0] for line in found["lines"][3:]]
    assert max(members) == summary.best_member_accuracy
    assert len(found["plane"]["loss"]) == len(found["plane"]["loss"][0]) == 3
    assert len(found["curvature"]) == 6
    assert [spectrum["point"] for spectrum in found["eigenvalues"]] == ["member 0", "member 1", "member 2", "soup"]
    whole = math.sqrt(sum(layer["distance"] ** 2 for layer in found["layers"]))
    assert whole == pytest.approx(summary.consensus_distance, rel=1e-5)
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
    mistakes = [
        ([tmp_path], "not a run's folder"),
        ([copy], "the run has not finished"),
        ([run, "--members", "0,3"], "has no member 3; it has 0 to 2"),
        ([run, "--members", "1"], "needs two of them at least"),
        ([run, "--split", "held_out", "data.held_out=0"], "no held_out images"),
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
