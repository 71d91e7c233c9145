"""Sweeps as texts: which runs a file describes, what they are named, and what is wrong with a file, said by key."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import run_main
from wash_hpc.config import dump_config, load_config
from wash_hpc.errors import ConfigError, RunFolderError, WashError
from wash_hpc.storage.summary import Summary, write_summary
from wash_hpc.sweep.grid import MOST_RUNS, Sweep, read_sweep, require_runs
from wash_hpc.sweep.launch import launcher_words
from wash_hpc.sweep.override import as_override
from wash_hpc.sweep.runs import FINISHED, MISSING, OTHER, STOPPED, look, require_same, train_words
from wash_hpc.sweep.slurm import _ask, in_ranges, task_arguments

SWEEPS = sorted(file for folder in ("sweeps", "evidence") for file in Path("configs", folder).glob("*.yaml"))
CONFIG = "configs/compare_digits.yaml"


def write(folder: Path, **content: Any) -> Path:
    file = folder / "sweep.yaml"
    file.write_text(yaml.safe_dump({"config": CONFIG, "ranks": 4, **content}, sort_keys=False))
    return file


def names(sweep: Sweep) -> list[str]:
    return [run.name for run in sweep.runs]


@pytest.mark.parametrize("file", SWEEPS, ids=lambda file: file.stem)
def test_every_sweep_of_the_repository_can_be_trained_and_says_what_it_is(file):
    sweep = read_sweep(file)
    require_runs(sweep, sweep.runs)
    header = file.read_text().split("\n\n")[0]
    for heading in ("# Reproduces:", "# Expect:", "# Costs:", "# Run:"):
        assert heading in header
    assert f"wash-hpc sweep {file}" in header
    assert sweep.folder == Path("runs") / file.stem


def test_a_grid_is_every_combination_in_the_order_of_the_file_for_each_variant(tmp_path):
    variants = {
        "wash": {"method.name": "wash", "grid": {"method.p": [0.05, 1e-5]}},
        "long": {"ranks": 1, "method.name": "independent", "train.steps": 800},
    }
    file = write(tmp_path, common={"train.steps": 200}, variants=variants, grid={"run.seed": [0, 1]})
    sweep = read_sweep(file, ["log.every_steps=5"])
    assert names(sweep) == [
        "wash-p_0.05-seed_0",
        "wash-p_0.05-seed_1",
        "wash-p_1e-05-seed_0",
        "wash-p_1e-05-seed_1",
        "long-seed_0",
        "long-seed_1",
    ]
    assert [run.ranks for run in sweep.runs] == [4, 4, 4, 4, 1, 1]
    assert sweep.varying == ("method.name", "method.p", "train.steps", "run.seed", "num_members", "num_replicas")
    require_runs(sweep, sweep.runs)
    configs = [sweep.load(run) for run in sweep.runs]
    assert [config.method.p for config in configs[:4]] == [0.05, 0.05, 1e-5, 1e-5]
    assert [config.train.steps for config in configs] == [200] * 4 + [800] * 2
    assert {config.log.every_steps for config in configs} == {5}
    assert configs[1].folder == Path("runs/sweep/wash-p_0.05-seed_1")


def test_names_and_numbers_stay_when_values_of_the_first_key_and_variants_are_added(tmp_path):
    few = read_sweep(write(tmp_path, grid={"method.p": [0.1], "run.seed": [0, 1]}))
    more = read_sweep(write(tmp_path, grid={"method.p": [0.1, 0.2], "run.seed": [0, 1]}))
    assert names(more)[:2] == names(few) == ["p_0.1-seed_0", "p_0.1-seed_1"]


def test_keys_of_one_last_part_are_written_out_and_names_are_names_of_folders(tmp_path):
    grid = {"model.name": ["mlp"], "method.name": ["wash"], "train.mixup": [[0, 1.5], 0.5]}
    assert names(read_sweep(write(tmp_path, grid=grid))) == [
        "model.name_mlp-method.name_wash-mixup_0_1.5",
        "model.name_mlp-method.name_wash-mixup_0.5",
    ]


def test_where_the_runs_are_is_the_files_name_its_own_name_or_what_the_command_says(tmp_path):
    grid = {"run.seed": [0]}
    assert read_sweep(write(tmp_path, grid=grid)).folder == Path("runs/sweep")
    file = write(tmp_path, grid=grid, name="own", common={"run.dir": "/there"})
    assert read_sweep(file).folder == Path("/there/own")
    moved = read_sweep(file, ["run.dir=/elsewhere", "run.name=look"])
    assert moved.folder == Path("/elsewhere/look")
    assert moved.arguments(moved.runs[0]) == [
        "run.dir=/there",
        "run.seed=0",
        "run.dir=/elsewhere/look",
        "run.name=seed_0",
    ]


values = st.one_of(
    st.booleans(),
    st.none(),
    st.integers(-(10**6), 10**6),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(codec="utf-8", exclude_characters="\n\r\x85\u2028\u2029", exclude_categories=["Cc", "Cs"])),
)


@given(st.one_of(values, st.lists(values, max_size=3), st.lists(st.dictionaries(st.sampled_from("ab"), values))))
def test_values_read_back_as_they_were_written(value):
    from omegaconf import OmegaConf

    if "${" in str(value) or "???" in str(value):
        return
    read = OmegaConf.create({})
    read.merge_with_dotlist([as_override("x", value)])
    assert OmegaConf.to_container(read) == {"x": value}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"grids": {}}, "grids: there is no such key in a sweep; did you mean grid?"),
        ({}, "expected a grid or variants: nothing varies"),
        ({"grid": {"run.seed": [0]}, "ranks": 0}, "ranks: 0: expected with how many ranks"),
        ({"grid": {"run.seed": [0]}, "ranks": None}, "ranks: None: expected with how many ranks"),
        ({"grid": {"run.seed": [0]}, "ranks": True}, "ranks: True: expected"),
        ({"grid": {"run.seed": [0]}, "config": 5}, "config: 5: expected a file"),
        ({"grid": {"run.seed": [0]}, "config": "configs/no.yaml"}, "configs/no.yaml: there is no such configuration"),
        ({"grid": {"run.seed": [0]}, "name": "../up"}, "name: ../up: expected a name of a folder"),
        ({"grid": {"run.seed": 0}}, "grid: run.seed: expected a list of values"),
        ({"grid": {"run.seed": []}}, "grid: run.seed: expected a list of values"),
        ({"grid": [1]}, "grid: [1]: expected keys with values"),
        ({"grid": {"seed": [0]}}, "grid: seed: expected keys as on the command line, such as method.p"),
        ({"grid": {7: [0]}}, "grid: 7: expected keys as on the command line"),
        ({"grid": {"run.name": ["a"]}}, "grid: run.name: runs get names of their own"),
        ({"grid": {"run.dir": ["a"]}}, "grid: run.dir: expected under common"),
        ({"common": {"checkpoint.resume": "never"}, "grid": {"run.seed": [0]}}, "common: checkpoint.resume: what has"),
        ({"common": {"train.stpes": 3}, "grid": {"run.seed": [0]}}, "train.stpes: "),
        ({"grid": {"run.sed": [0]}}, "sed_0: run.sed: "),
        ({"grid": {"method.p": [0.1, 2]}}, "p_2: method.p=2"),
        ({"grid": {"method.p": ["${oc.env:HOME}"]}}, "refers to another value"),
        ({"grid": {"data.path": ["a\nb"]}}, "path_a_b: data.path='a"),
        ({"grid": {"data.path": ["a b", "a/b"]}}, "two runs would have the name path_a_b"),
        ({"grid": {"data.path": ["a" * 300]}}, "too long for the name"),
        ({"grid": {"method.p": [1, 1.0]}}, "p_1.0: the same run as p_1, by another name"),
        ({"grid": {"run.seed": list(range(MOST_RUNS + 1))}}, f"more than {MOST_RUNS} runs"),
        ({"grid": {key: list(range(99)) for key in ("run.a", "run.b", "run.c", "run.d")}}, f"more than {MOST_RUNS}"),
        ({"variants": {"a/b": {}}}, "variants: a/b: expected a name of a folder"),
        ({"variants": {True: {}}}, "variants: True: expected a name of a folder"),
        ({"variants": {"a": {"ranks": "4"}}}, "variants: a: ranks: 4: expected"),
        ({"variants": {"a": {"grid": 5}}}, "variants: a: grid: 5: expected keys"),
        ({"variants": {"a": 5}}, "variants: a: 5: expected keys with values"),
        ({"variants": {"a": {"run.seed": 1}}, "grid": {"run.seed": [0]}}, "variants: a: run.seed: the grid gives"),
        ({"variants": {"a": {"method.name": "papa"}}, "grid": {"method.p": [0.1]}}, "a-p_0.1: method.p"),
        ({"grid": {"data.name": ["digits", "digitz"]}}, "name_digitz: data.name=digitz: "),
        ({"grid": {"model.name": ["mlp", "mpl"]}}, "name_mpl: model.name=mpl: "),
        ({"grid": {"method.name": ["papa", "pappa"]}}, "name_pappa: method.name=pappa: "),
        ({"variants": {"a": {"ensemble.members": 3}}}, "a: ranks: 4 cannot be shared out evenly, ensemble.members=3"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_sentence_before_anything_starts(tmp_path, capsys, content, sentence):
    file = write(tmp_path, **content)
    assert run_main("sweep", str(file), f"run.dir={tmp_path}/runs") == 2
    said = capsys.readouterr()
    assert sentence in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--only", "seed_9"], "--only seed_9: there is no such run; did you mean seed_"),
        (["--task", "2"], "--task 2: there are 2 runs, 0 to 1"),
        (["--task", "-1"], "--task -1: there are 2 runs"),
        (["run.seed=5"], "run.seed=5: seed_0 has a value of its own"),
        (["checkpoint.resume=never"], "checkpoint.resume=never: what has not finished goes on anyway"),
        (["train.stpes=5"], "train.stpes: "),
        (["--launcher", "mpirun"], "--launcher mpirun: expected {ranks} in it"),
        (["--launcher", "mpirun -n {ranks} '"], "cannot be read"),
        (["--launcher", "nosuch -n {ranks}"], "nosuch is not on PATH"),
        (["--slurm", "--at-once=-3"], "--at-once -3: expected at least 1"),
        (["--slurm", "--at-once=0"], "--at-once 0: expected at least 1"),
        (["--slurm", "--sbatch=--time='1"], "--sbatch --time='1: cannot be read"),
        (["--slurm", "--sbatch-report=--time='1"], "--sbatch-report --time='1: cannot be read"),
    ],
)
def test_what_is_wrong_with_the_arguments_is_one_sentence(tmp_path, capsys, arguments, sentence):
    file = write(tmp_path, grid={"run.seed": [0, 1]})
    assert run_main("sweep", str(file), f"run.dir={tmp_path}/runs", *arguments) == 2
    said = capsys.readouterr()
    assert sentence in said.err
    assert said.out == ""
    assert not (tmp_path / "runs").exists()


def test_slurm_is_refused_where_there_is_none(tmp_path, capsys, monkeypatch):
    file = write(tmp_path, grid={"run.seed": [0, 1]})
    monkeypatch.setenv("PATH", "")
    assert run_main("sweep", str(file), "--slurm") == 2
    assert "sbatch is not on PATH" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    assert run_main("sweep", str(file), "--slurm") == 2


def test_a_slurm_that_does_not_answer_or_start_is_one_sentence(tmp_path):
    with pytest.raises(WashError, match=r"^sleep 5: no answer within 0\.1 s; whether it was done after all, squeue"):
        _ask(["sleep", "5"], seconds=0.1)
    with pytest.raises(WashError, match=f"^{tmp_path}/squeue: No such file or directory$"):
        _ask([f"{tmp_path}/squeue"])


THREE_TIMES = """
import os, signal, sys, threading, time
from wash_hpc.sweep.launch import run_ranks
signal.signal(signal.SIGINT, signal.default_int_handler)
def interrupt():
    for number in range(3):
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=interrupt).start()
run_ranks(["bash", "-c", "set -m; trap '' INT USR2; sleep 987 & echo $!; wait; sleep 986"], 1)
"""


def test_at_a_third_ctrl_c_nothing_of_a_launcher_that_hears_none_is_left():
    done = subprocess.run([sys.executable, "-c", THREE_TIMES], capture_output=True, text=True, timeout=120, check=False)
    rank = Path(f"/proc/{int(done.stdout)}/cmdline")  # in a group of its own, as mpirun's ranks are
    assert "Ctrl-C again: at once" in done.stderr
    assert not rank.exists() or b"987" not in rank.read_bytes()


def test_a_run_keeps_the_progress_that_it_asks_for(tmp_path):
    variants = {"quiet": {"log.progress": "off"}, "other": {}}
    sweep = read_sweep(write(tmp_path, variants=variants))
    asked = [[word for word in train_words(sweep, run) if word.startswith("log.progress=")] for run in sweep.runs]
    assert asked[0] in (['log.progress="off"'], ["log.progress=off"])
    assert len(asked[1]) == 1


junk = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.just(CONFIG)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(st.text(max_size=5), st.sampled_from(["method.p", "run.seed", "ranks"])), inner),
    ),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from(["config", "name", "ranks", "common", "variants", "grid"]), junk))
def test_whatever_a_file_holds_it_is_read_or_refused_with_a_sentence(tmp_path_factory, content):
    file = tmp_path_factory.mktemp("junk") / "sweep.yaml"
    file.write_text(yaml.safe_dump({"config": CONFIG, "ranks": 2, **content}))
    try:
        sweep = read_sweep(file)
        require_runs(sweep, sweep.runs)
    except WashError:
        pass


@pytest.mark.parametrize("text", ["", "[1, 2]", "a: [", "grid: {a: 1, a: 2}", "\x00", "- " * 5000, "a: &a [*a]"])
def test_what_is_no_sweep_at_all_is_refused(tmp_path, text):
    file = tmp_path / "sweep.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"sweep\.yaml"):
        read_sweep(file)


def test_only_takes_names_and_patterns_and_keeps_the_numbers(tmp_path):
    sweep = read_sweep(write(tmp_path, grid={"method.p": [0.1, 0.2], "run.seed": [0, 1]}))
    assert [(number, run.name) for number, run in sweep.select("p_0.2-*,p_0.1-seed_1")] == [
        (1, "p_0.1-seed_1"),
        (2, "p_0.2-seed_0"),
        (3, "p_0.2-seed_1"),
    ]


def test_a_task_is_given_the_arguments_of_its_run_unless_its_job_has_other_ranks(tmp_path, monkeypatch):
    file = write(tmp_path, common={"run.dir": str(tmp_path)}, grid={"method.p": [0.1, 0.2]})
    sweep = read_sweep(file)
    assert task_arguments(sweep, 1)[0] == CONFIG
    assert load_config(CONFIG, task_arguments(sweep, 1)[1:]) == sweep.load(sweep.runs[1])
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_NTASKS", "3")
    with pytest.raises(WashError, match=r"p_0\.2: ranks: 4, and this job has 3 tasks"):
        task_arguments(sweep, 1)


@pytest.mark.parametrize(
    ("numbers", "text"), [([5], "5"), ([0, 1, 2], "0-2"), ([0, 2, 3, 4, 9], "0,2-4,9"), ([1, 3], "1,3")]
)
def test_tasks_are_written_as_slurm_writes_them(numbers, text):
    assert in_ranges(numbers) == text


def test_a_launcher_is_given_the_ranks_wherever_it_wants_them():
    assert launcher_words("mpirun -n {ranks} --tag 'a b' -x N={ranks}", 3) == [
        "mpirun",
        "-n",
        "3",
        "--tag",
        "a b",
        "-x",
        "N=3",
    ]


def test_a_run_that_is_there_is_kept_whatever_its_configuration(tmp_path):
    config = load_config(CONFIG, ["train.steps=5"])
    run = tmp_path / "run"
    assert look(run, config).kind == MISSING
    run.mkdir()
    assert look(run, config).kind == MISSING  # stopped before it wrote anything
    (run / "photo.jpg").touch()
    with pytest.raises(RunFolderError, match="exists and is no run"):
        look(run, config)
    (run / "config.yaml").write_text(dump_config(config))
    assert str(look(run, config)) == f"{STOPPED} without a checkpoint"
    (run / "LOCK").touch()
    assert str(look(run, config)) == "going on or killed, without a checkpoint"
    other = load_config(CONFIG, ["train.steps=6", "log.every_steps=1"])
    with pytest.raises(RunFolderError, match=r"was begun with another configuration .*train.steps: 5 -> 6\. "):
        require_same(run, look(run, other))
    (run / "summary.json").write_text("{}")
    assert look(run, config).kind == FINISHED
    elsewhere = ["train.steps=5", "run.threads=7", "run.dir=/elsewhere", "parallel.device=cpu", "data.path=/there"]
    assert look(run, load_config(CONFIG, elsewhere)).kind == FINISHED
    with pytest.raises(RunFolderError, match=r"has finished with another configuration .*run.name=.*-2, or remove"):
        require_same(run, look(run, other))
    (run / "config.yaml").write_text("run: {old: 1}\n")
    assert look(run, config).kind == OTHER
    with pytest.raises(RunFolderError, match=r"run\.old: there is no such key"):
        require_same(run, look(run, config))


def test_the_list_says_what_is_there_of_each_run_and_starts_nothing(tmp_path, capsys):
    file = write(tmp_path, grid={"run.seed": [0, 1, 2]})
    sweep = read_sweep(file, [f"run.dir={tmp_path}"])
    for run, ending in ((sweep.runs[0], ["summary.json"]), (sweep.runs[1], [])):
        folder = sweep.folder / run.name
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(dump_config(sweep.load(run)))
        for name in ending:
            (folder / name).write_text("{}")
    assert run_main("sweep", str(file), "--list", f"run.dir={tmp_path}") == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["0", "finished", "seed_0", "4", "ranks", "run.seed=0"]
    assert lines[1][1:5] == ["stopped", "without", "a", "checkpoint"]
    assert lines[2][1:3] == ["missing", "seed_2"]


def finished_runs(folder: Path, file: Path) -> Sweep:
    """All runs of a sweep as finished ones, without metrics."""
    sweep = read_sweep(file, [f"run.dir={folder}"])
    summary = Summary(
        "", "wash", 2, 1, 0, 30, 1.5, 900, 100, 0.97, 0.98, 0.977, 0.987, 0.986, None, 3.2, 123_456_789, 183.2, 90.0
    )
    for run in sweep.runs:
        (sweep.folder / run.name).mkdir(parents=True)
        (sweep.folder / run.name / "config.yaml").write_text(dump_config(sweep.load(run)))
        write_summary(sweep.folder / run.name, replace(summary, name=run.name, num_members=run.ranks))
    return sweep


def test_without_plotly_there_are_the_table_and_its_csv_and_the_page_is_said_to_be_missing(
    tmp_path, capsys, monkeypatch
):
    file = write(tmp_path, name="few", grid={"run.seed": [0]})
    finished_runs(tmp_path, file)
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    assert run_main("sweep", str(file), "--report", f"run.dir={tmp_path}") == 0
    said = capsys.readouterr()
    assert "seed_0" in said.out
    assert said.out.endswith(f"1 of 1 runs have finished; table: {tmp_path}/few.csv\n")
    assert "there is no page of curves: plotly is not installed" in said.err
    assert (tmp_path / "few.csv").is_file()
    assert not (tmp_path / "few.html").exists()
    monkeypatch.undo()
    (tmp_path / "few.csv").unlink()
    (tmp_path / "few.csv").mkdir()
    assert run_main("sweep", str(file), "--report", f"run.dir={tmp_path}") == 1
    assert capsys.readouterr().out.endswith(f"1 of 1 runs have finished; curves: {tmp_path}/few.html\n")


def test_runs_that_differ_in_ranks_alone_are_no_seeds_of_one_another(tmp_path, capsys):
    variants = {"two": {"ranks": 2}, "four": {}}
    file = write(tmp_path, variants=variants, grid={"run.seed": [0, 1]})
    finished_runs(tmp_path, file)
    assert run_main("sweep", str(file), "--report", f"run.dir={tmp_path}") == 1  # there are no curves of such runs
    groups = capsys.readouterr().out.rpartition("num_members")[2].splitlines()
    assert [line.split()[0] for line in groups[1:3]] == ["2", "4"]
