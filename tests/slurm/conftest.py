"""One cluster for all tests that ask for it, and the data of their runs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster, running_cluster

ROOT = Path(__file__).resolve().parents[2]
_forms: list[str] = []


@pytest.fixture(autouse=True)
def _in_the_folder_of_submission(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Two idle nodes. Where there is no slurmctld its tests were skipped; one that does not start is a failure."""
    with running_cluster() as running:
        _forms.append(running.form)
        yield running


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "digits"
    subprocess.run([sys.executable, ROOT / "tools/make_dataset.py", "digits", folder], timeout=120, check=True)
    return folder


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for form in _forms:
        terminalreporter.write_line(f"Slurm tests ran on {form}")
