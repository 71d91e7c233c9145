"""The source over an ImageNet-style folder: its order and its checks. Decoding is `dali`'s, listing is `folder`'s."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from wash_hpc.config import Config
from wash_hpc.data.augment import draw_windows
from wash_hpc.data.dali import FileBatch, run_pipeline
from wash_hpc.data.feed import feed_evaluation, feed_statistics, feed_training
from wash_hpc.data.folder import ImageFiles, check_headers, scan_splits
from wash_hpc.data.source import Batch, Positions, Shard, Split, split_held_out
from wash_hpc.seeds import Stream, generator

MAX_CHECKED_FILES = 100_000


class FolderSource:
    """A `Source` over an ImageNet-style folder.

    Args:
        config: `run.seed` and the `data` section are read.
        device: where batches are wanted.

    Raises:
        ConfigError: `data.path` is not set.
        DataError: the folder is not as `scan_splits` wants it.
    """

    def __init__(self, config: Config, device: torch.device) -> None:
        splits = scan_splits(config.data.path)
        train, held_out = splits.train, splits.held_out
        if held_out is None:
            kept, away = split_held_out(0, len(train), config.data.held_out)
            train, held_out = train.at(kept), train.at(away)
        self.num_classes = len(train.classes)
        self.image_shape: tuple[int, ...] = (3, config.data.image_size, config.data.image_size)
        self.num_train = len(train)
        self._train = train
        self._splits: dict[Split, ImageFiles] = {"held_out": held_out, "test": splits.test}
        self._seed = config.run.seed
        self._data = config.data
        self._device = device
        low, high = config.data.crop_scale
        self._draw = partial(draw_windows, scale=(low, high), flip=config.data.flip)

    def num_images(self, split: Split) -> int:
        """How many images a split has; `held_out` may have none."""
        return len(self._splits[split])

    def check_files(self, shard: Shard) -> None:
        """Read the first bytes of this part of all files, or of a random choice of them where they are very many.

        Raises:
            DataError: a file that cannot be read or is no image.
        """
        every = [self._train, *self._splits.values()]
        ends = np.cumsum([len(files) for files in every])
        chosen = np.arange(ends[-1])
        if len(chosen) > MAX_CHECKED_FILES:
            chosen = np.sort(generator(0, Stream.SPLIT, 1).choice(chosen, MAX_CHECKED_FILES, replace=False))
        mine = chosen[shard.of(len(chosen))]
        which = np.searchsorted(ends, mine, side="right")
        within = mine - np.concatenate([[0], ends])[which]
        check_headers(every[split].path(position) for split, position in zip(which, within, strict=True))

    def train(self, member: int, replica: Shard, batch_size: int, first_step: int) -> Iterator[Batch]:
        """Training batches without end, as `Source.train` says."""
        feed = feed_training(self._seed, member, replica, batch_size, first_step, self.num_train, self._draw)
        return self._train_batches(feed, len(replica.of(batch_size)))

    def evaluate(self, split: Split, shard: Shard, batch_size: int) -> Iterator[Batch]:
        """Each image of this part once, as `Source.evaluate` says."""
        files = self._splits[split]
        feed = (_of_files(files, at, None) for at in feed_evaluation(len(files), shard, batch_size))
        return run_pipeline(feed, batch_size, self._data, self._device, augment=False)

    def statistics(self, num_images: int, shard: Shard, batch_size: int) -> Iterator[Batch]:
        """This part of a random choice of training images, as `Source.statistics` says."""
        feed = feed_statistics(self._seed, num_images, shard, batch_size, self.num_train, self._draw)
        return self._train_batches(feed, batch_size)

    def _train_batches(
        self, feed: Iterator[tuple[Positions, NDArray[np.float32]]], max_batch_size: int
    ) -> Iterator[Batch]:
        augment = self._data.augment
        batches = (_of_files(self._train, positions, draws if augment else None) for positions, draws in feed)
        return run_pipeline(batches, max_batch_size, self._data, self._device, augment)


def _of_files(files: ImageFiles, positions: Positions, draws: NDArray[np.float32] | None) -> FileBatch:
    return FileBatch([files.path(position) for position in positions], files.labels[positions], draws)
