"""What a run needs of its ranks, devices and batches."""

from __future__ import annotations

import pytest
import torch

from tests.support import tiny_config
from wash_hpc.errors import ConfigError
from wash_hpc.models import build_model
from wash_hpc.requirements import require_divisible_batch, require_step_options, require_whole_statistics

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def test_a_cuda_graph_needs_a_gpu():
    config = tiny_config("train.cuda_graph=true")
    with pytest.raises(ConfigError, match=r"train.cuda_graph=true: this rank has no GPU"):
        require_step_options(config, CPU)
    require_step_options(config, GPU)


def test_compiling_needs_a_compiler(monkeypatch, tmp_path):
    monkeypatch.delenv("CXX", raising=False)
    config = tiny_config("train.compile=true")
    require_step_options(config, CPU)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"train.compile=true: torch.compile needs a C\+\+ compiler"):
        require_step_options(config, CPU)


def test_a_graph_is_not_recorded_with_a_scale_that_decides_at_every_step():
    with pytest.raises(ConfigError, match=r"train.cuda_graph=True: expected false with train.precision=fp16"):
        tiny_config("train.cuda_graph=true", "train.precision=fp16")


@pytest.mark.parametrize(
    ("keys", "num_replicas", "says"),
    [
        (["data.batch_size=9"], 2, r"data.batch_size=9: expected a multiple of the 2 replicas"),
        (["train.accumulate=3"], 1, r"train.accumulate=3: data.batch_size=8 of 1 replica cannot .* a multiple of 3"),
        (["train.accumulate=3"], 2, r"of 2 replicas cannot be cut into so many equal parts; expected a multiple of 6"),
        (
            ["data.batch_size=6", "train.mixup=1"],
            2,
            r"data.batch_size=6: expected a multiple of 4, because train.mixup",
        ),
    ],
)
def test_a_batch_that_cannot_be_shared_out_is_refused(keys, num_replicas, says):
    with pytest.raises(ConfigError, match=says):
        require_divisible_batch(tiny_config(*keys), num_replicas)


def test_parts_of_one_image_are_refused_where_statistics_are_measured_on_them():
    config = tiny_config("train.accumulate=4")
    normalised, plain = (build_model(name, (3, 8, 8), 4, 4) for name in ("resnet_small", "mlp"))
    require_whole_statistics(config, 1, normalised)
    with pytest.raises(ConfigError, match=r"train.accumulate=4: data.batch_size=8 would come in parts of one image"):
        require_whole_statistics(config, 2, normalised)
    require_whole_statistics(config, 2, plain)
