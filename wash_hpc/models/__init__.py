"""Networks by name: the small ones that torchvision lacks, every torchvision classifier, and those of one's own.

One of one's own is a function between `register` and `wash_hpc.__main__.main`; docs/your_model.md shows one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from wash_hpc.config import refuse_unknown
from wash_hpc.errors import ConfigError
from wash_hpc.models.networks import MLP, ResNetSmall, VGGSmall, cifar_resnet18, cifar_vgg16
from wash_hpc.models.transformers import LanguageModel, vit_small

ImageShape = tuple[int, ...]
"""(C, H, W) of images, (T,) of windows of text."""

Builder = Callable[[ImageShape, int, int], nn.Module]
"""Makes a network with fresh weights, given the shape of an image, the number of classes and `model.width`."""

BuilderType = TypeVar("BuilderType", bound=Builder)

_PREFIX = "torchvision."
_OWN: dict[str, Builder] = {
    "resnet_small": lambda shape, classes, width: ResNetSmall(shape[0], classes, width),
    "resnet_tiny": lambda shape, classes, width: ResNetSmall(shape[0], classes, width, stem_stride=2),
    "vgg_small": lambda shape, classes, width: VGGSmall(shape[0], classes, width),
    "mlp": lambda shape, classes, width: MLP(shape, classes, 16 * width),
    "resnet18": lambda shape, classes, width: cifar_resnet18(shape[0], classes),
    "vgg16_bn": lambda shape, classes, width: cifar_vgg16(shape[0], classes),
    "vit_small": vit_small,
    "language_model": lambda shape, classes, width: LanguageModel(shape[0], classes, width),
}
_OF_TEXT = ["language_model"]


def register(name: str, of_text: bool = False) -> Callable[[BuilderType], BuilderType]:
    """Make a function that builds a network known as `model.name=NAME`; to be called before anything is built.

    Args:
        name: a new one, that does not begin with `torchvision.`.
        of_text: it takes windows [B, T] int64 and gives logits [B, T, classes], in place of images [B, C, H, W] float32
            and logits [B, classes].
    """
    if name in _OWN or name.startswith(_PREFIX):
        raise ValueError(f"there is a model {name} already")

    def add(build: BuilderType) -> BuilderType:
        _OWN[name] = build
        if of_text:
            _OF_TEXT.append(name)
        return build

    return add


def builder_of(name: str) -> Builder:
    """What builds the network of this name, written here or in a file of the user's."""
    return _OWN.get(name, lambda shape, classes, width: _build_torchvision(name.removeprefix(_PREFIX), classes))


def model_names() -> list[str]:
    """Names that `build_model` knows."""
    import torchvision

    return [*_OWN, *(_PREFIX + name for name in torchvision.models.list_models(module=torchvision.models))]


def require_model(name: str) -> None:
    """Refuse a name that is no network.

    Raises:
        ConfigError: naming those there are.
    """
    if name not in _OWN and name not in model_names():  # in this order: torchvision takes seconds to import
        raise refuse_unknown("model.name", name, model_names())


def build_model(name: str, image_shape: ImageShape, num_classes: int, width: int = 16) -> nn.Module:
    """A network with fresh weights, drawn from torch's default generator.

    Args:
        name: one of `model_names()`.
        image_shape: (C, H, W) of the images it will be given, (T,) of windows of text.
        num_classes: outputs; of text, for each of its T bytes.
        width: channels of the first stage (`resnet_small`, `resnet_tiny`, `vgg_small`), units / 16 (`mlp`), features
            / 4 (`vit_small`, `language_model`); the others ignore it.

    Raises:
        ConfigError: an unknown name, or a network that cannot take such images or text, or has nothing to train.
    """
    require_model(name)
    _require_kind(name, image_shape)
    model = builder_of(name)(image_shape, num_classes, width)
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model.name={name}: the function registered gives a {type(model).__name__}, not a network")
    _require_fit(name, model, image_shape, num_classes)
    return model


def _build_torchvision(name: str, num_classes: int) -> nn.Module:
    import torchvision

    # Auxiliary heads return tuples in training; they belong to the recipes of these two networks alone.
    options = {"aux_logits": False, "init_weights": True} if name in {"googlenet", "inception_v3"} else {}
    model: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=num_classes, **options)
    return model


def _require_kind(name: str, image_shape: ImageShape) -> None:
    """Refuse images to a network of text, and text to a network of images."""
    is_text = len(image_shape) == 1
    if is_text and name not in _OF_TEXT:
        raise ConfigError(f"model.name={name} takes images, and data.name=text has none; use {', '.join(_OF_TEXT)}")
    if not is_text and name in _OF_TEXT:
        raise ConfigError(f"model.name={name} takes text, not images of shape {image_shape}; use data.name=text")


def _require_fit(name: str, model: nn.Module, image_shape: ImageShape, num_classes: int) -> None:
    """Try one image or text, so that a network that it does not fit is said at start and not in the first step."""
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError(f"model.name={name} has no trainable parameters: there is nothing to train or to shuffle")
    model.eval()
    try:
        with torch.no_grad():
            image = torch.zeros(1, *image_shape, dtype=torch.int64 if name in _OF_TEXT else None)
            shape = tuple(model(image).shape)
    except (RuntimeError, ValueError, AssertionError) as error:
        raise ConfigError(
            f"model.name={name} cannot take images of shape {image_shape}: {str(error).splitlines()[0]}"
        ) from error
    finally:
        model.train()
    expected = (1, *image_shape, num_classes) if name in _OF_TEXT else (1, num_classes)
    if shape != expected:
        raise ConfigError(f"model.name={name} gives an output of shape {shape} for one image, not {expected}")
