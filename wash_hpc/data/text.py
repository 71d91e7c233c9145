"""Any text file as bytes: windows of `data.context` bytes, of each of which the next byte is to be predicted.

Owns the reading of the file, its split and the cutting of windows. The file lives, whole, on the training device, and
batches are gathered there. The end of the file is the test split, what is before it is held out, the rest is for
training; a window never reaches from one into another.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wash_hpc.config import Config
from wash_hpc.data.feed import Draws, feed_evaluation, feed_statistics, feed_training
from wash_hpc.data.source import Batch, Positions, Shard, Split
from wash_hpc.data.transfer import send
from wash_hpc.errors import ConfigError, DataError

TEST_SHARE = 0.1  # of the file
MOST_PREDICTIONS = 2**16  # judged by in a split: an evaluation keeps 256 logits, a KiB, for each of them


class TextSource:
    """A `Source` over the windows of one text file.

    A window of T bytes is bytes [i, i + T) as inputs and [i + 1, i + T + 1) as labels. Training windows start at every
    T-th byte of the training part; with `data.augment` each is moved on by less than T bytes, at random, and those that
    would leave the part go round to its start. Windows of the other splits are not moved, and no byte is predicted in
    two of them; where there are more than `MOST_PREDICTIONS` allow, windows evenly spread over the split are taken.

    Args:
        text: [N] the bytes of the file.
        config: `run.seed` and the `data` section are read.
        device: where the text lives and the batches are made.

    Raises:
        DataError: the text is too short.
    """

    def __init__(self, text: NDArray[np.uint8], config: Config, device: torch.device) -> None:
        self._context = config.data.context
        self.num_classes = 256
        self.image_shape: tuple[int, ...] = (self._context,)
        self.notes: tuple[str, ...] = ()
        self._seed = config.run.seed
        self._moves = config.data.augment
        parts = split_text(len(text), config.data.held_out, config.data.train_share)
        _require_windows(config, len(text), parts)
        self._num_starts = len(parts["train"]) - self._context  # where a training window may begin
        self.num_train = _count_windows(parts["train"], self._context)
        self._starts: dict[Split, Positions] = {
            "held_out": _spread_windows(parts["held_out"], self._context),
            "test": _spread_windows(parts["test"], self._context),
        }
        self._text = torch.tensor(text, device=device)
        self._within = torch.arange(self._context + 1, device=device)

    @property
    def skipped_files(self) -> tuple[str, ...]:
        """None: the text was read whole."""
        return ()

    def num_images(self, split: Split) -> int:
        """How many windows a split has; `held_out` may have none."""
        return len(self._starts[split])

    def check_files(self, shard: Shard) -> None:
        """Nothing to do: any file is a text, and it has been read."""

    def train(self, member: int, replica: Shard, batch_size: int, first_step: int) -> Iterator[Batch]:
        """Training batches without end, as `Source.train` says."""
        feed = feed_training(self._seed, member, replica, batch_size, first_step, self.num_train, self._draw)
        return (self._moved(positions, draws) for positions, draws in feed)

    def evaluate(self, split: Split, shard: Shard, batch_size: int) -> Iterator[Batch]:
        """Each window of this part once, as `Source.evaluate` says."""
        starts = self._starts[split]
        return (self._cut(starts[positions]) for positions in feed_evaluation(len(starts), shard, batch_size))

    def statistics(self, num_images: int, shard: Shard, batch_size: int) -> Iterator[Batch]:
        """This part of a random choice of training windows, as `Source.statistics` says."""
        feed = feed_statistics(self._seed, num_images, shard, batch_size, self.num_train, self._draw)
        return (self._moved(positions, draws) for positions, draws in feed)

    def _draw(self, random: np.random.Generator, num_windows: int) -> NDArray[np.int64]:
        """[num_windows] int64: by how many bytes each window is moved on."""
        return random.integers(0, self._context if self._moves else 1, size=num_windows)

    def _moved(self, positions: Positions, draws: Draws) -> Batch:
        return self._cut((positions * self._context + draws) % self._num_starts)

    def _cut(self, starts: Positions) -> Batch:
        """The windows [B, T] that start at these bytes of the file, [B] int64."""
        at = send(torch.from_numpy(starts), self._text.device)
        windows: Tensor = self._text[at[:, None] + self._within].long()
        return Batch(windows[:, :-1], windows[:, 1:])


def split_text(num_bytes: int, held_out: float, train_share: float = 1.0) -> dict[str, range]:
    """Which bytes are `train`, `held_out` and `test`, in this order; the same for every run seed.

    Args:
        num_bytes: of the file.
        held_out: share of what is not test.
        train_share: share of the rest that is trained on, from its begin.
    """
    first_of_test = num_bytes - round(num_bytes * TEST_SHARE)
    first_held_out = first_of_test - round(first_of_test * held_out)
    return {
        "train": range(round(first_held_out * train_share)),
        "held_out": range(first_held_out, first_of_test),
        "test": range(first_of_test, num_bytes),
    }


def _count_windows(part: range, context: int) -> int:
    """How many windows one behind the other a part has; the last byte of one is the first input of the next."""
    return max(len(part) - 1, 0) // context


def _spread_windows(part: range, context: int) -> Positions:
    """[N] int64, where the windows that a split is judged by start, in order."""
    total = _count_windows(part, context)
    num_windows = min(total, MOST_PREDICTIONS // context)
    return part.start + np.arange(num_windows) * total // max(num_windows, 1) * context


def _require_windows(config: Config, num_bytes: int, parts: dict[str, range]) -> None:
    data = config.data
    what = f"data.path={data.path}: a text of {num_bytes:,} bytes"
    needed = {"train": data.batch_size, "held_out": 1 if data.held_out else 0, "test": 1}
    for name, part in parts.items():
        num_windows = _count_windows(part, data.context)
        if num_windows < needed[name]:
            wanted = f"a batch of data.batch_size={data.batch_size}" if name == "train" else "one window"
            raise DataError(
                f"{what} is too short: its {name} part, {len(part):,} bytes, has {num_windows} windows of data.context="
                f"{data.context} bytes and one more; expected enough for {wanted}"
            )


def read_text(path: str | None) -> NDArray[np.uint8]:
    """The bytes of a file, [N], at least one.

    Raises:
        ConfigError: no `data.path`.
        DataError: the file is absent, unreadable or empty.
    """
    if path is None:
        raise ConfigError("data.path is not set: expected a text file; `tools/make_dataset.py text OUT.txt` makes one")
    file = Path(path)
    if not file.exists():
        raise DataError(f"data.path={path}: there is no such file; `tools/make_dataset.py text {path}` makes one")
    if file.is_dir():
        raise DataError(f"data.path={path}: this is a folder; expected a text file")
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DataError(f"data.path={path}: cannot be read: {error.strerror or error}") from error
    if not content:
        raise DataError(f"data.path={path}: the file is empty")
    return np.frombuffer(content, dtype=np.uint8)
