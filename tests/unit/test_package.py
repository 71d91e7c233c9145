"""The package by itself: it builds, holds its type marker, and installs a command."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile


def test_the_package_alone_installs_and_imports_with_nothing_else(tmp_path):
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    source = tmp_path / "source"  # a copy: setuptools writes into the folder that it builds
    shutil.copytree("wash_hpc", source / "wash_hpc", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(name, source)
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(source)], check=True)
    (wheel,) = tmp_path.glob("wash_hpc-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "wash_hpc/py.typed" in names
    assert "wash_hpc/shuffle/draw.py" in names
    assert not any(name.startswith(("tests", "tools")) for name in names)
    subprocess.run([*pip, "install", "--no-deps", "--target", str(tmp_path / "site"), str(wheel)], check=True)
    # -S: no site-packages, so nothing but the standard library is there.
    command = [sys.executable, "-S", "-c", "import wash_hpc; print(wash_hpc.__version__)"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={"PYTHONPATH": str(tmp_path / "site")}
    )
    assert done.stdout == "0.1.0\n"
    assert (tmp_path / "site" / "bin" / "wash-hpc").exists()
