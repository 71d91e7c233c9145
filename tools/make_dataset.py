#!/usr/bin/env python3
"""Make a data set out of what is at hand without a download: an ImageNet-style folder of JPEG files, or a text file.

Owns the writing of both, complete or absent. What the digits are and how they are split is the package's.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
from numpy.typing import NDArray
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run from a clone that is not installed

from wash_hpc.data.digits import read_digits, split_digits
from wash_hpc.data.fashion_mnist import load_fashion_mnist
from wash_hpc.data.source import split_held_out
from wash_hpc.errors import DataError, MissingDependencyError, WashError
from wash_hpc.storage.files import make_folder, write_atomically

EXAMPLES = """examples:
  python tools/make_dataset.py digits data/digits
  python tools/make_dataset.py fashion-mnist data/fashion-mnist
  python tools/make_dataset.py imagenet-like data/photos --classes 20 --images-per-class 50
  python tools/make_dataset.py text data/text.txt

exit status: 0 written, 2 refused or failed (nothing is left behind)
"""


@dataclass(frozen=True)
class Picture:
    """One file to write: `folder`/`name`, from pixels [H, W] or [H, W, 3] uint8."""

    folder: str
    name: str
    pixels: NDArray[np.uint8]


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and write the folder or file; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        if options.kind == "text":
            made = f"{write_text(options.out, python_reference()):,} bytes"
        else:
            made = f"{write_folder(options.out, _pictures(options), options.quality)} images"
    except WashError as error:
        print(f"make_dataset.py: {error}", file=sys.stderr)
        return 2
    print(f"{options.out}: {made}")
    return 0


def write_text(out: Path, text: str) -> int:
    """Write a text as UTF-8; `out` is complete or absent.

    Returns:
        The number of bytes written.

    Raises:
        WashError: `out` exists, or cannot be written.
    """
    _refuse_to_overwrite(out)
    make_folder(out.parent)
    write_atomically(out, text)
    return len(text.encode())


def python_reference() -> str:
    """Python's language reference, which its help brings along: some 400 kB of English.

    Some topics repeat what others say: a paragraph is taken once, so that the end of the text is not in its beginning.
    """
    paragraphs = "\n\n".join(topics[name].strip() for name in sorted(topics)).split("\n\n")
    return "\n\n".join(dict.fromkeys(paragraphs)) + "\n"


def write_folder(out: Path, pictures: Iterable[Picture], quality: int) -> int:
    """Write the pictures as JPEG files beside `out` and rename at the end, so that `out` is complete or absent.

    Args:
        out: the folder to make; its parents are made too.
        pictures: what to write.
        quality: of the JPEG files, 1 to 100.

    Returns:
        The number of files written.

    Raises:
        DataError: `out` exists, or a file cannot be written.
    """
    _refuse_to_overwrite(out)
    num_files = 0
    partial: Path | None = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
        partial.chmod(0o777 & ~_umask())
        for picture in pictures:
            folder = partial / picture.folder
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture.pixels).save(folder / f"{picture.name}.jpg", quality=quality)
            num_files += 1
        partial.rename(out)
    except OSError as error:
        raise DataError(f"{out}: cannot be written: {error.strerror or error}") from error
    finally:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)
    return num_files


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
    """Crops of scikit-learn's two photographs, of about ImageNet's sizes: for timing and for whole-path tests.

    A class is a region of one photograph, so that there is something to learn. A tenth as many images, at least one,
    are val.
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
    """A window around `centre` (shares of width and height), resized to about 500x375 or, now and then, upright."""
    size = np.round(random.normal((500, 375), (40, 30))).astype(int).clip(200, 640)
    if random.random() < 0.25:
        size = size[::-1]
    share = random.uniform(0.4, 0.6)
    middle = (centre + random.normal(0, 0.03, size=2)) * photo.size
    half = size * min(photo.width / size[0], photo.height / size[1]) * share / 2
    box = np.concatenate([middle - half, middle + half])
    left, top, right, bottom = (float(at) for at in box.clip(0, [*photo.size, *photo.size]))
    resized = photo.resize((int(size[0]), int(size[1])), Image.Resampling.BICUBIC, box=(left, top, right, bottom))
    return np.asarray(resized)


def _pictures(options: argparse.Namespace) -> Iterator[Picture]:
    if options.kind == "digits":
        return digits_pictures(options.side)
    if options.kind == "fashion-mnist":
        return fashion_mnist_pictures(options.source)
    return photo_pictures(options.classes, options.images_per_class)


def _refuse_to_overwrite(out: Path) -> None:
    if out.exists() or out.is_symlink():
        raise DataError(f"{out}: this exists already; remove it or name another place")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    digits = _kind(kinds, "digits", "scikit-learn's 1,797 digits: train, val, test")
    text = kinds.add_parser("text", help="Python's language reference, some 400 kB of English: one file")
    text.add_argument("out", type=Path, metavar="OUT", help="the file to make; it must not exist")
    digits.add_argument("--side", type=_positive, default=32, help="pixels a side; default 32")
    fashion = _kind(kinds, "fashion-mnist", "Fashion-MNIST: train, val, test")
    fashion.add_argument("--source", help="folder of the four idx files; default: Debian's dataset-fashion-mnist")
    photos = _kind(kinds, "imagenet-like", "crops of two photographs at about 500x375: train, val")
    photos.add_argument("--classes", type=_positive, default=10, help="default 10")
    photos.add_argument("--images-per-class", type=_positive, default=50, help="of train; default 50")
    return parser


def _kind(kinds: argparse._SubParsersAction[argparse.ArgumentParser], name: str, text: str) -> argparse.ArgumentParser:
    parser = kinds.add_parser(name, help=text, description=text)
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder to make; it must not exist")
    parser.add_argument("--quality", type=_quality, default=95, help="of the JPEG files, 1 to 100; default 95")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected a whole number of at least 1")
    return int(text)


def _quality(text: str) -> int:
    if _positive(text) > 100:
        raise argparse.ArgumentTypeError(f"{text}: expected 1 to 100")
    return int(text)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


if __name__ == "__main__":
    sys.exit(main())
