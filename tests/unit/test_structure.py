"""The shape of the code: imports point down, one door per dependency, nothing needed to import the package."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path("wash_hpc")

# Lower may not import higher; see docs/design.md.
LEVELS = [
    {"errors", "clock", "durations", "seeds", "signals", "startup", "usage", "commands"},
    {"config", "config_text", "method_kinds", "ranges", "slurm"},
    {"shuffle", "ensemble", "models", "parallel.layout", "parallel.link", "draw_cost"},
    {"parallel", "data", "storage", "logs", "machine", "completion", "rates"},
    {"report", "methods", "optimizer", "cuda_graph", "member"},
    {
        "agreement",
        "evaluate",
        "provenance",
        "skipped",
        "totals",
        "orders",
        "requirements",
        "file_soup",
        "checkpoint_writer",
        "stalls",
    },
    {"observe", "checkpoints", "survey"},
    {
        "train",
        "predict",
        "data_facts",
        "traffic",
        "method_cost",
        "memory",
        "doctor",
        "basin",
        "tune",
        "requeue",
    },
    {"finished", "plan_report", "evaluate_report", "sweep"},
    {"landscape"},
    {"__main__"},
]
DOORS = {
    "mpi4py": {"parallel"},
    "horovod": {"parallel"},
    "nvidia": {"data"},
    "h5py": {"storage"},
    "tensorboard": {"storage"},
    "wandb": {"storage"},
    "plotly": {"report"},
    "matplotlib": {"report"},
    "scipy": {"ensemble"},
}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def imports(file: Path) -> set[str]:
    """Full names of all that a file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def level_of(name: str) -> int:
    """The level of a module such as `parallel.layout`; the longest name that is listed counts."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        for number, level in enumerate(LEVELS):
            if ".".join(parts[:end]) in level:
                return number
    raise AssertionError(f"wash_hpc/{name} has no level: add it to LEVELS and to docs/design.md")


def name_of(file: Path) -> str:
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize("file", [f for f in modules() if name_of(f)], ids=name_of)
def test_imports_point_down(file):
    own = level_of(name_of(file))
    for name in imports(file):
        if name.startswith("wash_hpc.") and name != "wash_hpc.__version__":
            assert level_of(name.removeprefix("wash_hpc.")) <= own, f"{file} imports {name}, which is above it"


@pytest.mark.parametrize("file", modules(), ids=name_of)
def test_each_dependency_has_one_door(file):
    package = name_of(file).split(".")[0]
    for name in imports(file):
        owners = DOORS.get(name.split(".")[0])
        assert owners is None or package in owners, f"{file} imports {name}, which belongs to {owners}"


@pytest.mark.parametrize("file", [f for f in modules() if name_of(f).startswith("shuffle")], ids=name_of)
def test_the_method_needs_numpy_and_torch_alone(file):
    allowed = {"numpy", "torch", "wash_hpc", "__future__", *sys.stdlib_module_names}
    assert {name.split(".")[0] for name in imports(file)} <= allowed


def test_the_package_and_its_method_import_without_mpi_horovod_dali_and_h5py():
    code = """
import sys
for name in ("mpi4py", "horovod", "nvidia", "h5py", "plotly", "matplotlib", "scipy", "sklearn", "torchvision"):
    sys.modules[name] = None
import wash_hpc, wash_hpc.shuffle.reference, wash_hpc.ensemble.soup, wash_hpc.member, wash_hpc.evaluate, wash_hpc.data
import wash_hpc.survey, wash_hpc.ensemble.curvature, wash_hpc.report.basin_figures
import wash_hpc.models, wash_hpc.storage.metrics, wash_hpc.parallel, wash_hpc.__main__, wash_hpc.report.summarize
from wash_hpc.errors import MissingDependencyError
from wash_hpc.parallel import start_mpi
from wash_hpc.parallel.reducer import reducer_class
for use in (start_mpi, lambda: reducer_class("horovod"), wash_hpc.storage.metrics.import_h5py):
    try:
        use()
    except MissingDependencyError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for command in ("pip install 'wash_hpc[mpi]'", "tools/install_horovod.sh", "pip install 'wash_hpc[hdf5]'"):
        assert command in done.stdout


@pytest.mark.parametrize("command", [["train", "CONFIG"], ["evaluate", "."], ["soup", "."]])
def test_a_command_that_needs_a_missing_mpi_says_how_to_install_it(command):
    code = "import sys; sys.modules['mpi4py'] = None; from wash_hpc.__main__ import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("wash_hpc: error: MPI")
    assert "pip install 'wash_hpc[mpi]'" in done.stderr


@pytest.mark.parametrize("command", [["train", "--list"], ["plan", "configs/cifar10_resnet18_wash.yaml"]])
def test_what_starts_nothing_needs_no_mpi(command):
    code = "import sys; sys.modules['mpi4py'] = None; from wash_hpc.__main__ import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_modules_and_functions_stay_short():
    for file in [*modules(), *sorted(Path("tools").glob("*.py"))]:
        assert len(file.read_text().splitlines()) <= 320, f"{file} is long: which noun is missing?"
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef):
                assert (node.end_lineno or 0) - node.lineno <= 70, f"{file}:{node.name} is long"


def test_no_duration_is_taken_from_the_time_of_day_which_may_jump():
    assert [name_of(file) for file in modules() if "time.time" in file.read_text()] == []
