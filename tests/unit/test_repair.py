"""REPAIR: a soup's channels get the mean and spread of its members', in the members' own architecture."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wash_hpc.config import load_config
from wash_hpc.data import open_source
from wash_hpc.data.source import Batch, Shard
from wash_hpc.ensemble.batchnorm import recompute_statistics
from wash_hpc.ensemble.repair import hidden_layers, mean_of_channels, measure_channels, repair
from wash_hpc.models import build_model


def identity(tensor: Tensor) -> Tensor:
    return tensor


def outputs_of(model: nn.Module, layer: nn.Module, images: Tensor) -> Tensor:
    """What goes out of one layer, [values, C], the plain way."""
    seen: list[Tensor] = []
    handle = layer.register_forward_hook(lambda module, inputs, output: seen.append(output.double()))
    model.eval()
    with torch.no_grad():
        model(images)
    handle.remove()
    output = seen[0] if isinstance(layer, nn.Linear) else seen[0].movedim(1, -1)
    return output.reshape(-1, output.shape[-1])


def soup_of(members: Sequence[nn.Module]) -> nn.Module:
    soup = copy.deepcopy(members[0])
    with torch.no_grad():
        for mean, *values in zip(soup.parameters(), *(member.parameters() for member in members), strict=True):
            mean.copy_(torch.stack(list(values)).mean(dim=0))
    return soup


def permuted(model: nn.Module) -> nn.Module:
    """The same function with the hidden units in another order, which makes another point of weight space."""
    twin = copy.deepcopy(model)
    layers = [module for module in twin.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    with torch.no_grad():
        for before, after in pairwise(layers):
            order = torch.randperm(len(before.weight), generator=torch.Generator().manual_seed(1))
            before.weight.copy_(before.weight[order])
            before.bias.copy_(before.bias[order])
            after.weight.copy_(after.weight[:, order])
    return twin


def convolutional(seed: int) -> nn.Module:
    """As VGG, without normalisation."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )


def mlp(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return build_model("mlp", (3, 8, 8), 4, width=2)


def goal_of(members: Sequence[nn.Module], images: Tensor):
    return mean_of_channels([measure_channels(member, [images], identity) for member in members])


@pytest.mark.parametrize("make", [convolutional, mlp])
def test_repair_gives_a_soup_of_networks_permuted_apart_the_channel_statistics_of_its_members(make):
    members = [make(0), permuted(make(0))]
    images = torch.randn(64, 3, 8, 8)
    with torch.no_grad():
        assert torch.allclose(members[0].eval()(images), members[1].eval()(images), atol=1e-5)
    soup = soup_of(members)
    last = hidden_layers(soup)[-1]
    wanted = [outputs_of(member, hidden_layers(member)[-1], images) for member in members]
    std = torch.stack([output.std(dim=0, correction=0) for output in wanted]).mean(dim=0)
    assert bool((outputs_of(soup, last, images).std(dim=0, correction=0) < 0.9 * std).all())  # the collapse
    repair(soup, goal_of(members, images), lambda: [images], identity)
    for layer, *of_members in zip(*(hidden_layers(model) for model in (soup, *members)), strict=True):
        got = outputs_of(soup, layer, images)
        wanted = [outputs_of(model, own, images) for model, own in zip(members, of_members, strict=True)]
        mean = torch.stack([output.mean(dim=0) for output in wanted]).mean(dim=0)
        std = torch.stack([output.std(dim=0, correction=0) for output in wanted]).mean(dim=0)
        assert torch.allclose(got.mean(dim=0), mean, atol=1e-5)
        assert torch.allclose(got.std(dim=0, correction=0), std, rtol=1e-4)


def test_repair_improves_the_soup_of_independent_members():
    source = open_source(load_config(None, ["data.name=digits", "data.augment=false"]), torch.device("cpu"))

    def train(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        model = build_model("mlp", source.image_shape, source.num_classes, width=4)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for _, batch in zip(range(60), source.train(seed, Shard(), 64, 0), strict=False):
            optimizer.zero_grad()
            torch.autograd.backward(F.cross_entropy(model(batch.images), batch.labels))
            optimizer.step()
        return model

    test = next(source.evaluate("test", Shard(), 1000))

    def judge(model: nn.Module, batch: Batch) -> tuple[float, float]:
        with torch.no_grad():
            logits = model.eval()(batch.images)
        return float((logits.argmax(dim=1) == batch.labels).double().mean()), float(
            F.cross_entropy(logits, batch.labels)
        )

    members = [train(seed) for seed in range(3)]
    soup = soup_of(members)
    accuracy, loss = judge(soup, test)
    images = [batch.images for batch in source.statistics(1000, Shard(), 100)]
    goal = mean_of_channels([measure_channels(member, images, identity) for member in members])
    repair(soup, goal, lambda: images, identity)
    repaired_accuracy, repaired_loss = judge(soup, test)
    assert repaired_accuracy > accuracy + 0.05
    assert repaired_loss < 0.5 * loss


def test_channel_statistics_are_those_of_all_images_however_they_are_shared_out():
    model = convolutional(0)
    images = torch.randn(20, 3, 8, 8)
    whole = measure_channels(model, [images], identity)
    expected = [outputs_of(model, layer, images) for layer in hidden_layers(model)]
    assert torch.allclose(whole.mean, torch.cat([output.mean(dim=0) for output in expected]), atol=1e-6)
    assert torch.allclose(whole.std, torch.cat([output.std(dim=0, correction=0) for output in expected]), rtol=1e-5)

    sums: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        sums.append(tensor.clone())
        return tensor

    for part in ([images[:3], images[3:5]], [images[5:]], []):  # the third rank has none
        measure_channels(model, part, keep)
    shared = measure_channels(model, [], lambda tensor: torch.stack(sums).sum(dim=0))
    assert torch.allclose(shared.mean, whole.mean, atol=1e-6)
    assert torch.allclose(shared.std, whole.std, rtol=1e-5)


def test_a_soup_of_equal_members_is_left_as_it_is():
    model = convolutional(0)
    images = torch.randn(32, 3, 8, 8)
    soup = copy.deepcopy(model)
    repair(soup, goal_of([model, model], images), lambda: [images], identity)
    for before, after in zip(model.parameters(), soup.parameters(), strict=True):
        assert torch.allclose(before, after, rtol=1e-4, atol=1e-5)


def test_for_a_network_with_batch_normalisation_repair_comes_to_recomputing_its_statistics():
    members = []
    images = torch.randn(64, 3, 8, 8)
    for seed in range(2):
        torch.manual_seed(seed)
        member = build_model("resnet_small", (3, 8, 8), 4, width=4)
        recompute_statistics(member, [images], identity)
        members.append(member)
    repaired, recomputed = soup_of(members), soup_of(members)
    repair(repaired, goal_of(members, images), lambda: [images], identity)
    recompute_statistics(recomputed, [images], identity)
    assert repaired.state_dict().keys() == recomputed.state_dict().keys()
    for key, expected in recomputed.state_dict().items():
        if not key.endswith("num_batches_tracked"):
            assert torch.equal(repaired.state_dict()[key], expected), key
    assert not repaired.training


def test_only_layers_that_batch_normalisation_does_not_follow_are_repaired():
    def build() -> nn.Module:
        normalised = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten()]
        return nn.Sequential(*normalised, nn.Linear(288, 16), nn.ReLU(), nn.Linear(16, 4))

    images = torch.randn(64, 3, 8, 8)
    members = [build() for _ in range(2)]
    for member in members:
        recompute_statistics(member, [images], identity)
    goal = goal_of(members, images)
    assert torch.isnan(goal.mean[:8]).all()
    assert torch.isfinite(goal.mean[8:]).all()
    soup, repaired = soup_of(members), soup_of(members)
    repair(repaired, goal, lambda: [images], identity)
    assert torch.equal(repaired[0].weight, soup[0].weight)
    assert not torch.equal(repaired[4].weight, soup[4].weight)


def test_layers_without_a_bias_are_rescaled_and_layers_that_are_never_called_stay_as_they_are():
    class Attentive(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(6, 6, bias=False)
            self.attention = nn.MultiheadAttention(6, 2, batch_first=True)  # uses its out_proj without calling it
            self.head = nn.Linear(6, 3)

        def forward(self, tokens: Tensor) -> Tensor:
            inner = self.inner(tokens)
            attended, _ = self.attention(inner, inner, inner, need_weights=False)
            logits: Tensor = self.head(attended.mean(dim=1))
            return logits

    torch.manual_seed(0)
    members = [Attentive(), Attentive()]
    tokens = torch.randn(16, 5, 6)
    soup = soup_of(members)
    before = copy.deepcopy(soup)
    goal = goal_of(members, tokens)
    repair(soup, goal, lambda: [tokens], identity)
    got = measure_channels(soup, [tokens], identity)
    assert torch.allclose(got.std[:6], goal.std[:6], rtol=1e-4)
    assert torch.equal(soup.attention.out_proj.weight, before.attention.out_proj.weight)
    assert torch.equal(soup.head.weight, before.head.weight)
    assert all(bool(parameter.isfinite().all()) for parameter in soup.parameters())


@pytest.mark.parametrize("name", ["language_model", "vit_small"])
def test_repair_of_transformers_reaches_its_goal_and_leaves_the_soup_of_equal_members_alone(name):
    shape, num_classes = ((12,), 256) if name == "language_model" else ((3, 8, 8), 4)
    images = torch.randint(256, (32, *shape)) if name == "language_model" else torch.randn(32, *shape)

    def made(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        model = build_model(name, shape, num_classes, width=2)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))  # as far from initialisation as training would go
        return model

    members = [made(0), made(1)]
    soup, same = soup_of(members), copy.deepcopy(members[0])
    goal = goal_of(members, images)
    repair(soup, goal, lambda: [images], identity)
    got = measure_channels(soup, [images], identity)
    called = goal.mean.isfinite()  # torch's attention uses its last layer's weight without calling the layer
    assert bool(called.all()) == (name == "language_model")
    assert torch.equal(got.mean.isfinite(), called)
    assert torch.allclose(got.mean[called], goal.mean[called], atol=1e-4)
    assert torch.allclose(got.std[called], goal.std[called], rtol=1e-3)
    assert all(bool(parameter.isfinite().all()) for parameter in soup.parameters())
    repair(same, goal_of([members[0], members[0]], images), lambda: [images], identity)
    with torch.no_grad():
        assert torch.allclose(same(images), members[0](images), atol=1e-3)


def test_a_channel_that_is_dead_in_the_soup_is_not_blown_up():
    members = [convolutional(0), convolutional(0)]
    with torch.no_grad():
        for member, sign in zip(members, (1, -1), strict=True):
            member[0].weight[0] *= sign  # cancels in the average
    soup = soup_of(members)
    images = torch.randn(16, 3, 8, 8)
    repair(soup, goal_of(members, images), lambda: [images], identity)
    assert float(soup[0].weight[0].detach().abs().max()) < 1e-6
    assert all(bool(parameter.isfinite().all()) for parameter in soup.parameters())
