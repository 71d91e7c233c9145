"""The optimizer of a member: torch's, with all that it keeps in the flat vector; the learning rate of each step."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from wash_hpc.config import OptimizerConfig
from wash_hpc.ensemble.flat import Flat


def make_optimizer(config: OptimizerConfig, flat: Flat) -> tuple[torch.optim.Optimizer, Tensor]:
    """A fused optimizer, which updates all parameters at once, with its state in the rows behind them.

    torch makes the state itself in the first step unless it is there: zeros are what it would start from.

    Returns:
        The optimizer, and the learning rate that it reads: [] float32 on the parameters' device, at first 0.
    """
    rate = torch.zeros((), device=flat.values.device)
    optimizer: torch.optim.Optimizer
    if config.name == "sgd":
        optimizer = torch.optim.SGD(
            flat.parameters,
            lr=rate,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            nesterov=config.nesterov,
            fused=True,
        )
        if config.momentum > 0:
            for parameter, momentum in zip(flat.parameters, flat.views(1), strict=True):
                optimizer.state[parameter] = {"momentum_buffer": momentum}
        return optimizer, rate
    kind = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
    on_gpu = flat.values.is_cuda
    optimizer = kind(flat.parameters, lr=rate, weight_decay=config.weight_decay, fused=True, capturable=on_gpu)
    num_updates = torch.zeros(len(flat.parameters), device=flat.values.device)  # torch counts for each parameter
    moments = zip(flat.parameters, num_updates, flat.views(1), flat.views(2), strict=True)
    for parameter, updates, first, second in moments:
        optimizer.state[parameter] = {"step": updates, "exp_avg": first, "exp_avg_sq": second}
    return optimizer, rate


def num_state_rows(config: OptimizerConfig) -> int:
    """How many numbers an optimizer keeps for each parameter."""
    if config.name == "sgd":
        return 1 if config.momentum > 0 else 0
    return 2


def learning_rate(config: OptimizerConfig, step: int, num_steps: int) -> float:
    """Linear warm-up, then constant or a cosine from `lr` in the first step to `min_lr` after the last."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.lr
    done = (step - config.warmup_steps) / max(num_steps - config.warmup_steps, 1)
    return config.min_lr + (config.lr - config.min_lr) * 0.5 * (1.0 + math.cos(math.pi * done))


def relative_learning_rate(config: OptimizerConfig, step: int, num_steps: int) -> float:
    """The learning rate of a step as a share of its peak; 0 where there is none."""
    return learning_rate(config, step, num_steps) / config.lr if config.lr > 0 else 0.0
