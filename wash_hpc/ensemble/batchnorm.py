"""Recomputing normalisation statistics: a soup's activations are not the mean of its members' activations.

Averaged running means and variances do not describe the averaged network, so they are measured anew on training
images (SWA, arXiv 1803.05407, 3.2). torch's own `update_bn` is for one process and one loader; this one is distributed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def recompute_statistics(
    model: nn.Module, batches: Iterable[Tensor], sum_over_ranks: Callable[[Tensor], Tensor]
) -> None:
    """Replace every running mean and variance by the image-weighted mean over batches of the batches' own.

    Batches of a single image are left out; with none to go by the statistics stay as they are.

    Args:
        model: changed in place; left in evaluation mode. Untouched if it has no batch normalisation.
        batches: this rank's images, each [B, C, H, W] on the model's device; ranks may have different numbers of
            batches, or none.
        sum_over_ranks: replaces a float64 vector by its sum over all ranks that share the work; called once.
    """
    norms = _norms(model)
    if not norms:
        model.eval()
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0  # after each batch the running statistics are those of this batch
    before = _running(norms)
    totals = torch.zeros_like(before)
    num_images = 0
    # Only normalisation layers go to training mode: dropout would add noise to what they measure.
    model.eval()
    for norm in norms:
        norm.train()
    with torch.no_grad():
        for images in batches:
            if len(images) > 1:  # one image has no variance where a layer sees one value a channel
                model(images)
                totals += _running(norms) * len(images)
                num_images += len(images)
    summed = sum_over_ranks(torch.cat([totals, totals.new_tensor([float(num_images)])]))
    _set_running(norms, summed[:-1] / summed[-1] if summed[-1] > 0 else before)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()


def has_batch_statistics(model: nn.Module) -> bool:
    """Whether there is anything for `recompute_statistics` to do."""
    return bool(_norms(model))


def _norms(model: nn.Module) -> list[_BatchNorm]:
    return [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]


def _running(norms: list[_BatchNorm]) -> Tensor:
    """[S] float64, all running means and variances."""
    return torch.cat([part.double() for norm in norms for part in _tensors(norm)])


def _set_running(norms: list[_BatchNorm], values: Tensor) -> None:
    tensors = [part for norm in norms for part in _tensors(norm)]
    for tensor, part in zip(tensors, torch.split(values, [tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part)


def _tensors(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    assert norm.running_mean is not None and norm.running_var is not None
    return norm.running_mean, norm.running_var
