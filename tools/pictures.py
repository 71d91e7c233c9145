"""The images of the data sets that are made without a download: digits, clothes, photographs. Writes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wash_hpc.data.digits import read_digits, split_digits
from wash_hpc.data.fashion_mnist import load_fashion_mnist
from wash_hpc.data.source import split_held_out
from wash_hpc.errors import MissingDependencyError

# Of the images of `imagenet-like`: the long side in pixels, and the share of those that have it.
LONG_SIDES = ((100, 500), (500, 500), (500, 1200), (1200, 2200))
SHARES_OF_SIDES = (0.13, 0.77, 0.08, 0.02)
NOISE = 5.0  # standard deviation, of 255


@dataclass(frozen=True)
class Picture:
    """One file to write: `folder`/`name`, from pixels [H, W] or [H, W, 3] uint8."""

    folder: str
    name: str
    pixels: NDArray[np.uint8]


def digits_pictures(side: int) -> Iterator[Picture]:
    """scikit-learn's digits, enlarged to `side` x `side`, split into train, val and test."""
    pixels, labels = read_digits()
    for split, positions in zip(("train", "val", "test"), split_digits(labels), strict=True):
        for position in positions:
            image = Image.fromarray(pixels[position, 0]).resize((side, side), Image.Resampling.BICUBIC)
            yield Picture(f"{split}/{labels[position]}", f"{position:04d}", np.asarray(image))


def fashion_mnist_pictures(path: str | None) -> Iterator[Picture]:
    """Fashion-MNIST: 10 % of its training images become val."""
    images = load_fashion_mnist(path)
    kept, held_out = split_held_out(0, len(images.train.labels), 0.1)
    for split, part in (("train", images.train.at(kept)), ("val", images.train.at(held_out)), ("test", images.test)):
        for number, (pixels, label) in enumerate(zip(part.pixels, part.labels, strict=True)):
            yield Picture(f"{split}/{label}", f"{number:05d}", pixels[0])


def photo_pictures(num_classes: int, images_per_class: int) -> Iterator[Picture]:
    """Crops of scikit-learn's two photographs, of ImageNet's sizes and bytes: for timing and for whole-path tests.

    ImageNet's training files have 108 kB on average, most of them 500 pixels on the long side. A class is a region of
    one photograph, so that there is something to learn. A tenth as many images, at least one, are val.
    """
    try:
        from sklearn.datasets import load_sample_images
    except ImportError as error:
        raise MissingDependencyError(
            "scikit-learn", "pip install scikit-learn", "it bundles the photographs"
        ) from error
    photos = [Image.fromarray(photo) for photo in load_sample_images().images]
    random = np.random.default_rng(0)
    for label in range(num_classes):
        photo, centre = photos[label % len(photos)], random.uniform(0.3, 0.7, size=2)
        for split, num_images in (("train", images_per_class), ("val", max(1, images_per_class // 10))):
            for number in range(num_images):
                yield Picture(f"{split}/class_{label:04d}", f"{number:05d}", _random_photo(photo, centre, random))


def _random_photo(photo: Image.Image, centre: NDArray[np.float64], random: np.random.Generator) -> NDArray[np.uint8]:
    """A window around `centre` (shares of width and height), resized to a size as ImageNet has them, with noise."""
    size = _random_size(random)
    share = random.uniform(0.4, 0.6)
    middle = (centre + random.normal(0, 0.03, size=2)) * photo.size
    half = size * min(photo.width / size[0], photo.height / size[1]) * share / 2
    box = np.concatenate([middle - half, middle + half])
    left, top, right, bottom = (float(at) for at in box.clip(0, [*photo.size, *photo.size]))
    resized = photo.resize((int(size[0]), int(size[1])), Image.Resampling.BICUBIC, box=(left, top, right, bottom))
    # Enlarged photographs are smooth: without noise, files of these sizes would have half of the bytes.
    noise = random.standard_normal((size[1], size[0], 1), dtype=np.float32) * NOISE
    pixels: NDArray[np.uint8] = (np.asarray(resized) + noise).clip(0, 255).astype(np.uint8)
    return pixels


def _random_size(random: np.random.Generator) -> NDArray[np.int64]:
    """Width and height in pixels: mostly some 500x375, a quarter of them upright, some much smaller or larger."""
    low, high = LONG_SIDES[random.choice(len(LONG_SIDES), p=SHARES_OF_SIDES)]
    long = np.exp(random.uniform(np.log(low), np.log(high)))
    size = np.round([long, long * np.clip(random.normal(0.75, 0.06), 0.5, 1)]).astype(np.int64)
    return size[::-1] if random.random() < 0.25 else size
