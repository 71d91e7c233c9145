"""What a prediction needs to know of a data set: read from it, or, where it is not here, what is published of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from wash_hpc.config import Config
from wash_hpc.data import open_source
from wash_hpc.errors import DataError, MissingDependencyError


@dataclass(frozen=True)
class DataFacts:
    """What a prediction needs to know of a data set: its images for training, the shape of one, its classes."""

    num_train: int
    image_shape: tuple[int, ...]
    num_classes: int
    assumed: bool


def data_facts(config: Config) -> DataFacts:
    """The data set's facts, read if it is there.

    Raises:
        WashError: it is not there, and nobody knows its size (a folder of digits, a text), or it cannot be used.
    """
    size = config.data.image_size
    published = {
        "image_folder": DataFacts(1_281_167, (3, size, size), 1000, True),
        "shards": DataFacts(1_281_167, (3, size, size), 1000, True),
        "cifar10": DataFacts(50_000, (3, 32, 32), 10, True),
        "cifar100": DataFacts(50_000, (3, 32, 32), 100, True),
        "fashion_mnist": DataFacts(60_000, (1, 28, 28), 10, True),
    }
    try:
        source = open_source(config, torch.device("cpu"))
    except (DataError, MissingDependencyError):
        if config.data.name in published:
            facts = published[config.data.name]
            num_kept = facts.num_train - round(facts.num_train * config.data.held_out)
            return replace(facts, num_train=round(num_kept * config.data.train_share))
        raise
    return DataFacts(source.num_train, source.image_shape, source.num_classes, False)
