"""The optimizer of a member: torch's, over the flat vector as its only parameter; the learning rate of each step."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from wash_hpc.config import OptimizerConfig
from wash_hpc.ensemble.flat import Flat


def make_optimizer(config: OptimizerConfig, flat: Flat) -> tuple[torch.optim.Optimizer, Tensor]:
    """An optimizer that makes its update in one kernel, with its state in the rows behind the parameters.

    torch makes the state itself in the first step unless it is there: zeros are what it would start from.

    Returns:
        The optimizer, and the learning rate that it reads: [] float32 on the parameters' device, at first 0.
    """
    parameter = nn.Parameter(flat.values)
    parameter.grad = flat.gradients
    rate = torch.zeros((), device=flat.values.device)
    optimizer: torch.optim.Optimizer
    if config.name == "sgd":
        optimizer = torch.optim.SGD(
            [parameter],
            lr=rate,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            nesterov=config.nesterov,
            fused=True,
        )
        if config.momentum > 0:
            optimizer.state[parameter] = {"momentum_buffer": flat.rows[1]}
        return optimizer, rate
    kind = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
    on_gpu = flat.values.is_cuda
    optimizer = kind([parameter], lr=rate, weight_decay=config.weight_decay, fused=True, capturable=on_gpu)
    num_updates = torch.zeros((), device=flat.values.device)
    optimizer.state[parameter] = {"step": num_updates, "exp_avg": flat.rows[1], "exp_avg_sq": flat.rows[2]}
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
