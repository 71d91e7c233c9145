"""Per-member regularisation: which each member drew, and mixup, CutMix and random erasing of whole batches.

As in PAPA (arXiv 2304.03094), whose recipe WASH shares: random erasing image by image, then mixup or CutMix with one
share for the batch. Label smoothing is drawn here and applied in the loss (`member`). Works on batches of any source,
on their device.

Random numbers are drawn for a member's whole batch, and images are mixed in pairs of neighbours, (0, 1), (2, 3) ...,
both of which are always on one replica. So R replicas together see exactly what one replica would see.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from wash_hpc.config import Config
from wash_hpc.data.source import Batch, Shard
from wash_hpc.data.transfer import send
from wash_hpc.seeds import Stream, generator

# Random erasing as PAPA has it: areas as shares of the image's, ratios of height to width.
ERASED_AREAS = (0.02, 1 / 3)
ERASED_RATIOS = (0.3, 1 / 0.3)
NUM_TRIES = 10

Rectangle = tuple[int, int, int, int]
"""Rows top to bottom, then columns left to right; bottom and right are the first that are outside."""


@dataclass(frozen=True)
class Regularization:
    """What one member drew.

    Attributes:
        mixup: a; the share of an image in a mixed one has the distribution Beta(a, a). 0: off.
        cutmix: likewise. Where both are on, one of the two is picked for each batch, with equal odds.
        label_smoothing: the weight of the uniform distribution in the labels.
        random_erasing: the probability that a rectangle of an image is erased.
    """

    mixup: float = 0.0
    cutmix: float = 0.0
    label_smoothing: float = 0.0
    random_erasing: float = 0.0

    def __str__(self) -> str:
        """What is on, in words."""
        on = (f"{name.replace('_', ' ')} {value:g}" for name, value in vars(self).items() if value > 0)
        return ", ".join(on) or "none"


def regularization_of(config: Config, member: int) -> Regularization:
    """What a member draws from the lists in `train`: a function of (seed, member), so equal on all ranks.

    Each member draws one combination of the lists' values, uniform over all of them, without replacement. Where members
    outnumber combinations all are drawn again in the same order, as in PAPA; so one combination serves all members.
    """
    train = config.train
    combinations = list(product(train.mixup, train.cutmix, train.label_smoothing, train.random_erasing))
    order = generator(config.run.seed, Stream.COMBINATION).permutation(len(combinations))
    return Regularization(*combinations[order[member % len(combinations)]])


def describe_regularization(config: Config, num_members: int) -> str:
    """What each member drew, in words; nothing where nothing is on for anyone."""
    drawn = [regularization_of(config, member) for member in range(num_members)]
    if not any(any(vars(one).values()) for one in drawn):
        return ""
    return "; ".join(f"member {member}: {one}" for member, one in enumerate(drawn))


def regularize(
    batches: Iterator[Batch], config: Config, member: int, replica: Shard, first_step: int, num_classes: int
) -> Iterator[Batch]:
    """Erase and mix a member's training batches as it has drawn.

    Args:
        batches: as `Source.train` gives them: this replica's part of each batch, of an even number of images where
            they are mixed.
        config: of the run.
        member: whose.
        replica: the part of each batch.
        first_step: the step of the first batch.
        num_classes: of the images.

    Yields:
        Batches with images in new memory, or the very same batches where nothing is on. The stream from `first_step`
        equals that of a run that never stopped, bit for bit.
    """
    what = regularization_of(config, member)
    if not (what.random_erasing or what.mixup or what.cutmix):
        yield from batches
        return
    mine = slice(replica.of(config.data.batch_size).start, replica.of(config.data.batch_size).stop)
    for step, batch in enumerate(batches, first_step):
        random = generator(config.run.seed, Stream.REGULARIZE, member, step)
        height, width = batch.images.shape[2:]
        if what.random_erasing:
            rectangles = draw_rectangles(random, config.data.batch_size, height, width, what.random_erasing)[mine]
            batch = replace(batch, images=erase(batch.images, torch.from_numpy(rectangles)))
        if what.mixup or what.cutmix:
            batch = mix_pairs(batch, draw_mix(random, what.mixup, what.cutmix, height, width), num_classes)
        yield batch


def draw_rectangles(
    random: np.random.Generator, num_images: int, height: int, width: int, probability: float
) -> NDArray[np.int64]:
    """Which rectangle of each image is erased: the random numbers of torchvision's and timm's RandomErasing.

    Args:
        random: numbers are taken from it.
        num_images: how many.
        height: of the images, in pixels.
        width: of the images, in pixels.
        probability: that an image has such a rectangle.

    Returns:
        [num_images, 4] int64: top, bottom, left, right, the first of ten tries that is smaller than the image in both
        directions; an empty rectangle where the image is left as it is.
    """
    hit = random.random(num_images) < probability
    area = random.uniform(*ERASED_AREAS, size=(num_images, NUM_TRIES)) * height * width
    low, high = map(math.log, ERASED_RATIOS)
    ratio = np.exp(random.uniform(low, high, size=(num_images, NUM_TRIES)))
    sizes = np.rint(np.stack([np.sqrt(area * ratio), np.sqrt(area / ratio)], axis=2)).astype(np.int64)
    fits = (sizes < [height, width]).all(axis=2)
    size = sizes[np.arange(num_images), fits.argmax(axis=1)] * (hit & fits.any(axis=1))[:, None]
    start = random.integers(0, [height, width] - size + 1)
    return np.stack([start, start + size], axis=2).reshape(num_images, 4)


def erase(images: Tensor, rectangles: Tensor) -> Tensor:
    """Give each image's own rectangle the mean colour, 0 after normalisation.

    Args:
        images: [B, C, H, W].
        rectangles: [B, 4] int64 on the CPU, as `draw_rectangles` gives them.

    Returns:
        [B, C, H, W], new memory.
    """
    top, bottom, left, right = send(rectangles, images.device)[:, :, None].unbind(1)
    row, column = (torch.arange(size, device=images.device) for size in images.shape[2:])
    rows, columns = (row >= top) & (row < bottom), (column >= left) & (column < right)
    return images.masked_fill(rows[:, None, :, None] & columns[:, None, None, :], 0.0)


@dataclass(frozen=True)
class Mix:
    """How the images of a batch are mixed with their partners.

    Attributes:
        share: of an image in its mixture, by weight (mixup) or by area (CutMix).
        rectangle: that comes from the partner (CutMix), or None (mixup).
    """

    share: float
    rectangle: Rectangle | None


def draw_mix(random: np.random.Generator, mixup: float, cutmix: float, height: int, width: int) -> Mix:
    """Mixup or CutMix for a batch, of which at least one is on.

    Args:
        random: numbers are taken from it.
        mixup: a of Beta(a, a), or 0.
        cutmix: likewise.
        height: of the images, in pixels.
        width: of the images, in pixels.

    Returns:
        What to do. The rectangle of CutMix has its centre anywhere in the image and is clipped at the image's border;
        the share is that of the pixels that stay.
    """
    cuts = cutmix > 0 and not (mixup > 0 and random.random() < 0.5)
    if not cuts:
        return Mix(random.beta(mixup, mixup), None)
    side = 0.5 * math.sqrt(1 - random.beta(cutmix, cutmix))
    edges = []
    for size in (height, width):
        centre, half = int(random.integers(size)), int(side * size)
        edges += [max(centre - half, 0), min(centre + half, size)]
    top, bottom, left, right = edges
    return Mix(1 - (bottom - top) * (right - left) / (height * width), (top, bottom, left, right))


def mix_pairs(batch: Batch, mix: Mix, num_classes: int) -> Batch:
    """Mix images (0, 1), (2, 3) ... with each other.

    Args:
        batch: of an even number of images, each of one class.
        mix: how.
        num_classes: of the images.

    Returns:
        A batch in new memory: mixed images, the class of the larger share of each, and the shares of all classes.
    """
    images, partners = batch.images, _swap_pairs(batch.images)
    own, others = batch.labels, _swap_pairs(batch.labels)
    if mix.rectangle is None:
        mixed = images * mix.share + partners * (1 - mix.share)
    else:
        top, bottom, left, right = mix.rectangle
        mixed = images.clone()
        mixed[:, :, top:bottom, left:right] = partners[:, :, top:bottom, left:right]
    shares = F.one_hot(own, num_classes) * mix.share + F.one_hot(others, num_classes) * (1 - mix.share)
    return Batch(mixed, own if mix.share >= 0.5 else others, shares)


def _swap_pairs(tensor: Tensor) -> Tensor:
    """The same with rows 0 and 1, 2 and 3 ... exchanged."""
    return tensor.view(-1, 2, *tensor.shape[1:]).flip(1).view_as(tensor)
