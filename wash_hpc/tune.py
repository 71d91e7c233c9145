"""`wash-hpc tune`: which share of the JPEG files the GPU's own decoder should take on this machine, measured.

The rest is decoded by the CPU's threads and the GPU's ordinary cores, so the best share depends on the machine.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch

from wash_hpc.config import Config
from wash_hpc.data import open_source
from wash_hpc.data.source import Shard, Source
from wash_hpc.errors import ConfigError
from wash_hpc.machine import machine_name, remember_share

SHARES = (0.0, 0.35, 0.5, 0.65, 0.8, 0.9, 0.99)
SECONDS = 6.0  # of measuring each
WARM_UP_BATCHES = 8  # besides those that are made ahead: memory grows until it has seen the largest images


def tune(config: Config) -> Iterator[str]:
    """Run the training pipeline of a data set with one share after another and remember the best for this machine.

    Args:
        config: its `data` section is what a run will use: files, batch size, threads, sizes.

    Yields:
        Lines to print: images a second of each share, and at the end which was taken and where it is written down.

    Raises:
        ConfigError: there is no GPU, or `data.name` has no files to decode.
        WashError: the images cannot be read, or the result not be written.
    """
    if config.data.name not in {"image_folder", "shards"}:
        raise ConfigError(f"data.name={config.data.name}: nothing is decoded; expected image_folder or shards")
    if not torch.cuda.is_available():
        raise ConfigError("tune measures the JPEG decoder of an NVIDIA GPU, and torch sees no GPU on this host")
    from wash_hpc.data.image_source import ImageSource  # DALI is optional, and slow to import

    device = torch.device("cuda", torch.cuda.current_device())
    source = open_source(config, device)
    assert isinstance(source, ImageSource)
    machine = machine_name(config.data.workers)
    yield f"{machine}, batches of {config.data.batch_size}:"
    rates = {}
    for share in SHARES:
        rates[share] = _images_per_second(source.with_share(share), config)
        yield f"  data.hw_decoder_share={share:<5}{rates[share]:10,.0f} images/s"
    best = max(rates, key=lambda share: rates[share])
    file = remember_share(machine, best, rates[best])
    yield f"{best} is best; runs on such a machine take it (written to {file}), unless they set data.hw_decoder_share"


def _images_per_second(source: Source, config: Config) -> float:
    """Of one rank, with nothing else to do."""
    batches = source.train(0, Shard(), config.data.batch_size, 0)
    for _ in range(config.data.prefetch + WARM_UP_BATCHES):
        next(batches)
    torch.cuda.synchronize()
    num_batches, started = 0, time.perf_counter()
    while time.perf_counter() - started < SECONDS:
        next(batches)
        num_batches += 1
        torch.cuda.synchronize()  # as a training step would wait; else the queue in front of the GPU is measured
    return num_batches * config.data.batch_size / (time.perf_counter() - started)
