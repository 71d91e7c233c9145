"""The laptop's configurations on the real Fashion-MNIST, for a few steps."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import mpirun
from wash_hpc.storage.summary import read_summary

FILES = Path("/usr/share/datasets/fashion-mnist")  # where Debian's dataset-fashion-mnist puts them


@pytest.mark.fashion_mnist
@pytest.mark.skipif(not FILES.is_dir(), reason=f"{FILES} is absent: apt install dataset-fashion-mnist")
@pytest.mark.parametrize("recipe", ["resnet_small_wash", "mlp_wash", "mlp_independent"])
def test_the_fashion_mnist_configuration_trains_and_judges_all_ten_thousand_test_images(recipe, tmp_path):
    where = [f"run.dir={tmp_path}", "run.name=run", f"data.path={FILES}"]
    short = ["train.steps=20", "evaluate.statistics_images=512", "log.every_steps=10"]
    done = mpirun(2, "wash-hpc", "train", f"configs/fashion_mnist_{recipe}.yaml", *where, *short)
    assert done.returncode == 0, done.stderr
    summary = read_summary(tmp_path / "run")
    assert (summary.num_members, summary.steps, summary.samples_seen) == (2, 20, 1280)
    assert (summary.bytes_sent_per_member > 0) == (summary.method == "wash")
    assert summary.epochs == pytest.approx(20 / (58_800 // 64))  # 2 % of 60,000 are held out
    assert summary.mean_member_accuracy is not None
    assert (summary.mean_member_accuracy * 20_000) == pytest.approx(
        round(summary.mean_member_accuracy * 20_000), abs=1e-6
    )
