"""What memory one rank needs: what it keeps throughout, what a training step saves for its backward pass, what fits.

The second is counted, not modelled: forward runs once on tensors that have shapes and no memory. Not counted are what
backward needs for a moment, the workspaces of cuDNN, and the images that DALI has under way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.nn import functional as F

from wash_hpc.config import Config
from wash_hpc.draw_cost import bytes_of_draw
from wash_hpc.method_cost import MethodCost, Sizes
from wash_hpc.shuffle.draw import Drawer

CONTEXT_BYTES = 600_000_000  # about what CUDA and its libraries take on a GPU for each process, whatever it does
USUAL_GPUS = (40e9, 80e9, 141e9)  # memory of an A100, an A100 or H100, an H200


@dataclass(frozen=True)
class Activations:
    """What one step of one rank holds at the end of forward, besides what it keeps throughout.

    Attributes:
        num_images: images, or windows of text, that go through the network at once on one rank.
        num_bytes: what autograd has saved, and the batch; None where it cannot be told.
        left_out: why it cannot; else empty.
    """

    num_images: int
    num_bytes: int | None
    left_out: str = ""


@dataclass(frozen=True)
class StepMemory:
    """A rank's memory in a training step, and how many such ranks a GPU takes.

    Attributes:
        activations: of the step.
        total_bytes: with what the rank keeps throughout; None where activations are not known.
        ranks_on_gpu: how many fit, by the GPU's memory in GB, each with a CUDA context; none where it is not known.
    """

    activations: Activations
    total_bytes: int | None
    ranks_on_gpu: dict[str, int]


def bytes_kept(config: Config, sizes: Sizes, costs: Sequence[MethodCost], drawers: Sequence[Drawer]) -> int:
    """Of one rank, throughout the run: parameters, gradients, optimizer state, averages, buffers, draws, the copy.

    Args:
        config: of the run.
        sizes: of the model.
        costs: of each method.
        drawers: of each method.
    """
    vectors = _num_vectors(config, sizes) * sizes.num_parameters * sizes.item_size
    return round(vectors + _bytes_of_buffers(config, sizes, costs, drawers))


def step_memory(kept: int, activations: Activations, gpus: Sequence[float]) -> StepMemory:
    """Put together what a rank needs in a step.

    Args:
        kept: what `bytes_kept` says.
        activations: of the step.
        gpus: bytes of each GPU in question.
    """
    if activations.num_bytes is None:
        return StepMemory(activations, None, {})
    total = kept + activations.num_bytes
    return StepMemory(activations, total, {f"{size / 1e9:.4g}": int(size // (total + CONTEXT_BYTES)) for size in gpus})


def gpus_in_question() -> list[float]:
    """Bytes of this machine's first GPU, or of some that are usual where there is none."""
    if torch.cuda.is_available():
        return [float(torch.cuda.get_device_properties(0).total_memory)]
    return list(USUAL_GPUS)


def count_activations(
    model: nn.Module, image_shape: tuple[int, ...], num_images: int, precision: str = "fp32"
) -> Activations:
    """Run forward on tensors without memory, and add up what autograd saves of it.

    Args:
        model: in training mode, on any device; only its shapes are looked at.
        image_shape: (C, H, W) of images, (T,) of windows of text.
        num_images: of the rank's part of a batch.
        precision: `train.precision`.
    """
    try:
        with FakeTensorMode():
            state = {
                name: torch.empty(tensor.shape, dtype=tensor.dtype).requires_grad_(tensor.requires_grad)
                for name, tensor in [*model.named_parameters(), *model.named_buffers()]
            }
            batch = make_batch(image_shape, num_images)
            return Activations(
                num_images,
                bytes_of_step(
                    lambda images: functional_call(model, state, (images,)), state.values(), batch, precision
                ),
            )
    except Exception as error:  # noqa: BLE001 - any network may do what has no answer without memory: plan goes on
        return Activations(num_images, None, f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}")


def make_batch(image_shape: tuple[int, ...], num_images: int) -> tuple[Tensor, Tensor]:
    """Images and labels, or windows of text and the bytes behind each, as a source gives them; all zero."""
    if len(image_shape) == 1:
        windows = torch.zeros(num_images, *image_shape, dtype=torch.int64)
        return windows, torch.zeros_like(windows)
    return torch.zeros(num_images, *image_shape), torch.zeros(num_images, dtype=torch.int64)


def bytes_of_step(
    forward: Callable[[Tensor], Tensor], state: Iterable[Tensor], batch: tuple[Tensor, Tensor], precision: str
) -> int:
    """What lives at the end of forward and loss: all that autograd has saved, and the batch; each storage once.

    Args:
        forward: gives the logits of images.
        state: parameters and buffers, which are counted elsewhere.
        batch: images and labels.
        precision: `train.precision`.
    """
    saved = list(batch)

    def remember(tensor: Tensor) -> Tensor:
        saved.append(tensor)  # kept until all is counted, so that no storage takes the place of another
        return tensor

    images, labels = batch
    hooks = torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", torch.bfloat16, enabled=precision != "fp32"):  # fp16 has the same size
        F.cross_entropy(forward(images).flatten(end_dim=-2), labels.flatten())
    elsewhere = {tensor.untyped_storage()._cdata for tensor in state}
    storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in saved}
    return sum(num_bytes for storage, num_bytes in storages.items() if storage not in elsewhere)


def _bytes_of_buffers(config: Config, sizes: Sizes, costs: Sequence[MethodCost], drawers: Sequence[Drawer]) -> float:
    """Of all methods: two buffers each, three where it overlaps, and the draw and its plan of those that shuffle."""
    total = 0.0
    for method, cost, drawer in zip(config.methods, costs, drawers, strict=True):
        values = cost.traffic.most_values
        total += (3 if method.overlap else 2) * values * sizes.item_size
        total += bytes_of_draw(drawer, values) if cost.name == "wash" and cost.num_exchanges > 0 else 0
    return total


def _num_vectors(config: Config, sizes: Sizes) -> int:
    """Vectors as long as the parameters that a rank keeps, exchange buffers aside; those of float64 are two."""
    of_averages = (config.average.ema > 0) + 2 * (config.average.last > 0)
    of_methods = 2 * sum(method.name == "diloco" for method in config.methods)  # anchor and outer momentum
    gradients_and_copy = 3
    return sizes.num_rows_kept + gradients_and_copy + of_averages + of_methods
