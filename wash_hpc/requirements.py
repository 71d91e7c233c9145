"""What a run needs of its ranks, devices and batches that no single key can tell. Owns the refusals; opens nothing."""

from __future__ import annotations

import os
import shutil

import torch
from torch import nn

from wash_hpc.config import Config
from wash_hpc.ensemble.batchnorm import has_batch_statistics
from wash_hpc.errors import ConfigError
from wash_hpc.parallel.gpus import find_fault, place_of
from wash_hpc.parallel.world import World, agreed


def require_step_options(config: Config, device: torch.device) -> None:
    """Refuse what a step is told to use and this rank has not.

    Raises:
        ConfigError: naming the key.
    """
    if config.train.compile and shutil.which(os.environ.get("CXX", "g++")) is None:
        raise ConfigError("train.compile=true: torch.compile needs a C++ compiler, and there is no g++ on PATH")
    if config.train.cuda_graph and device.type != "cuda":
        raise ConfigError("train.cuda_graph=true: this rank has no GPU, and only there is there a CUDA graph")


def require_whole_statistics(config: Config, num_replicas: int, model: nn.Module) -> None:
    """Refuse parts of a single image where batch normalisation would have to measure its statistics on them.

    Raises:
        ConfigError: naming the key.
    """
    if config.data.batch_size == config.train.accumulate * num_replicas and has_batch_statistics(model):
        raise ConfigError(
            f"train.accumulate={config.train.accumulate}: data.batch_size={config.data.batch_size} would come in parts "
            "of one image, of which batch normalisation cannot measure statistics; expected a larger batch"
        )


def require_devices_that_fit(config: Config, world: World, device: torch.device) -> None:
    """Look at all ranks' devices together. Collective over the world.

    Raises:
        ConfigError: they do not fit, as `find_fault` says; on all ranks.
    """
    places = world.comm.allgather(place_of(device))
    with agreed(world.comm):
        fault = find_fault(places, config.parallel)
        if fault is not None:
            raise fault


def require_divisible_batch(config: Config, num_replicas: int) -> None:
    """Refuse a batch that replicas cannot share out evenly: the mean of their gradients would not be the batch's.

    Where images are mixed, both of a pair must be on one replica.

    Raises:
        ConfigError: naming the key.
    """
    if config.data.batch_size % num_replicas:
        raise ConfigError(
            f"data.batch_size={config.data.batch_size}: expected a multiple of the {num_replicas} replicas of a member"
        )
    parts = num_replicas * config.train.accumulate
    if config.data.batch_size % parts:
        raise ConfigError(
            f"train.accumulate={config.train.accumulate}: data.batch_size={config.data.batch_size} of {num_replicas} "
            f"replica{'s' * (num_replicas > 1)} cannot be cut into so many equal parts; expected a multiple of {parts}"
        )
    if any(config.train.mixup + config.train.cutmix) and config.data.batch_size % (2 * num_replicas):
        raise ConfigError(
            f"data.batch_size={config.data.batch_size}: expected a multiple of {2 * num_replicas}, because train.mixup "
            "and train.cutmix mix the images of a replica in pairs"
        )
