"""A small set of real JPEG files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def digits_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """scikit-learn's digits as an image folder, made by the tool that users run."""
    folder = tmp_path_factory.mktemp("data") / "digits"
    subprocess.run([sys.executable, "tools/make_dataset.py", "digits", str(folder)], check=True)
    return folder
