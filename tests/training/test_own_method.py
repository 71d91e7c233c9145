"""The method of docs/methods.md, as its reader would run it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import torch

from tests.support import TINY, final_weights, mpirun
from wash_hpc.storage.summary import read_summary


def test_the_method_of_ones_own_in_the_documentation_runs_and_does_what_it_says(tmp_path):
    code = re.search(r"```python\n(.*?)```", Path("docs/methods.md").read_text(), re.DOTALL)
    assert code is not None
    body = [line for line in code[1].splitlines() if line.strip()]
    assert len(body) - 4 <= 10, "ten lines, besides the imports and the last"
    file = tmp_path / "half_way.py"
    file.write_text(code[1])
    config = tmp_path / "c.yaml"
    config.write_text("{}\n")
    # Nothing is learnt: after three times half of the way, members are an eighth as far from their mean.
    still = ["optimizer.lr=0", "optimizer.min_lr=0", "model.name=mlp", "data.batch_size=8"]
    distances = {}
    for name, keys in {"independent": [], "half_way": ["method.every=2"]}.items():
        where = [f"run.dir={tmp_path}", f"run.name={name}", "train.steps=7", f"method.name={name}"]
        done = mpirun(3, sys.executable, str(file), "train", str(config), *TINY, *still, *where, *keys)
        assert done.returncode == 0, done.stderr
        states = final_weights(tmp_path / name)
        weights = [torch.cat([tensor.flatten() for tensor in state.values()]) for state in states]
        distances[name] = sum(float((one - sum(weights) / 3).norm()) for one in weights)
    assert abs(distances["half_way"] / distances["independent"] - 1 / 8) < 1e-4
    num_parameters = read_summary(tmp_path / "half_way").num_parameters
    assert abs(read_summary(tmp_path / "half_way").bytes_sent_per_member - 3 * 4 * 4 / 3 * num_parameters) < 20
    refused = mpirun(2, sys.executable, str(file), "train", str(config), *TINY, "method.name=half_way", "method.p=0.5")
    assert refused.returncode == 2
    assert "method.name=half_way does not know this option; it knows every, start, stop" in refused.stderr
