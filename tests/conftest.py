"""What all tests share: the count of MPI tests by ranks, the groups that need something installed, and a clean MPI."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tools.warm_python import WarmPython

# No test here is about speed, and this machine may be busy with other ranks. In the gate all examples are the same
# every time, so that it says of one tree one thing; elsewhere they are new, and so they are where more are asked for.
settings.register_profile(
    "wash_hpc",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize="CI" in os.environ and "FUZZ_EXAMPLES" not in os.environ,
)
settings.load_profile("wash_hpc")

_mpi_ranks: dict[str, int] = {}
_groups: dict[str, str] = {}
_num_mpi_tests: Counter[int] = Counter()
_num_by_group: Counter[str] = Counter()
_GROUPS = ("slurm", "fashion_mnist", "small_disk", "slow_links", "browser", "gpu")
_warm_python: list[WarmPython] = []


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function) and item.get_closest_marker("mpi") is not None:
            _mpi_ranks[item.nodeid] = item.callspec.params["mpi_ranks"]
        for group in _GROUPS:
            if item.get_closest_marker(group) is not None:
                _groups[item.nodeid] = group
        if item.get_closest_marker("slurm") is not None and shutil.which("slurmctld") is None:
            item.add_marker(
                pytest.mark.skip(reason="slurmctld is not installed (Debian: slurm-wlm, munge, libpmix-dev)")
            )
        if item.get_closest_marker("browser") is not None and not Path("/usr/bin/chromium").exists():
            item.add_marker(pytest.mark.skip(reason="needs Debian's chromium: apt-get install chromium"))

    is_a_rank = "OMPI_COMM_WORLD_RANK" in os.environ
    has_gpu = Path("/dev/nvidiactl").exists()  # CUDA, which imports may look for, does not survive a fork
    launches = not config.option.collectonly and any("tests/unit/" not in item.nodeid for item in items)
    if launches and not is_a_rank and not has_gpu:
        _warm_python.append(WarmPython())


def pytest_unconfigure() -> None:
    while _warm_python:
        _warm_python.pop().close()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Count each test once, whatever its outcome; under mpirun every rank reports, and rank 0 stands for all."""
    if report.when != "call" or report.skipped:
        return
    nodeid, _, rank = report.nodeid.partition("[rank=")
    if nodeid in _mpi_ranks and rank in ("", "0]"):
        _num_mpi_tests[_mpi_ranks[nodeid]] += 1
    if nodeid in _groups:
        _num_by_group[_groups[nodeid]] += 1


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    counts = ", ".join(f"{_num_mpi_tests[ranks]} on {ranks}" for ranks in sorted({1, 2, 3, 4} | set(_num_mpi_tests)))
    terminalreporter.write_line(f"MPI tests run, by ranks: {counts}")
    terminalreporter.write_line("tests that need: " + ", ".join(f"{name} {_num_by_group[name]}" for name in _GROUPS))
    build = Path("build")
    if build.is_dir():
        groups = {"mpi": dict(_num_mpi_tests), **{name: _num_by_group[name] for name in _GROUPS}}
        (build / "test-groups.json").write_text(json.dumps(groups))
