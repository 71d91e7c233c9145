"""`wash-hpc sweep` on real ranks: stopped by Ctrl-C and continued, one run that fails, what has finished is skipped."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.support import TINY, WARM_PYTHON, interrupted_in_mid_run, run_main, with_quick_ranks

STEPS = 300
MINE = f"""
import sys
from torch import nn
from wash_hpc.__main__ import main
from wash_hpc.models import register

@register("mine")
def build(image_shape, num_classes, width):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes))

if __name__ == "__main__":
    sys.executable = {WARM_PYTHON!r}  # its ranks' imports are done
    sys.exit(main())
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds a sweep of three runs, of which the last has to fail: there are no such data."""
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "tiny.yaml").write_text("{}\n")
    common = {key: yaml.safe_load(value) for key, _, value in (word.partition("=") for word in TINY)}
    content = {
        "config": str(folder / "tiny.yaml"),
        "name": "grid",
        "ranks": 2,
        "common": {**common, "run.dir": str(folder), "train.steps": STEPS, "log.every_steps": 2},
        "variants": {
            "wash": {"grid": {"method.p": [0.3]}},
            "alone": {"method.name": "independent", "ranks": 1},
            "broken": {"data.name": "cifar10", "data.path": "/nowhere"},
        },
        "grid": {"run.seed": [3]},
    }
    content["common"]["log.progress"] = "lines"
    (folder / "sweep.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return folder


@pytest.fixture(scope="module")
def interrupted(folder: Path) -> str:
    """What a sweep says whose first run is stopped by Ctrl-C."""
    command = [sys.executable, "-m", "wash_hpc", "sweep", str(folder / "sweep.yaml")]
    status, said = interrupted_in_mid_run(command, with_quick_ranks(folder))
    assert status == 130, said
    return said


@pytest.fixture(scope="module")
def second(folder: Path, interrupted: str) -> subprocess.CompletedProcess[str]:
    """The same command again, which is left alone."""
    command = [sys.executable, "-m", "wash_hpc", "sweep", str(folder / "sweep.yaml")]
    environment = with_quick_ranks(folder)
    return subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment, check=False)


def test_ctrl_c_stops_the_run_that_goes_on_with_a_checkpoint(folder, interrupted):
    assert "stops after this step, with a checkpoint" in interrupted
    assert "the same command goes on with the runs that are missing" in interrupted
    assert list((folder / "grid/wash-p_0.3-seed_3/checkpoints").glob("step-*"))
    assert not (folder / "grid/wash-p_0.3-seed_3/summary.json").exists()
    assert not (folder / "grid/alone-seed_3").exists()


def test_the_same_command_goes_on_and_names_what_fails_at_the_end(folder, second):
    assert second.returncode == 1, second.stderr
    assert "[1/3] wash-p_0.3-seed_3" in second.stdout
    assert "wash-p_0.3-seed_3 has not finished: it is there at step " in second.stdout
    assert f"step {STEPS}/{STEPS}" in second.stdout
    assert "step 2/300  loss" not in second.stdout.partition("[2/3]")[0]
    assert "mpirun -n 1 wash-hpc train" in second.stdout
    assert "[3/3] broken-seed_3   (about " in second.stdout
    assert "2 of 3 runs are there" in second.stdout
    assert "broken-seed_3 has failed; its messages are above" in second.stderr
    assert "/nowhere" in second.stderr
    assert (folder / "grid.html").is_file()
    with (folder / "grid.csv").open() as file:
        assert [row["name"] for row in csv.DictReader(file)] == ["wash-p_0.3-seed_3", "alone-seed_3"]


def test_what_has_finished_is_skipped_and_not_replaced_by_another_configuration(folder, second, capsys):
    summaries = [folder / f"grid/{name}-seed_3/summary.json" for name in ("wash-p_0.3", "alone")]
    before = [file.stat().st_mtime_ns for file in summaries]

    def sweep_here(*arguments: str) -> tuple[int, str, str]:
        return (run_main("sweep", str(folder / "sweep.yaml"), *arguments), *capsys.readouterr())

    status, out, err = sweep_here("--only", "wash-*,alone-*")
    assert status == 0, err
    assert out.count("has finished before with this configuration") == 2
    assert "mpirun" not in out
    status, out, _ = sweep_here("--list")
    assert [line.split()[1] for line in out.splitlines()] == ["finished", "finished", "missing"]
    status, out, err = sweep_here("--only", "broken-*,alone-*", "optimizer.lr=0.01")
    assert (status, out) == (2, "")
    assert "alone-seed_3 has finished with another configuration (nothing was touched): optimizer.lr" in err
    status, _, err = sweep_here("--report")
    assert status == 1
    assert "not in the table: broken-seed_3: missing" in err
    assert [file.stat().st_mtime_ns for file in summaries] == before


def test_a_script_of_ones_own_trains_with_what_it_has_registered(folder):
    script = folder / "mine.py"
    script.write_text(MINE)
    common = {key: yaml.safe_load(value) for key, _, value in (word.partition("=") for word in TINY)}
    common |= {"run.dir": str(folder), "train.steps": 2}
    content = {"config": str(folder / "tiny.yaml"), "ranks": 1, "common": common, "grid": {"model.name": ["mine"]}}
    (folder / "own.yaml").write_text(yaml.safe_dump(content))
    command = [WARM_PYTHON, str(script), "sweep", str(folder / "own.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert f"mpirun -n 1 {WARM_PYTHON} {script} train " in done.stdout
    assert (folder / "own/name_mine/summary.json").is_file()
    assert run_main("sweep", str(folder / "own.yaml"), "--list") == 2  # which knows of no such network
