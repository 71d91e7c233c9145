"""The way of small tensors to the device, for which the host does not wait."""

from __future__ import annotations

import torch
from torch import Tensor


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """The same values on a device; the copy takes its turn among what the device has been given to do.

    Args:
        tensor: on the CPU; it may be changed or freed at once.
        device: where the values are wanted; the CPU has them without a copy.
    """
    if device.type != "cuda":
        return tensor.to(device)
    # From ordinary memory the host would wait until the device has come to the copy. torch keeps the pinned memory
    # until the copy is done, and then uses it again.
    return tensor.pin_memory().to(device, non_blocking=True)
