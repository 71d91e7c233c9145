"""The rows of `make compare`: every method, and nothing but the method differs."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from wash_hpc.config import load_config
from wash_hpc.methods import method_names
from wash_hpc.storage.run_folder import changed_keys, changes_of_result
from wash_hpc.sweep.grid import read_sweep

sys.path.insert(0, "tools")  # where it finds its neighbours
spec = importlib.util.spec_from_file_location("compare", "tools/compare.py")
assert spec is not None
assert spec.loader is not None
compare = importlib.util.module_from_spec(spec)
sys.modules["compare"] = compare  # its dataclass looks itself up there
spec.loader.exec_module(compare)

CONFIG = Path("configs/compare_digits.yaml")
CONFIGS = sorted(Path("configs").glob("compare_*.yaml"))


@pytest.fixture(params=CONFIGS, ids=lambda file: file.stem)
def file(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def test_every_method_has_a_row(file):
    rows = compare.make_rows(load_config(file), 39)
    assert {load_config(file, row.overrides).method.name for row in rows} == set(method_names())
    assert len({row.name for row in rows}) == len(rows)


def test_rows_differ_from_what_they_have_in_common_by_their_method_alone(file):
    common = load_config(file)
    for row in compare.make_rows(common, 39):
        keys = {change.split(":")[0] for change in changed_keys(common, load_config(file, row.overrides))}
        beside = {key for key in keys if not key.startswith("method.")}
        assert beside == {
            "data_parallel": {"data.batch_size", "ensemble.members"},
            "single_long": {"train.steps", "run.threads"},
        }.get(row.name, set())


def test_all_rows_see_as_many_images(file):
    common = load_config(file)
    for row in compare.make_rows(common, 39):
        config = load_config(file, row.overrides)
        assert config.train.steps is not None
        models = row.ranks if config.ensemble.members is None else config.ensemble.members
        seen = models * config.train.steps * config.data.batch_size
        assert seen == 4 * (common.train.steps or 0) * common.data.batch_size


@pytest.mark.parametrize(("steps_of_epoch", "every"), [(39, 5), (50, 5), (51, 1), (900, 1)])
def test_papa_all_averages_several_times_where_there_are_epochs_for_it(steps_of_epoch, every):
    file = Path("configs/compare_digits.yaml")
    (row,) = (row for row in compare.make_rows(load_config(file), steps_of_epoch) if row.name == "papa_all")
    assert load_config(file, row.overrides).method.every == every


def test_without_mpirun_it_says_where_to_get_it(monkeypatch, capsys):
    monkeypatch.setenv("PATH", "")
    assert compare.main([]) == 2
    assert "source tools/mpi_env.sh" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--only", "wash,wasch"], "--only wasch: there is no such run; did you mean wash?"),
        (["method.name=papa"], "method.name=papa: each row has a method and options of its own"),
        (["method.p=2"], "method.p=2.0: expected a probability"),
        (["train.steps=null"], "train.steps=null: expected the number of steps"),
        (["train.step=5"], "train.step: "),
        (["--config", "configs/compare_nothing.yaml"], "configs/compare_nothing.yaml: there is no such configuration"),
        (["data.name=fashion_mnist", "data.path=/nowhere"], "/nowhere"),
    ],
)
def test_what_cannot_be_compared_is_one_sentence_before_anything_is_trained(tmp_path, capsys, arguments, sentence):
    assert compare.main([*arguments, f"run.dir={tmp_path}"]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("compare.py: ")
    assert sentence in said.err
    assert said.out == ""
    assert list(tmp_path.iterdir()) == []


def test_the_sweep_of_all_methods_has_the_same_rows_with_three_seeds():
    sweep = read_sweep(Path("configs/sweeps/digits_methods.yaml"))
    common = load_config(CONFIG)
    per_epoch = 39  # of 1,259 images in batches of 32
    for row in compare.make_rows(common, per_epoch):
        for seed in range(3):
            (run,) = (run for run in sweep.runs if run.name == f"{row.name}-seed_{seed}")
            ours = load_config(CONFIG, [*row.overrides, f"run.seed={seed}", f"run.name={run.name}"])
            assert changes_of_result(replace(ours, run=replace(ours.run, dir=str(sweep.folder))), sweep.load(run)) == []
            assert run.ranks == row.ranks
    assert len(sweep.runs) == 3 * len(compare.make_rows(common, per_epoch))
