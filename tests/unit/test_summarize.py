"""tools/summarize.py as a user runs it: what is on stdout, on stderr, in the files, and the exit status."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import re
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from wash_hpc.report.figures import figures
from wash_hpc.report.summarize import main
from wash_hpc.storage.metrics import EvaluationRecord, MetricsWriter, TrainRecord
from wash_hpc.storage.run_lock import Holder
from wash_hpc.storage.summary import Summary, write_summary

TOOL = Path(__file__).parents[2] / "tools" / "summarize.py"
SUMMARY = Summary(
    "demo", "wash", 2, 1, 0, 30, 1.5, 900, 100, 0.9712, 0.98, 0.977, 0.987, 0.986, None, 3.2, 123_456_789, 183.2, 90.0
)


def start_run(folder: Path, name: str) -> MetricsWriter:
    """A run that has written one record and goes on."""
    folder.mkdir()
    (folder / "config.yaml").write_text(f"run:\n  name: {name}\n")
    writer = MetricsWriter(folder, 2, ["fc"], {"num_steps": 4})
    append(writer, 1)
    return writer


def append(writer: MetricsWriter, step: int) -> None:
    row, sent = np.array([0.5, 0.7]), np.zeros(2, np.int64)
    rows, counts = [row] * 7, [sent] * 3
    writer.append_train(TrainRecord(step, 0.1, 0.1, *rows, *counts, 1.0, np.zeros(1)))
    writer.append_evaluation(EvaluationRecord(step, row, 0.8, 0.7, row, 0.6, 0.5))


def finish_run(folder: Path, name: str) -> None:
    write_summary(folder, replace(SUMMARY, name=name))


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Two finished runs."""
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        start_run(folder, folder.name).close()
        finish_run(folder, folder.name)
    return folders


def summarize(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The command line in this process, as importing takes seconds; two tests start the tool itself."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as exit_:
            status = int(exit_.code or 0)
    return subprocess.CompletedProcess([], status, out.getvalue(), err.getvalue())


def run_tool(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(TOOL), *map(str, arguments)]
    environment = {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=environment)


def test_figures_are_drawn_into_a_folder_that_is_made(runs: list[Path], tmp_path: Path) -> None:
    assert main([*map(str, runs), "--figures", str(tmp_path / "new/figures")]) == 0
    assert {"loss.png", "loss.svg", "bytes.svg"} <= {file.name for file in (tmp_path / "new/figures").iterdir()}


def test_unreadable_landscape_data_are_named_once_and_figures_are_computed_once(
    runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (runs[0] / "landscape").mkdir()
    (runs[0] / "landscape/landscape.json").write_text("{")
    computed = []
    monkeypatch.setattr("wash_hpc.report.summarize.figures", lambda runs: computed.append(runs) or figures(runs))
    monkeypatch.setattr("wash_hpc.report.page.figures", lambda runs: computed.append(runs) or figures(runs))
    result = summarize(*runs, "--json", "--figures", tmp_path / "figures", "--html", tmp_path / "page.html")
    assert (result.returncode, len(computed)) == (1, 1)
    assert [line.split(":")[1] for line in result.stderr.splitlines()] == [f" {runs[0]}/landscape/landscape.json"]


def test_a_table_of_all_runs_is_the_default(runs: list[Path]) -> None:
    result = run_tool(*runs)
    assert (result.returncode, result.stderr) == (0, "")
    assert [line.split()[0] for line in result.stdout.splitlines()[:3]] == ["run", "one", "two"]


def test_json_prints_the_very_objects_and_nothing_else(runs: list[Path]) -> None:
    result = summarize(*runs, "--json")
    assert (result.returncode, result.stderr) == (0, "")
    assert json.loads(result.stdout) == [json.loads((run / "summary.json").read_text()) for run in runs]


def test_json_of_one_run_is_a_list_too(runs: list[Path]) -> None:
    assert [run["name"] for run in json.loads(summarize(runs[1], "--json").stdout)] == ["two"]


def test_html_and_csv_are_written_besides(runs: list[Path], tmp_path: Path) -> None:
    page, table = tmp_path / "report.html", tmp_path / "report.csv"
    result = summarize(*runs, "--json", "--html", page, "--csv", table)
    assert (result.returncode, result.stderr) == (0, "")
    assert len(json.loads(result.stdout)) == 2
    assert "<h1>WASH report: 2 runs</h1>" in page.read_text()
    with table.open() as file:
        assert [row["name"] for row in csv.DictReader(file)] == ["one", "two"]


def test_a_folder_that_holds_runs_stands_for_them_and_files_beside_folders_are_passed_over(
    runs: list[Path], tmp_path: Path
) -> None:
    sweep = tmp_path / "sweep"
    sweep.mkdir()
    runs[1].rename(sweep / "two")
    (tmp_path / "report.html").write_text("")
    for given in ([tmp_path], [*tmp_path.iterdir()], [runs[0], sweep, sweep / "two"]):
        result = summarize(*given, "--json")
        assert (result.returncode, result.stderr) == (0, ""), given
        assert sorted(run["name"] for run in json.loads(result.stdout)) == ["one", "two"], given
    result = summarize(tmp_path / "report.html")
    assert (result.returncode, result.stdout) == (2, "")
    assert "report.html: not a run's folder: it is a file" in result.stderr


def test_a_run_that_is_named_in_several_ways_counts_once(runs: list[Path], tmp_path: Path) -> None:
    (tmp_path / "again").symlink_to(runs[0])
    result = summarize(runs[0], f"{tmp_path}/two/../one", tmp_path / "again", runs[1], "--json")
    assert names(result) == ["one", "two"]


def test_unfinished_and_broken_runs_are_named_and_the_rest_is_shown(runs: list[Path], tmp_path: Path) -> None:
    start_run(tmp_path / "going", "going").close()
    (runs[0] / "summary.json").write_text("{")
    result = summarize(*runs, tmp_path / "going", tmp_path / "nowhere", "--json")
    assert result.returncode == 1
    assert [run["name"] for run in json.loads(result.stdout)] == ["two"]
    complaints = result.stderr.splitlines()
    assert len(complaints) == 3
    assert "one/summary.json: not readable as JSON" in complaints[0]
    assert "going: the run has not finished: it has stopped after step 1 of 4" in complaints[1]
    assert "nowhere: there is no such folder" in complaints[2]


def test_nothing_to_show_is_exit_status_2(tmp_path: Path) -> None:
    result = summarize(tmp_path / "nowhere", "--json")
    assert (result.returncode, result.stdout) == (2, "")
    assert "nowhere: there is no such folder" in result.stderr


def test_unreadable_metrics_cost_the_curves_and_the_exit_status_only(runs: list[Path], tmp_path: Path) -> None:
    (runs[0] / "metrics/0000.h5").write_bytes(b"no HDF5")
    result = summarize(*runs, "--html", tmp_path / "report.html")
    assert result.returncode == 1
    assert "one/metrics/0000.h5: not readable as metrics" in result.stderr
    assert [line.split()[0] for line in result.stdout.splitlines()[1:3]] == ["one", "two"]
    assert "cannot be read: one." in (tmp_path / "report.html").read_text()


def test_an_output_that_cannot_be_written_is_said(runs: list[Path], tmp_path: Path) -> None:
    result = summarize(*runs, "--csv", tmp_path / "nowhere" / "report.csv")
    assert result.returncode == 2
    assert "nowhere/report.csv: cannot be written" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_missing_library_is_said(
    runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    assert main([str(runs[0]), "--html", str(tmp_path / "report.html")]) == 2
    assert "pip install 'wash_hpc[hdf5]'" in capsys.readouterr().err
    assert main([str(runs[0])]) == 0  # the table needs no HDF5


def test_help_teaches_with_examples() -> None:
    result = summarize("--help")
    assert result.returncode == 0
    assert "tools/summarize.py runs/a runs/b --html report.html" in result.stdout
    assert "exit status" in result.stdout


def test_no_run_at_all_is_a_wrong_command_line() -> None:
    result = summarize()
    assert result.returncode == 2
    assert "RUN" in result.stderr


def test_follow_shows_records_as_they_come_and_ends_with_the_run(tmp_path: Path) -> None:
    folder = tmp_path / "going"
    writer = start_run(folder, "going")
    command = [sys.executable, str(TOOL), str(folder), "--follow", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert f"{folder}: step 1 of 4, epoch 0.10, loss 0.6," in process.stderr.readline()
        append(writer, 2)
        assert f"{folder}: step 2 of 4," in process.stderr.readline()
        assert process.poll() is None
        writer.close()
        finish_run(folder, "going")
        begin = time.monotonic()
        stdout, stderr = process.communicate(timeout=30)
        assert time.monotonic() - begin < 10
    assert process.returncode == 0
    assert stderr.splitlines()[-1].endswith("finished")
    assert [run["name"] for run in json.loads(stdout)] == ["going"]


def test_follow_waits_for_a_run_and_says_where_it_was_stopped_and_how_to_continue(tmp_path: Path) -> None:
    folder = tmp_path / "later"
    command = [sys.executable, str(TOOL), str(folder), "--follow"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == f"waiting for {folder} to begin\n"
        folder.mkdir()
        (folder / "LOCK").write_text(json.dumps(asdict(Holder.myself())))
        (folder / "config.yaml").write_text("run:\n  name: later\n")
        with MetricsWriter(folder, 2, ["fc"], {"num_steps": 4}) as writer:
            append(writer, 1)
        line = process.stderr.readline()
        while "step 1 of 4" not in line:
            assert line.endswith("waiting for the first metrics\n")
            line = process.stderr.readline()
        (folder / "LOCK").unlink()
        _, stderr = process.communicate(timeout=30)
    assert process.returncode == 1
    assert f"{folder}: has stopped after step 1 of 4; it has left no checkpoint: start it anew with wash-hpc" in stderr
    assert stderr.endswith("checkpoint.resume=auto\n")


def test_follow_of_what_is_no_run_ends_at_once(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").touch()
    result = summarize(tmp_path, "--follow")
    assert result.returncode == 2
    assert "not a run's folder" in result.stderr


def sweep(tmp_path: Path) -> list[Path]:
    """Two seeds of WASH at each of two p, and one independent run; soups 0.5, 0.6, 0.7, 0.8 and 0.1."""
    folders = []
    for number, (method, p, seed) in enumerate(
        [("wash", 0.1, 0), ("wash", 0.1, 1), ("wash", 0.2, 0), ("wash", 0.2, 1), ("independent", 0.001, 0)]
    ):
        folder = tmp_path / f"r{number}"
        folder.mkdir()
        then = "[{name: papa}]" if p == 0.2 else "[]"
        (folder / "config.yaml").write_text(
            f"run:\n  name: r{number}\n  seed: {seed}\nmethod:\n  name: {method}\n  p: {p}\n  then: {then}\n"
            f"optimizer:\n  lr: {0.1 + 0.1 * (number == 1)}\n"
        )
        soup = 0.1 if method == "independent" else 0.5 + number / 10
        made = replace(SUMMARY, name=folder.name, method=method, seed=seed, soup_accuracy=soup, ensemble_accuracy=0.7)
        write_summary(folder, replace(made, greedy_soup_accuracy=0.5 if number == 2 else None))
        folders.append(folder)
    return folders


def names(result: subprocess.CompletedProcess[str]) -> list[str]:
    assert result.returncode == 0, result.stderr
    return [run["name"] for run in json.loads(result.stdout)]


def test_runs_are_sorted_by_any_key_and_what_has_no_value_comes_last(tmp_path: Path) -> None:
    runs = sweep(tmp_path)
    assert names(summarize(*runs, "--json", "--sort=-soup_accuracy")) == ["r3", "r2", "r1", "r0", "r4"]
    assert names(summarize(*runs, "--json", "--sort=seed,-method.p")) == ["r2", "r0", "r4", "r3", "r1"]
    assert names(summarize(*runs, "--json", "--sort=-greedy_soup_accuracy"))[0] == "r2"


def test_runs_are_filtered_by_conditions_that_must_all_hold(tmp_path: Path) -> None:
    runs = sweep(tmp_path)
    assert names(summarize(*runs, "--json", "--filter", "method=wash", "--filter", "gap<=-0.1")) == ["r0", "r1"]
    assert names(summarize(*runs, "--json", "--filter", "method!=wash + papa", "--filter", "seed=0.0")) == ["r0", "r4"]
    assert names(summarize(*runs, "--json", "--filter", "greedy_soup_accuracy>0")) == ["r2"]
    none = summarize(*runs, "--filter", "method.p>1")
    assert (none.returncode, none.stdout) == (2, "")
    assert "no run passes --filter" in none.stderr


def test_groups_are_rows_with_mean_and_deviation_and_say_what_else_differs(tmp_path: Path) -> None:
    lines = summarize(*sweep(tmp_path), "--group", "method,method.p", "--sort=-gap").stdout.splitlines()
    assert [line.split()[:2] for line in lines[1:4]] == [["wash", "+"], ["wash", "0.1"], ["independent", "0.001"]]
    assert "75.00 ± 7.07" in lines[1]
    assert "+5.00 ± 7.07" in lines[1]
    assert lines[-1] == "optimizer.lr differs within group method=wash, method.p=0.1."


def test_groups_are_objects_of_json_and_rows_of_csv(tmp_path: Path) -> None:
    table = tmp_path / "groups.csv"
    result = summarize(*sweep(tmp_path), "--group", "method.p,method", "--json", "--csv", table)
    first = json.loads(result.stdout)[0]
    assert (first["group"], first["count"], first["runs"]) == ({"method.p": 0.1, "method": "wash"}, 2, ["r0", "r1"])
    assert first["mean"]["soup_accuracy"] == pytest.approx(0.55)
    assert first["std"]["soup_accuracy"] == pytest.approx(0.0707, abs=1e-4)
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["count"] for row in rows] == ["2", "2", "1"]
    assert float(rows[0]["soup_accuracy.mean"]) == pytest.approx(0.55)
    assert rows[2]["soup_accuracy.std"] == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--sort", "soupaccuracy"], "soupaccuracy: none of these runs has such a key; near it: soup_accuracy"),
        (["--filter", "lr=1"], "lr: none of these runs has such a key; near it: optimizer.lr"),
        (["--group", "method.q"], "near it: method.p"),
        (["--filter", "seed"], "--filter seed: expected KEY=VALUE"),
        (["--filter", "seed<low"], "expected a number behind <"),
        (["--sort", ","], "expected KEY,KEY"),
    ],
)
def test_a_key_that_no_run_has_is_said_with_those_near_it(tmp_path: Path, arguments: list[str], said: str) -> None:
    result = summarize(*sweep(tmp_path), *arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert said in " ".join(result.stderr.split())


def test_one_broken_run_among_three_hundred_is_named_and_the_others_are_shown(tmp_path: Path) -> None:
    folders = []
    for number in range(300):
        folder = tmp_path / f"r{number}"
        folder.mkdir()
        (folder / "config.yaml").write_text(f"run:\n  name: r{number}\n")
        finish_run(folder, folder.name)
        folders.append(folder)
    (folders[150] / "summary.json").write_text('{"name": 3}')
    result = summarize(*folders)
    assert result.returncode == 1
    assert len(result.stdout.splitlines()) == 299 + 2
    assert [line.split(":")[1].strip() for line in result.stderr.splitlines()] == [f"{folders[150]}/summary.json"]


def test_alarms_stand_under_the_table_and_not_in_json(runs: list[Path]) -> None:
    write_summary(runs[1], replace(SUMMARY, name="two", soup_accuracy=0.9))
    result = summarize(*runs)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines()[-1].startswith("two: the soup has ended 7.7 points under its ensemble. Try ")
    assert "under its ensemble" not in summarize(*runs, "--json").stdout
    assert "under its ensemble" not in summarize(*runs, "--no-alarms").stdout


def test_a_run_whose_metrics_were_not_kept_is_shown_and_one_with_damaged_metrics_is_named(runs: list[Path]) -> None:
    (runs[0] / "metrics/0000.h5").unlink()
    (runs[1] / "metrics/0000.h5").write_bytes(b"no HDF5")
    result = summarize(*runs)
    assert result.returncode == 1
    assert [line.split()[0] for line in result.stdout.splitlines()[1:3]] == ["one", "two"]
    assert [line.split(":")[1] for line in result.stderr.splitlines()] == [f" {runs[1]}/metrics/0000.h5"]


def in_terminal(*arguments: str | Path, **environment: str) -> tuple[int, str]:
    """The tool as a person sees it: exit status, and all it writes to a terminal of 100 columns and 30 lines."""
    command = [sys.executable, str(TOOL), *map(str, arguments)]
    pid, terminal = pty.fork()
    if pid == 0:
        sized = {"COLUMNS": "100", "LINES": "30", "TERM": "xterm"}
        os.execve(command[0], command, {**os.environ, **sized, **environment})
    written = b""
    while True:
        try:
            read = os.read(terminal, 65536)
        except OSError:  # Linux's word for the end of a terminal
            break
        if not read:
            break
        written += read
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    return os.waitstatus_to_exitcode(status), written.decode()


def test_in_a_terminal_follow_is_one_screen_and_no_color_has_no_colours(runs: list[Path]) -> None:
    status, text = in_terminal(runs[0], "--follow", NO_COLOR="1")
    assert status == 0
    assert "step 1/4" in text
    assert "evaluated at step 1: members" in text
    assert re.findall(r"\x1b\[(?:\d+;)*[39]\d", text) == []  # colours of the foreground
    assert "No room for" in text
