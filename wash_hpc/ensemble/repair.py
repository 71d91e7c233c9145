"""REPAIR: giving a soup's channels the mean and the spread that they have in its members (arXiv 2211.08403).

Averaging weights makes activations quieter from layer to layer ("variance collapse"). The remedy is one affine map a
channel behind every hidden convolution and linear layer, absorbed by the layer's own weight and bias, so that the
repaired network has the architecture and the state-dict keys of its members. Owns the statistics, which are sums over
images, and the map; communicates nothing.

Batch normalisation straight behind a layer undoes any such map, whose scale would still change how the layer trains on:
such layers are left alone, on the assumption that nobody else takes their output. Where all are followed by it, REPAIR
is recomputing the statistics. What is joined or reshaped first, as in a DenseNet, is rescaled like any other.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from wash_hpc.ensemble.batchnorm import recompute_statistics

SumOverRanks = Callable[[Tensor], Tensor]

Layer = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear

_LARGEST_SCALE = 1000.0  # a channel that is quieter still is dead: rescaling would amplify rounding


@dataclass(frozen=True)
class Channels:
    """What goes out of the hidden layers of one network, layer after layer; C channels in all.

    Attributes:
        mean: [C] float64, of each channel over images and places; NaN where the network does not call the layer, or
            gives its output to batch normalisation.
        std: [C] float64, likewise.
    """

    mean: Tensor
    std: Tensor


def mean_of_channels(members: Sequence[Channels]) -> Channels:
    """What a soup's channels are to have: the mean of the members' means, the mean of their standard deviations."""
    return Channels(
        torch.stack([channels.mean for channels in members]).mean(dim=0),
        torch.stack([channels.std for channels in members]).mean(dim=0),
    )


def measure_channels(model: nn.Module, batches: Iterable[Tensor], sum_over_ranks: SumOverRanks) -> Channels:
    """Mean and standard deviation of every hidden channel of a network as it predicts.

    Args:
        model: left in evaluation mode, otherwise untouched.
        batches: this rank's images, each [B, C, H, W] on the model's device; ranks may have different numbers of
            batches, or none. Batches of a single image are left out, as in `recompute_statistics`.
        sum_over_ranks: replaces a float64 vector by its sum over all ranks that share the work; called once.

    Returns:
        The same on all ranks.
    """
    model.eval()
    tally = _Tally(hidden_layers(model), goal=None)
    tally.watch(model, batches)
    return tally.channels(sum_over_ranks)


def repair(
    model: nn.Module, goal: Channels, batches: Callable[[], Iterable[Tensor]], sum_over_ranks: SumOverRanks
) -> None:
    """Rescale and shift a soup's hidden channels to `goal`, then recompute its normalisation statistics.

    One pass over the images serves all layers: in it each layer's output is corrected by its own batch's statistics, so
    that the layers behind it see what they will see. With one batch the result is exact; with several it is as exact as
    batches are alike, which is how the paper's code does it too. A layer without a bias is rescaled only, and channels
    without finite statistics stay as they are.

    Args:
        model: a soup, changed in place; left in evaluation mode.
        goal: of `mean_of_channels`.
        batches: gives this rank's images anew, as for `measure_channels`; called twice.
        sum_over_ranks: as for `measure_channels`; called at most twice.
    """
    layers = hidden_layers(model)
    model.eval()
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.train()  # by its batch: the statistics it has are those of no network
    tally = _Tally(layers, goal)
    tally.watch(model, batches())
    measured = tally.channels(sum_over_ranks)
    for layer, own, wanted in zip(layers, _by_layer(layers, measured), _by_layer(layers, goal), strict=True):
        _absorb(layer, *_correction(own, wanted))
    recompute_statistics(model, batches(), sum_over_ranks)


def hidden_layers(model: nn.Module) -> list[Layer]:
    """The layers that REPAIR corrects: convolutions and linear layers, but for the last, which gives the logits."""
    return [module for module in model.modules() if isinstance(module, Layer)][:-1]


def num_hidden_channels(model: nn.Module) -> int:
    """C, over all layers that REPAIR corrects."""
    return sum(_num_channels(layer) for layer in hidden_layers(model))


class _Tally:
    """Sums over the outputs of some layers.

    Of each layer: values a channel, whether batch normalisation took them, sums a channel, sums of squares.

    Args:
        layers: those watched.
        goal: what outputs are corrected to on their way, by the batch's own statistics; None: not at all.
    """

    def __init__(self, layers: list[Layer], goal: Channels | None) -> None:
        self._layers = layers
        self._goals = [None] * len(layers) if goal is None else _by_layer(layers, goal)
        self._totals = [
            torch.zeros(2 + 2 * _num_channels(layer), dtype=torch.float64, device=layer.weight.device)
            for layer in layers
        ]
        self._outputs: dict[int, weakref.ref[Tensor]] = {}  # by layer, the last one

    def watch(self, model: nn.Module, batches: Iterable[Tensor]) -> None:
        """Take in this rank's images."""
        with torch.no_grad(), self._hooked(model):
            for images in batches:
                if len(images) > 1:
                    model(images)

    def channels(self, sum_over_ranks: SumOverRanks) -> Channels:
        """Mean and standard deviation over all ranks' images."""
        if not self._layers:
            return Channels(torch.zeros(0, dtype=torch.float64), torch.zeros(0, dtype=torch.float64))
        summed = sum_over_ranks(torch.cat(self._totals))
        means, stds = [], []
        for total in torch.split(summed, [len(total) for total in self._totals]):
            num_values = torch.where(total[1] > 0, torch.nan, total[0])
            mean, square = (total[2:] / num_values).chunk(2)
            means.append(mean)
            stds.append((square - mean.square()).clamp(min=0).sqrt())
        return Channels(torch.cat(means), torch.cat(stds))

    @contextmanager
    def _hooked(self, model: nn.Module) -> Iterator[None]:
        handles = [layer.register_forward_hook(self._hook(number)) for number, layer in enumerate(self._layers)]
        norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
        handles += [norm.register_forward_pre_hook(self._see_normalised) for norm in norms]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _see_normalised(self, norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        for number, output in self._outputs.items():
            if inputs and output() is inputs[0]:
                self._totals[number][1] += 1

    def _hook(self, number: int) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        total, goal = self._totals[number], self._goals[number]

        def see(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            axis = output.dim() - 1 if isinstance(layer, nn.Linear) else 1
            others = [other for other in range(output.dim()) if other != axis]
            variance, mean = (part.double() for part in torch.var_mean(output, others, correction=0))
            num_values = output.numel() // len(mean)
            sums = torch.cat([mean.new_tensor([1.0, 0.0]), mean, variance + mean.square()])
            total.add_(sums, alpha=num_values)
            if goal is None:
                self._outputs[number] = weakref.ref(output)
                return output
            scale, shift = _correction(Channels(mean, variance.sqrt()), goal)
            shape = [-1 if other == axis else 1 for other in range(output.dim())]
            corrected = output * scale.to(output.dtype).view(shape)
            return corrected if layer.bias is None else corrected + shift.to(output.dtype).view(shape)

        return see


def _correction(own: Channels, goal: Channels) -> tuple[Tensor, Tensor]:
    """([C], [C]) float64: the scale and shift that take a layer's channels from their own statistics to the goal."""
    scale = torch.where(own.std * _LARGEST_SCALE > goal.std, goal.std / own.std, 1.0)
    shift = goal.mean - scale * own.mean
    usable = torch.isfinite(scale) & torch.isfinite(shift)
    return torch.where(usable, scale, 1.0), torch.where(usable, shift, 0.0)


def _absorb(layer: Layer, scale: Tensor, shift: Tensor) -> None:
    """Make a layer's output what it was, scaled and, where it has a bias, shifted."""
    weight, bias = layer.weight, layer.bias
    with torch.no_grad():
        weight.mul_(scale.to(weight.dtype).view(-1, *(1 for _ in weight.shape[1:])))
        if bias is not None:
            bias.mul_(scale.to(bias.dtype)).add_(shift.to(bias.dtype))


def _by_layer(layers: list[Layer], channels: Channels) -> list[Channels]:
    sizes = [_num_channels(layer) for layer in layers]
    parts = zip(torch.split(channels.mean, sizes), torch.split(channels.std, sizes), strict=True)
    return [Channels(mean, std) for mean, std in parts]


def _num_channels(layer: Layer) -> int:
    return len(layer.weight)
