"""Flat parameters, soups, statistics and distances: everything that is done with members, without communication."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from tests.support import tiny_config
from wash_hpc.config import load_config
from wash_hpc.ensemble.batchnorm import recompute_statistics
from wash_hpc.ensemble.consensus import consensus_distance_per_layer
from wash_hpc.ensemble.flat import Flat, Layer, get_statistics, merge_layers, set_statistics
from wash_hpc.ensemble.soup import RunningSoup, Weights, greedy_soup
from wash_hpc.errors import ConfigError
from wash_hpc.methods.drawing import make_drawer
from wash_hpc.models import build_model


def small_model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build_model("resnet_small", (3, 8, 8), 4, width=4)


def identity(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def test_flat_parameters_are_views_in_one_order_and_the_model_stays_the_same():
    model = small_model()
    twin = copy.deepcopy(model)
    flat = Flat(model, num_state_rows=2)
    assert flat.rows.shape == (3, sum(p.numel() for p in twin.parameters()))
    images = torch.randn(2, 3, 8, 8)
    model.eval(), twin.eval()
    assert torch.equal(model(images), twin(images))
    for layer, (name, parameter) in zip(flat.layers, twin.named_parameters(), strict=True):
        assert layer.name == name
        assert torch.equal(flat.values[layer.start : layer.start + layer.size], parameter.flatten())
    with torch.no_grad():
        flat.values.fill_(0.5)
    assert all(bool((p == 0.5).all()) for p in model.parameters())


def test_each_row_is_seen_as_tensors_of_the_parameters_shapes():
    model = small_model()
    flat = Flat(model, num_state_rows=1)
    for view, parameter in zip(flat.views(0), model.parameters(), strict=True):
        assert view.data_ptr() == parameter.data_ptr()
        assert view.shape == parameter.shape
    for number, view in enumerate(flat.views(1)):
        view.fill_(number)
    numbers = [torch.full((layer.size,), float(number)) for number, layer in enumerate(flat.layers)]
    assert torch.equal(flat.rows[1], torch.cat(numbers))


def test_layers_are_tensors_or_the_modules_that_hold_them():
    flat = Flat(small_model())
    modules = merge_layers(flat.layers, "module")
    assert merge_layers(flat.layers, "tensor") == flat.layers
    assert sum(layer.size for layer in modules) == flat.values.numel()
    assert modules[-1].name == "classifier"
    assert modules[-1].size == 16 * 4 + 4
    assert len(modules) < len(flat.layers)


RESNET18 = ["conv1", "bn1", *(f"layer{stage}.{block}" for stage in range(1, 5) for block in range(2)), "fc"]
RESNET50 = [f"layer{stage}.{block}" for stage, blocks in enumerate((3, 4, 6, 3), 1) for block in range(blocks)]
VIT = ["class_token", "conv_proj", "encoder", *(f"encoder.layers.encoder_layer_{number}" for number in range(6))]
BLOCKS = {
    "resnet18": ((3, 32, 32), RESNET18),
    "torchvision.resnet50": ((3, 32, 32), ["conv1", "bn1", *RESNET50, "fc"]),
    "torchvision.vgg11_bn": ((3, 32, 32), None),
    "vgg16_bn": ((3, 32, 32), None),
    "resnet_small": ((3, 8, 8), ["stem.0", "stem.1", "stages.0", "stages.1", "stages.2", "classifier"]),
    "vgg_small": ((3, 8, 8), None),
    "mlp": ((3, 8, 8), ["1", "3", "5"]),
    "vit_small": ((3, 8, 8), [*VIT, "encoder.ln", "heads.head"]),
    "language_model": ((16,), ["tokens", "positions", *(f"blocks.{number}" for number in range(4)), "norm", "head"]),
}


@pytest.mark.parametrize("name", list(BLOCKS))
def test_blocks_are_whole_and_in_the_order_in_which_the_network_calls_them(name):
    shape, expected = BLOCKS[name]
    called: list[str] = []
    with torch.device("meta"):
        model = build_model(name, shape, 256 if len(shape) == 1 else 10, width=2)
        flat = Flat(model)
        for path, module in model.named_modules():
            if path and next(module.parameters(recurse=False), None) is not None:
                module.register_forward_pre_hook(lambda module, inputs, path=path: called.append(path))
        model.eval()
        model(torch.zeros(1, *shape, dtype=torch.int64 if len(shape) == 1 else None))
    blocks = merge_layers(flat.layers, "block")
    names = [block.name for block in blocks]
    assert names == (expected or list(dict.fromkeys(names)))
    assert [block.start for block in blocks] == [0, *(block.start + block.size for block in blocks[:-1])]
    assert blocks[-1].start + blocks[-1].size == flat.values.numel()
    block_of = {path: merge_layers([Layer(f"{path}.weight", 0, 1)], "block")[0].name for path in called}
    assert [name for name in names if name != "class_token"] == list(dict.fromkeys(block_of[path] for path in called))


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("layer1.0.conv1.weight", "layer1.0"),
        ("encoder.layers.encoder_layer_3.mlp.0.bias", "encoder.layers.encoder_layer_3"),
        ("blocks.2.expand.weight", "blocks.2"),
        ("features.4.weight", "features.4"),
        ("features.4.1.block.0.weight", "features.4.1"),
        ("lstm.weight_ih_l0", "lstm"),
        ("classifier.weight", "classifier"),
        ("class_token", "class_token"),
        ("0.12.weight", "0.12"),
    ],
)
def test_the_name_of_a_block_ends_with_its_number(name, block):
    assert merge_layers([Layer(name, 0, 3)], "block") == [Layer(block, 0, 3)]


def test_a_schedule_by_blocks_gives_all_of_a_block_the_same_p():
    model = build_model("language_model", (16,), 256, width=2)
    drawer = make_drawer(tiny_config("method.layer=block", "method.p=0.7"), Flat(model), 3)
    assert drawer.layer_sizes[2:6].tolist() == [sum(p.numel() for p in model.blocks[0].parameters())] * 4
    assert drawer.probabilities.tolist() == pytest.approx([0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0])


def test_a_model_without_trainable_parameters_or_of_two_dtypes_is_refused():
    with pytest.raises(ConfigError, match="no trainable parameters"):
        Flat(nn.Flatten())
    with pytest.raises(ConfigError, match=r"float16, torch\.float32"):
        Flat(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).half()))


def test_statistics_go_out_and_back_in_and_leave_parameters_alone():
    model = small_model()
    model(torch.randn(8, 3, 8, 8))
    statistics = get_statistics(model)
    other = small_model()
    before = [p.clone() for p in other.parameters()]
    set_statistics(other, statistics)
    assert torch.equal(get_statistics(other), statistics)
    assert all(torch.equal(a, b) for a, b in zip(before, other.parameters(), strict=True))
    assert get_statistics(build_model("mlp", (3, 8, 8), 4, 1)).numel() == 0


def test_uniform_soup_is_the_mean():
    members = [Weights(torch.randn(10), torch.randn(3)) for _ in range(3)]
    soup = RunningSoup()
    for weights in members:
        soup = soup.with_one_more(weights)
    soup = soup.weights()
    mean = torch.stack([weights.values.double() for weights in members]).mean(dim=0)
    assert torch.equal(soup.values, mean.float())
    assert torch.allclose(soup.statistics, torch.stack([weights.statistics for weights in members]).mean(dim=0))


def test_greedy_soup_takes_the_best_first_and_only_what_strictly_helps():
    numbers = {0: 1.0, 1: 3.0, 2: -5.0, 3: 2.0}

    def fetch(member: int) -> Weights:
        return Weights(torch.tensor([numbers[member]]), torch.zeros(0))

    chosen, soup = greedy_soup([0, 1, 2, 3], fetch, lambda weights: -abs(float(weights.values) - 2.0))
    assert chosen == [0, 1]  # 1, then (1 + 3) / 2 = 2 is best; neither -5 nor an equal 2 is an improvement
    assert float(soup.values) == 2.0


def test_recomputed_statistics_equal_torchs_own_for_one_process_and_equal_batches():
    images = [torch.randn(8, 3, 8, 8) * 3 + 1 for _ in range(4)]
    ours, theirs = small_model(), small_model()
    recompute_statistics(ours, images, identity)
    torch.optim.swa_utils.update_bn(images, theirs)
    assert torch.allclose(get_statistics(ours), get_statistics(theirs), rtol=1e-5, atol=1e-6)
    assert not ours.training


def test_recomputed_statistics_are_the_same_however_the_batches_are_shared_out():
    images = [torch.randn(size, 3, 8, 8) for size in (8, 4, 2, 8)]
    whole = small_model()
    recompute_statistics(whole, images, identity)
    sums: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        sums.append(tensor.clone())
        return tensor

    for part in (images[:1], images[1:], []):  # the third rank has none
        recompute_statistics(small_model(), part, keep)
    shared = small_model()
    recompute_statistics(shared, [], lambda tensor: tensor.copy_(torch.stack(sums).sum(dim=0)))
    assert torch.allclose(get_statistics(shared), get_statistics(whole), rtol=1e-6)


def test_consensus_distance_is_the_root_mean_square_distance_to_the_mean():
    members = torch.randn(3, 78, dtype=torch.float64)
    flat = Flat(build_model("mlp", (1, 2, 2), 2, 1))
    first = flat.layers[0]
    layers = [first, Layer("rest", first.size, 78 - first.size)]
    asked: list[int] = []

    def mean_over_members(tensor: torch.Tensor) -> torch.Tensor:
        """What three ranks would get: the mean of the vectors, then the mean of their squared distances."""
        asked.append(tensor.numel())
        if tensor.numel() == 1:  # the share of members that are finite
            return tensor
        if tensor.numel() == 78:
            return members.mean(dim=0)
        squares = (members - members.mean(dim=0)).square()
        return torch.stack([squares[:, a.start : a.start + a.size].sum(dim=1).mean() for a in layers])

    per_layer = consensus_distance_per_layer(members[0], layers, mean_over_members)
    expected = (members - members.mean(dim=0)).square().sum(dim=1).mean().sqrt()
    assert torch.allclose(per_layer.square().sum().sqrt(), expected)
    assert asked == [1, 78, 2]


def test_consensus_distance_leaves_out_members_that_are_not_finite():
    members = torch.randn(3, 6, dtype=torch.float64)
    members[1, 4] = math.nan
    # What the reductions of three members give: the mean of finite flags, of the finite members, of their squares.
    healthy = members[[0, 2]]
    consensus = healthy.mean(dim=0)
    means = [
        torch.tensor([2 / 3], dtype=torch.float64),
        healthy.sum(dim=0) / 3,
        (healthy - consensus).square().sum().reshape(1) / 3,
    ]
    for member in members:
        given = iter(means)
        distance = consensus_distance_per_layer(
            member, [Layer("all", 0, 6)], lambda _, given=given: next(given).clone()
        )
        expected = (healthy - consensus).square().sum(dim=1).mean().sqrt()
        assert torch.allclose(distance, expected)


@pytest.mark.parametrize(
    "name", ["torchvision.resnet18", "torchvision.mobilenet_v3_small", "resnet18", "vgg16_bn", "vgg_small", "mlp"]
)
def test_networks_give_logits_of_the_images_they_are_made_for(name):
    size = 64 if name.startswith("torchvision") else 32
    model = build_model(name, (3, size, size), 7)
    assert model(torch.zeros(2, 3, size, size)).shape == (2, 7)


def test_the_small_networks_have_fewer_than_a_hundred_thousand_parameters():
    sizes = {
        name: sum(p.numel() for p in build_model(name, (1, 28, 28), 10, width).parameters())
        for name, width in (("resnet_small", 16), ("resnet_tiny", 16), ("vgg_small", 8))
    }
    assert sizes == {"resnet_small": 77_754, "resnet_tiny": 77_754, "vgg_small": 18_482}


def test_the_tiny_residual_network_is_the_small_one_on_half_the_height_and_width():
    small, tiny = (build_model(name, (1, 28, 28), 10, 4) for name in ("resnet_small", "resnet_tiny"))
    tiny.load_state_dict(small.state_dict())
    images = torch.rand(2, 1, 28, 28)
    assert [tuple(model.stem(images).shape) for model in (small, tiny)] == [(2, 4, 28, 28), (2, 4, 14, 14)]


def test_a_network_that_cannot_take_the_images_is_refused_and_so_is_an_unknown_name():
    with pytest.raises(ConfigError, match="cannot take images of shape"):
        build_model("torchvision.vit_b_16", (3, 32, 32), 10)
    with pytest.raises(ConfigError, match=r"did you mean resnet_small\? wash-hpc train --list has them") as refused:
        build_model("resnet_smal", (3, 32, 32), 10)
    assert len(str(refused.value)) < 200
    with pytest.raises(ConfigError, match=r"did you mean torchvision\.resnet50\?"):  # nearer than resnet18
        build_model("resnet50", (3, 32, 32), 10)


def test_the_default_configuration_builds_the_small_network():
    assert build_model(load_config(None).model.name, (3, 32, 32), 10) is not None
