"""A member's parameters as one flat vector, in one canonical order: a position means the same on all members."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from wash_hpc.errors import ConfigError

LayerKind = Literal["tensor", "module", "block"]

_FEWEST_CHANNELS = 8  # of a strided 1x1 convolution in channels-last memory on a CPU


@dataclass(frozen=True)
class Layer:
    """A contiguous part of the flat vector."""

    name: str
    start: int
    size: int


class Flat:
    """The trainable parameters of a model, moved into one vector of which they become views.

    After construction `model`'s parameters are views of `values`: what an exchange or an average does to the vector is
    done to the model, what an optimizer does to the model is done to the vector, and nothing is ever copied. Each
    parameter lies in the vector as it lay in memory before, so that a model in channels-last memory stays in it.

    Args:
        model: all its trainable parameters must have one dtype and one device.
        num_state_rows: rows kept behind the parameters for optimizer state that moves with them.

    Attributes:
        storage: [(1 + num_state_rows) P + 1]; the rows one after the other, and an element of the exchange's own.
        rows: [1 + num_state_rows, P]; row 0 are the parameters, the others start at zero.
        values: [P], row 0.
        parameters: views of `values`, in storage order.
        layers: one entry a parameter tensor, in storage order.

    Raises:
        ConfigError: no trainable parameter, or several dtypes.
    """

    def __init__(self, model: nn.Module, num_state_rows: int = 0) -> None:
        named = trainable_parameters(model)
        size = sum(parameter.numel() for _, parameter in named)
        first = named[0][1]
        self.storage = torch.zeros((1 + num_state_rows) * size + 1, dtype=first.dtype, device=first.device)
        self.rows = self.storage[:-1].view(1 + num_state_rows, size)
        self.parameters = [parameter for _, parameter in named]
        self.layers: list[Layer] = []
        start = 0
        for name, parameter in named:
            end = start + parameter.numel()
            view = _view_like(parameter, self.values[start:end])
            view.copy_(parameter.detach())
            parameter.data = view
            self.layers.append(Layer(name, start, end - start))
            start = end

    @property
    def values(self) -> Tensor:
        """[P], the parameters."""
        return self.rows[0]

    def views(self, row: int) -> list[Tensor]:
        """A row as tensors of the parameters' shapes and orders in memory."""
        parts = self.rows[row].split([layer.size for layer in self.layers])
        return [_view_like(parameter, part) for parameter, part in zip(self.parameters, parts, strict=True)]


def to_channels_last(model: nn.Module, device: torch.device) -> None:
    """Have the weights of convolutions lie in memory as [out, H, W, in]; their shapes stay [out, in, H, W].

    Raises:
        ConfigError: the model cannot be trained so on this device.
    """
    for name, module in model.named_modules():
        if device.type == "cpu" and isinstance(module, nn.Conv2d) and _corrupts_memory(module):
            raise ConfigError(
                f"train.channels_last=true: on a CPU torch corrupts memory in {name}, a 1x1 convolution with a stride "
                f"and fewer than {_FEWEST_CHANNELS} channels; set it to false, or model.width higher"
            )
    for parameter in model.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


def _corrupts_memory(layer: nn.Conv2d) -> bool:
    """Whether oneDNN 3.10 (of torch 2.11) writes beyond its memory in the layer's backward pass, channels last."""
    return layer.kernel_size == (1, 1) and layer.stride != (1, 1) and layer.in_channels < _FEWEST_CHANNELS


def _view_like(parameter: nn.Parameter, part: Tensor) -> Tensor:
    """A contiguous part of a vector, seen with a parameter's shape and its order in memory."""
    if parameter.dim() == 4 and parameter.is_contiguous(memory_format=torch.channels_last):
        return part.as_strided(parameter.shape, parameter.stride())
    return part.view(parameter.shape)


def trainable_parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Names and parameters, in the order of the flat vector.

    Raises:
        ConfigError: there is none, or they have several dtypes.
    """
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    dtypes = sorted({str(parameter.dtype) for _, parameter in named})
    if not named:
        raise ConfigError("model.name: the model has no trainable parameters")
    if len(dtypes) > 1:
        raise ConfigError(f"model.name: parameters of several dtypes cannot be shuffled together: {', '.join(dtypes)}")
    return named


def describe_parameters(model: nn.Module) -> list[str]:
    """Name, shape and dtype of each trainable parameter, in the order of the flat vector."""
    return [
        f"{name} {list(parameter.shape)} {str(parameter.dtype).removeprefix('torch.')}"
        for name, parameter in trainable_parameters(model)
    ]


def merge_layers(layers: list[Layer], kind: LayerKind) -> list[Layer]:
    """What counts as a layer in a schedule: every tensor by itself, or the neighbouring tensors of a module or block.

    A block is what a network has several of, by their names: all up to and including the first component that ends in
    a digit, and the numbers right behind it, as in `layer1.0`, `encoder.layers.encoder_layer_3`, `features.4`. What has
    no such name is in the layer of its module, and what has no module is its own.
    """
    if kind == "tensor":
        return layers
    merged: list[Layer] = []
    for layer in layers:
        module = layer.name.rpartition(".")[0]
        name = (_block_name(module) if kind == "block" else module) or layer.name
        if merged and merged[-1].name == name:
            merged[-1] = Layer(name, merged[-1].start, merged[-1].size + layer.size)
        else:
            merged.append(Layer(name, layer.start, layer.size))
    return merged


def _block_name(module: str) -> str:
    """The part of a module's name that names its block, or the whole."""
    parts = module.split(".")
    end = next((number for number, part in enumerate(parts, 1) if part[-1:].isdigit()), len(parts))
    while end < len(parts) and parts[end].isdigit():
        end += 1
    return ".".join(parts[:end])


def get_statistics(model: nn.Module) -> Tensor:
    """The model's untrained floating-point state (batch-norm running mean and variance) as one [S] vector, a copy."""
    tensors = _statistics(model)
    if not tensors:
        return torch.zeros(0, device=next(model.parameters()).device)
    return torch.cat([tensor.detach().float().flatten() for tensor in tensors])


def set_statistics(model: nn.Module, statistics: Tensor) -> None:
    """Write a vector of `get_statistics` back into a model."""
    start = 0
    for tensor in _statistics(model):
        part = statistics[start : start + tensor.numel()]
        tensor.detach().copy_(part.view(tensor.shape))
        start += tensor.numel()


def _statistics(model: nn.Module) -> list[Tensor]:
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    return [*frozen, *(buffer for buffer in model.buffers() if buffer.is_floating_point())]
