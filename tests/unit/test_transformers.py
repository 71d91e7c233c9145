"""The transformers, and what networks of images and of text say to each other's data."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from wash_hpc.errors import ConfigError
from wash_hpc.models import build_model


def test_a_language_model_sees_nothing_of_what_comes_later() -> None:
    torch.manual_seed(0)
    model = build_model("language_model", (12,), 256, width=4)
    tokens = torch.randint(256, (2, 12))
    changed = tokens.clone()
    changed[:, 7] = (changed[:, 7] + 1) % 256
    with torch.no_grad():
        before, after = model(tokens), model(changed)
    assert before.shape == (2, 12, 256)
    assert torch.equal(before[:, :7], after[:, :7])
    assert all(not torch.equal(before[:, place], after[:, place]) for place in range(7, 12))


def test_a_language_model_attends_as_a_plain_softmax_over_the_past_does() -> None:
    """The first block's attention, step by step."""
    torch.manual_seed(0)
    model = build_model("language_model", (6,), 256, width=4)
    tokens = torch.randint(256, (1, 6))
    seen: dict[str, torch.Tensor] = {}
    block = model.blocks[0]
    block.attend.register_forward_hook(lambda module, inputs, output: seen.update(projected=output[0]))
    block.attended.register_forward_hook(lambda module, inputs, output: seen.update(mixed=inputs[0][0]))
    with torch.no_grad():
        model(tokens)
    query, key, value = seen["projected"].split(16, dim=1)
    for head in range(4):
        mine = slice(4 * head, 4 * head + 4)
        for place in range(6):
            scores = key[: place + 1, mine] @ query[place, mine] / math.sqrt(4)
            expected = scores.softmax(dim=0) @ value[: place + 1, mine]
            assert torch.allclose(seen["mixed"][place, mine], expected, atol=1e-6)


def test_a_language_model_starts_by_knowing_nothing() -> None:
    torch.manual_seed(0)
    tokens = torch.randint(256, (4, 33))
    model = build_model("language_model", (32,), 256)
    with torch.no_grad():
        loss = F.cross_entropy(model(tokens[:, :-1]).flatten(end_dim=-2), tokens[:, 1:].flatten())
    assert float(loss) == pytest.approx(math.log(256), abs=0.05)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 8, 8), (3, 8, 8), (3, 64, 64)])
def test_a_small_vision_transformer_takes_images_of_the_usual_sizes_and_any_channels(shape: tuple[int, ...]) -> None:
    model = build_model("vit_small", shape, 10, width=2)
    with torch.no_grad():
        assert model(torch.zeros(2, *shape)).shape == (2, 10)
    assert model.encoder.pos_embedding.shape[1] >= 1 + 4 * 4


@pytest.mark.parametrize("shape", [(3, 8, 10), (3, 9, 9)])
def test_a_small_vision_transformer_says_which_images_it_takes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"model.name=vit_small: .*expected squares of an even size"):
        build_model("vit_small", shape, 10)


@pytest.mark.parametrize("name", ["resnet_small", "mlp", "vit_small", "resnet18", "torchvision.resnet18"])
def test_a_network_of_images_that_is_given_text_says_so(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"^model.name={name} takes images, .*use language_model$"):
        build_model(name, (128,), 256)


def test_a_network_of_text_that_is_given_images_says_so() -> None:
    with pytest.raises(ConfigError, match=r"^model.name=language_model takes text, .*use data.name=text$"):
        build_model("language_model", (3, 8, 8), 10)
