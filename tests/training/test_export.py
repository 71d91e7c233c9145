"""What a run leaves is a state dict like any other: torchvision loads it, and it is averaged with any other file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from safetensors.torch import load_file

from tests.support import final_weights, train
from wash_hpc.storage.weights import member_file


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two members of a torchvision network after two steps."""
    sizes = ["model.name=torchvision.resnet18", "data.image_size=32", "data.resize=32", "train.steps=2"]
    return train(tmp_path_factory.mktemp("runs"), "run", 2, *sizes)


@pytest.mark.parametrize("name", ["member-0000", "member-0001", "soup", "greedy_soup"])
def test_torchvision_loads_what_a_run_leaves(run, name):
    model = torchvision.models.resnet18(num_classes=4).eval()
    state = load_file(run / "members" / f"{name}.safetensors")
    model.load_state_dict(state, strict=True)
    assert model(torch.zeros(1, 3, 32, 32)).isfinite().all()
    assert all(tensor.dtype == model.state_dict()[key].dtype for key, tensor in state.items())


@pytest.mark.parametrize("name", ["member-0001", "soup"])
def test_timm_loads_what_a_run_leaves_and_says_the_same_of_an_image(run, name):
    model = timm.create_model("resnet18", num_classes=4).eval()
    model.load_state_dict(load_file(run / "members" / f"{name}.safetensors"), strict=True)
    other = torchvision.models.resnet18(num_classes=4).eval()
    other.load_state_dict(load_file(run / "members" / f"{name}.safetensors"))
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(model(image), other(image), atol=1e-5)
    path = run / "members" / f"{name}.safetensors"
    named = timm.create_model("resnet18", num_classes=4, checkpoint_path=str(path)).eval()
    assert torch.equal(named(image), model(image))


def test_the_members_of_a_run_and_a_file_of_torch_save_are_averaged_without_mpi(run, tmp_path):
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=4)
    torch.save({"epoch": 1, "model": model.state_dict()}, tmp_path / "other.pt")
    files = [str(member_file(run, 0)), str(member_file(run, 1)), str(tmp_path / "other.pt")]
    code = "import sys; sys.modules['mpi4py'] = None; from wash_hpc.__main__ import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "soup", *files, "--output", str(tmp_path / "soup.safetensors")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "mean of 3 files, 122 tensors" in done.stdout
    mean = load_file(tmp_path / "soup.safetensors")
    states = [*final_weights(run), model.state_dict()]
    for key, tensor in mean.items():
        if tensor.is_floating_point():
            first, second, third = (state[key].double() for state in states)
            assert torch.equal(tensor, ((first + second + third) / 3).float())
    model.load_state_dict(mean, strict=True)
