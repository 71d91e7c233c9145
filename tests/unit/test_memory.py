"""What a step saves: counted without memory, for real, and by a formula; and how many ranks fit on a GPU."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.unit.test_predict import plan
from wash_hpc.ensemble.flat import Flat
from wash_hpc.memory import CONTEXT_BYTES, Activations, count_activations, make_batch, step_memory
from wash_hpc.models import build_model
from wash_hpc.plan_report import describe

GB = 10**9


def bytes_really_saved(model: nn.Module, batch: tuple[Tensor, Tensor], precision: str) -> int:
    """Of a real forward and loss: the memory behind all that backward will use, and the batch, by address."""
    images, labels = batch
    own = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    sizes, kept = {}, []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        F.cross_entropy(model(images).flatten(end_dim=-2), labels.flatten())
    for tensor in batch:
        pack(tensor)
    return sum(size for address, size in sizes.items() if address not in own)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("name", "shape", "classes"),
    [
        ("mlp", (1, 9, 9), 5),
        ("resnet_small", (3, 16, 16), 10),
        ("resnet_tiny", (3, 16, 16), 10),
        ("vgg_small", (3, 16, 16), 10),
        ("vit_small", (3, 16, 16), 10),
        ("language_model", (16,), 256),
        ("torchvision.resnet18", (3, 64, 64), 7),
        ("torchvision.regnet_y_400mf", (3, 64, 64), 7),  # cannot be made without memory
    ],
)
def test_what_is_counted_without_memory_is_what_a_real_forward_saves(name, shape, classes, precision):
    model = build_model(name, shape, classes, 4)
    Flat(model)  # parameters become views of one vector, as in a run
    # Without memory torch takes the mean and the deviation of each channel of a bf16 batch for bf16; they are float32.
    channels = sum(module.num_features for module in model.modules() if isinstance(module, nn.BatchNorm2d))
    missed = 2 * channels * 2 * (precision == "bf16")
    counted = count_activations(model, shape, 6, precision)
    assert counted == Activations(6, bytes_really_saved(model, make_batch(shape, 6), precision) - missed)


def test_a_network_of_meta_tensors_counts_like_a_real_one():
    with torch.device("meta"):
        model = build_model("resnet_small", (3, 16, 16), 10, 4)
    real = build_model("resnet_small", (3, 16, 16), 10, 4)
    assert count_activations(model, (3, 16, 16), 6) == count_activations(real, (3, 16, 16), 6)


def test_an_mlp_saves_what_the_formula_says():
    """Images and labels; two hidden layers after ReLU, which backward uses twice; the logarithms of the softmax."""
    batch, inputs, hidden, classes = 32, 3 * 8 * 8, 16 * 4, 10
    counted = count_activations(build_model("mlp", (3, 8, 8), classes, 4), (3, 8, 8), batch)
    total_weight = 4  # of cross_entropy's mean: the number of labels, one float32
    assert counted.num_bytes == 4 * batch * (inputs + 2 * hidden + classes) + 8 * batch + total_weight


def test_activations_grow_with_the_batch_and_parameters_are_not_among_them():
    model = build_model("torchvision.resnet18", (3, 64, 64), 1000)
    one, two, four = (count_activations(model, (3, 64, 64), number).num_bytes for number in (1, 2, 4))
    assert one is not None
    assert two is not None
    assert four is not None
    assert four - two == 2 * (two - one)
    constant = 2 * one - two  # statistics of batch normalisation, which do not depend on the batch
    assert 0 < constant < 100_000 < 4 * sum(parameter.numel() for parameter in model.parameters())


class Undecided(nn.Module):
    """Looks at a value to decide what to do, which a tensor without memory cannot answer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * 8 * 8, 4)

    def forward(self, images: Tensor) -> Tensor:
        logits = self.layer(images.flatten(1))
        return logits if logits.sum() > 0 else -logits


def test_a_network_that_cannot_be_tried_without_memory_is_left_out_with_the_reason(monkeypatch):
    counted = count_activations(Undecided(), (3, 8, 8), 4)
    assert counted.num_bytes is None
    assert counted.left_out.startswith("DataDependentOutputException: aten._local_scalar_dense")
    monkeypatch.setattr("wash_hpc.predict.count_activations", lambda *_: counted)
    it = plan()
    assert (it.step_memory.total_bytes, it.step_memory.ranks_on_gpu) == (None, {})
    assert "activations are left out: the network cannot be tried without memory (DataDep" in describe(
        it, as_json=False
    )


def test_ranks_fit_by_what_they_keep_save_and_what_cuda_takes():
    memory = step_memory(2 * GB, Activations(64, 8 * GB - CONTEXT_BYTES), [40e9, 9.99e9, 141e9])
    assert memory.total_bytes == 10 * GB - CONTEXT_BYTES
    assert memory.ranks_on_gpu == {"40": 4, "9.99": 0, "141": 14}


def test_a_plan_says_activations_the_whole_and_how_many_ranks_fit(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # else this machine's own GPU is said
    it = plan("data.batch_size=4096", "data.num_images=8192")
    activations = it.step_memory.activations
    assert activations.num_images == 4096
    assert it.step_memory.total_bytes == it.memory_bytes + (activations.num_bytes or 0)
    fits = {size: int(float(size) * GB // (it.step_memory.total_bytes + CONTEXT_BYTES)) for size in ("40", "80", "141")}
    assert it.step_memory.ranks_on_gpu == fits
    text = describe(it, as_json=False)
    assert f"on a GPU of 40 GB {fits['40']} ranks, of 80 GB {fits['80']} ranks, of 141 GB {fits['141']} ranks;" in text
    assert "of it a batch of 4096 and its activations" in text
    assert json.loads(describe(it, as_json=True))["step_memory"]["ranks_on_gpu"] == fits


def test_the_replicas_of_data_parallel_training_have_a_part_of_the_batch_each():
    assert plan("method.name=data_parallel", members=4).step_memory.activations.num_images == 2
    assert plan("method.name=independent", members=4).step_memory.activations.num_images == 8
    assert plan("train.accumulate=4", members=4).step_memory.activations.num_images == 2
