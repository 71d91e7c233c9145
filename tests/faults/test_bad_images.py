"""An image that is found to be damaged in mid-run, by one rank alone, through DALI."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.faulty import run
from wash_hpc.storage.kept import last_manifest
from wash_hpc.storage.metrics import read_metrics


@pytest.mark.slow
def test_an_image_that_cannot_be_decoded_ends_the_run_in_which_it_is_met_and_is_named_once(tmp_path: Path) -> None:
    images = tmp_path / "digits"
    subprocess.run([sys.executable, "tools/make_dataset.py", "digits", str(images)], check=True)
    # After the checks of the start, and too few to be met at once.
    damage = (
        "[path.write_bytes(path.read_bytes()[:-30]) "
        f"for path in sorted(Path({str(images / 'train')!r}).glob('*/*'))[5::15]]"
    )
    data = ["data.name=image_folder", f"data.path={images}", "data.image_size=16", "data.resize=16"]
    done = run(tmp_path, "run", [(0, 1, damage)], *data, "train.steps=60", "checkpoint.every_steps=1")
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("wash_hpc: error:") == 1, done.stderr
    assert f"{images}/train/" in done.stderr
    assert "this image cannot be decoded; is the file complete?" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run" / "summary.json").exists()
    manifest = last_manifest(tmp_path / "run")
    records = read_metrics(tmp_path / "run").step.tolist()
    assert (0 if manifest is None else manifest.step) >= len(records) - 1
