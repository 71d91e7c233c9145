"""Set-up that cannot work stops with one line that says what and why."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """As much of a fresh clone as set-up reads."""
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(name, tmp_path)
    shutil.copytree("tools", tmp_path / "tools", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def set_up(clone: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", "tools/setup.sh"]
    environment = {**os.environ, **environment}
    return subprocess.run(command, cwd=clone, capture_output=True, text=True, env=environment, check=False, timeout=60)


def test_without_a_python_that_is_new_enough(clone):
    done = set_up(clone, PYTHON="/bin/false")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "setup: error: no Python 3.11 or newer (tried: /bin/false); set PYTHON=/path/to/python"
    ]
    assert not (clone / ".venv" / "bin").exists()


def test_horovod_without_an_environment(clone):
    command = ["bash", "tools/install_horovod.sh", str(clone / "nowhere")]
    done = subprocess.run(command, cwd=clone, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "there is no" in done.stderr or "no Python environment" in done.stderr
    assert len(done.stderr.splitlines()) == 1
