"""The source over encoded images, in class folders or elsewhere: its order, its checks, and what it left out.

Listing is `folder`'s, decoding `decode`'s.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from wash_hpc.config import Config
from wash_hpc.data.augment import draw_windows
from wash_hpc.data.bad_files import BadFiles, Request
from wash_hpc.data.decode import decode
from wash_hpc.data.encoded import EncodedImages, Splits
from wash_hpc.data.feed import feed_evaluation, feed_statistics, feed_training
from wash_hpc.data.source import Batch, Positions, Shard, Split, divide_training_set
from wash_hpc.errors import DataError
from wash_hpc.machine import machine_name, remembered_share
from wash_hpc.seeds import Stream, generator

MAX_CHECKED_FILES = 100_000
NUM_CHECKING_THREADS = 8  # the time goes into waiting for the file system


class ImageSource:
    """A `Source` over encoded images.

    Args:
        splits: the images.
        config: `run.seed` and the `data` section are read.
        device: where batches are wanted.

    Raises:
        ConfigError: what `wash-hpc tune` wrote down is not readable, and is asked for.
    """

    def __init__(self, splits: Splits, config: Config, device: torch.device) -> None:
        train, held_out = divide_training_set(splits.train, splits.held_out, config.data)
        self.num_classes = splits.num_classes
        self.image_shape: tuple[int, ...] = (3, config.data.image_size, config.data.image_size)
        self.num_train = len(train)
        self._train = train
        self._splits: dict[Split, EncodedImages] = {"held_out": held_out, "test": splits.test}
        self._skips = config.data.on_bad_file == "skip"
        self._bad_train = BadFiles(train, self._skips)
        self._bad = {split: BadFiles(images, self._skips) for split, images in self._splits.items()}
        self._seed = config.run.seed
        self._data = config.data
        self._device = device
        self.notes: tuple[str, ...] = ()
        if device.type == "cuda" and config.data.hw_decoder_share is None:
            self._take_remembered_share()
        low, high = config.data.crop_scale
        self._draw = partial(draw_windows, scale=(low, high), flip=config.data.flip)

    @property
    def skipped_files(self) -> list[str]:
        """As `Source.skipped_files`."""
        return [name for bad in (self._bad_train, *self._bad.values()) for name in bad.names]

    def with_share(self, share: float) -> ImageSource:
        """The same, of which the GPU's own decoder takes this share of the JPEG files."""
        other = copy(self)
        other._data = replace(self._data, hw_decoder_share=share)
        return other

    def _take_remembered_share(self) -> None:
        machine = machine_name(self._data.workers, torch.cuda.get_device_name(self._device))
        share = remembered_share(machine)
        self._data = replace(self._data, hw_decoder_share=share)
        taken = "DALI's default, 0.65 (wash-hpc tune finds the best)" if share is None else f"{share:g}, as tuned"
        self.notes = (f"data.hw_decoder_share: {taken}, for {machine}",)

    def num_images(self, split: Split) -> int:
        """How many images a split has; `held_out` may have none."""
        return len(self._splits[split])

    def check_files(self, shard: Shard) -> None:
        """Read the first bytes of this part of all files, or of a random choice of them where they are very many.

        Where bad files are skipped nothing is read: they are found when they are met.

        Raises:
            DataError: the first file of the part that cannot be read or is no image.
        """
        if self._skips:
            return
        every = [self._train, *self._splits.values()]
        ends = np.cumsum([len(files) for files in every])
        chosen = np.arange(ends[-1])
        if len(chosen) > MAX_CHECKED_FILES:
            chosen = np.sort(generator(0, Stream.SPLIT, 1).choice(chosen, MAX_CHECKED_FILES, replace=False))
        mine = chosen[shard.of(len(chosen))]
        which = np.searchsorted(ends, mine, side="right")
        within = mine - np.concatenate([[0], ends])[which]
        with ThreadPoolExecutor(NUM_CHECKING_THREADS) as threads:
            for fault in threads.map(lambda split, at: every[split].find_fault(int(at)), which, within):
                if fault is not None:
                    raise DataError(fault)

    def train(self, member: int, replica: Shard, batch_size: int, first_step: int) -> Iterator[Batch]:
        """Training batches without end, as `Source.train` says."""
        feed = feed_training(self._seed, member, replica, batch_size, first_step, self.num_train, self._draw)
        return self._train_batches(feed, len(replica.of(batch_size)), fill=True)

    def evaluate(self, split: Split, shard: Shard, batch_size: int) -> Iterator[Batch]:
        """Each image of this part once, as `Source.evaluate` says."""
        images = self._splits[split]
        requests = (Request(at, None) for at in feed_evaluation(len(images), shard, batch_size))
        return self._batches(requests, images, self._bad[split], batch_size, augment=False, fill=False)

    def statistics(self, num_images: int, shard: Shard, batch_size: int) -> Iterator[Batch]:
        """This part of a random choice of training images, as `Source.statistics` says."""
        feed = feed_statistics(self._seed, num_images, shard, batch_size, self.num_train, self._draw)
        return self._train_batches(feed, batch_size, fill=False)

    def _train_batches(
        self, feed: Iterator[tuple[Positions, NDArray[np.float32]]], max_batch_size: int, fill: bool
    ) -> Iterator[Batch]:
        augment = self._data.augment
        requests = (Request(positions, draws if augment else None) for positions, draws in feed)
        return self._batches(requests, self._train, self._bad_train, max_batch_size, augment, fill)

    def _batches(
        self,
        requests: Iterator[Request],
        images: EncodedImages,
        bad: BadFiles,
        max_batch_size: int,
        augment: bool,
        fill: bool,
    ) -> Iterator[Batch]:
        return decode(requests, images, bad, max_batch_size, self._data, self._device, augment, fill)
