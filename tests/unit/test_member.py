"""A member's training step against torch's own way of doing the same."""

from __future__ import annotations

import copy
import math
from itertools import pairwise
from typing import get_args, get_type_hints

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.support import AloneReducer, tiny_config
from wash_hpc.config import OptimizerConfig
from wash_hpc.data.regularize import Mix, mix_pairs, regularization_of
from wash_hpc.data.source import Batch
from wash_hpc.member import Member, learning_rate
from wash_hpc.models import build_model


def batch(step: int) -> Batch:
    generator = torch.Generator().manual_seed(step)
    return Batch(torch.randn(8, 3, 8, 8, generator=generator), torch.randint(4, (8,), generator=generator))


OPTIMIZERS = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=1e-4),
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.05, weight_decay=1e-4),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.05, weight_decay=1e-4),
}


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_steps_over_the_flat_vector_equal_torchs_steps_over_separate_tensors_bit_for_bit(name):
    torch.manual_seed(0)
    model = build_model("resnet_small", (3, 8, 8), 4, 4)
    twin = copy.deepcopy(model)
    config = tiny_config(f"optimizer.name={name}", "optimizer.schedule=constant")
    member = Member(model, config, member=0, replica=0, num_steps=5, reducer=AloneReducer())
    optimizer = OPTIMIZERS[name](twin.parameters())
    for step in range(5):
        member.step(batch(step), step)
        optimizer.zero_grad()
        F.cross_entropy(twin(batch(step).images), batch(step).labels).backward()
        optimizer.step()
    assert torch.equal(member.flat.values, torch.cat([p.detach().flatten() for p in twin.parameters()]))
    first = "momentum_buffer" if name == "sgd" else "exp_avg"
    assert torch.equal(member.flat.rows[1], torch.cat([optimizer.state[p][first].flatten() for p in twin.parameters()]))


@pytest.mark.parametrize("name", get_args(get_type_hints(OptimizerConfig)["name"]))
def test_all_that_an_optimizer_keeps_for_each_parameter_lies_where_an_exchange_reaches_it(name):
    member = Member(build_model("mlp", (3, 8, 8), 4, 2), tiny_config(f"optimizer.name={name}"), 0, 0, 5, AloneReducer())
    for step in range(2):
        member.step(batch(step), step)
    kept = [tensor for state in member._optimizer.state.values() for tensor in state.values() if tensor.numel() > 1]
    places = [tensor.data_ptr() for tensor in kept]
    assert places == [row.data_ptr() for row in member.flat.rows[1:]]
    assert all(tensor.shape == member.flat.values.shape for tensor in kept)


def test_gradients_are_handed_to_the_reducer_while_backward_goes_on():
    """The last layer's gradient is given away when the first layer's is not there yet."""
    first_layer_was_zero: dict[str, bool] = {}

    class Recording(AloneReducer):
        def start_mean_(self, tensor: Tensor, name: str) -> None:
            first = member.flat.layers[0]
            first_layer_was_zero[name] = not member.flat.gradients[first.start : first.start + first.size].any()

    member = Member(build_model("resnet_small", (3, 8, 8), 4, 4), tiny_config(), 0, 0, 5, Recording())
    member.step(batch(0), 0)
    assert next(iter(first_layer_was_zero)).startswith("classifier")
    assert list(first_layer_was_zero)[-1] == member.flat.layers[0].name
    assert set(first_layer_was_zero) == {layer.name for layer in member.flat.layers}
    assert [name for name, was_zero in first_layer_was_zero.items() if not was_zero] == [member.flat.layers[0].name]


def test_progress_counts_loss_and_hits_and_starts_anew():
    member = Member(build_model("mlp", (3, 8, 8), 4, 2), tiny_config(), 0, 0, 5, AloneReducer())
    expected = [member.model(batch(step).images).detach() for step in range(1)]
    member.step(batch(0), 0)
    progress = member.read_progress()
    assert progress.num_images == 8
    assert math.isclose(progress.loss_sum / 8, float(F.cross_entropy(expected[0], batch(0).labels)), rel_tol=1e-5)
    assert progress.num_correct == int((expected[0].argmax(dim=1) == batch(0).labels).sum())
    assert member.read_progress().num_images == 0


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_member_learns_the_shares_of_mixed_images_with_its_own_label_smoothing(precision):
    config = tiny_config("train.label_smoothing=[0,0.1,0.3]", "run.seed=3", f"train.precision={precision}")
    mixed = mix_pairs(batch(0), Mix(0.7, None), num_classes=4)
    losses = {}
    for number in range(3):
        torch.manual_seed(0)
        member = Member(build_model("mlp", (3, 8, 8), 4, 2), config, number, 0, 5, AloneReducer())
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"), torch.no_grad():
            logits = member.model(mixed.images).float()
        member.step(mixed, 0)
        progress = member.read_progress()
        assert mixed.shares is not None
        smoothing = regularization_of(config, number).label_smoothing
        targets = (1 - smoothing) * mixed.shares + smoothing / 4
        losses[smoothing] = -(targets * logits.log_softmax(dim=1)).sum(dim=1).mean()
        assert math.isclose(progress.loss_sum / 8, losses[smoothing], rel_tol=1e-2 if precision == "bf16" else 1e-5)
        assert progress.num_correct == int((logits.argmax(dim=1) == mixed.labels).sum())
    assert len(set(map(float, losses.values()))) == 3


def test_dropout_depends_on_seed_member_and_step_alone():
    def losses(member_number: int, steps: list[int]) -> list[float]:
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(0.5), torch.nn.Linear(192, 4))
        member = Member(model, tiny_config("optimizer.lr=0", "optimizer.min_lr=0"), member_number, 0, 5, AloneReducer())
        result = []
        for step in steps:
            member.step(batch(0), step)
            result.append(member.read_progress().loss_sum)
        return result

    assert losses(0, [0, 1, 2])[1:] == losses(0, [1, 2])
    assert len(set(losses(0, [0, 1, 2]))) == 3
    assert losses(0, [0]) != losses(1, [0])


def test_learning_rate_warms_up_and_follows_a_cosine_to_its_end():
    config = tiny_config("optimizer.lr=0.1", "optimizer.min_lr=0.001", "optimizer.warmup_steps=4").optimizer
    rates = [learning_rate(config, step, 104) for step in range(105)]
    assert rates[:4] == pytest.approx([0.025, 0.05, 0.075, 0.1])
    assert rates[4] == pytest.approx(0.1)
    assert rates[54] == pytest.approx((0.1 + 0.001) / 2)
    assert rates[104] == pytest.approx(0.001)
    assert all(a >= b for a, b in pairwise(rates[4:]))
