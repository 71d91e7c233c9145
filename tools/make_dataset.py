#!/usr/bin/env python3
"""Make a data set out of what is at hand without a download: an ImageNet-style folder of JPEG files, or a text file;
or pack such a folder into WebDataset shards, or index shards that others made.

Owns the writing of all, complete or absent. What is in the images is `pictures`' business, what an index is the
package's.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
from numpy.typing import NDArray
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run from a clone that is not installed

from pictures import Picture, digits_pictures, fashion_mnist_pictures, photo_pictures

from wash_hpc.data.encoded import EncodedImages
from wash_hpc.data.folder import scan_splits
from wash_hpc.data.shards import write_index
from wash_hpc.errors import DataError, WashError
from wash_hpc.storage.files import make_folder, write_atomically

EXAMPLES = """examples:
  python tools/make_dataset.py digits data/digits
  python tools/make_dataset.py fashion-mnist data/fashion-mnist
  python tools/make_dataset.py imagenet-like data/photos --classes 20 --images-per-class 50
  python tools/make_dataset.py text data/text.txt
  python tools/make_dataset.py shards data/photos data/photo-shards   # for data.name=shards
  python tools/make_dataset.py index /datasets/imagenet-webdataset

exit status: 0 written, 2 refused or failed (nothing is left behind)
"""


PHOTOS = (
    "crops of two photographs, train and val, in ImageNet's layout and sizes: on average 110 kB a file at the default "
    "quality; of a hundred, 77 have a long side of 500 pixels, 13 of 100 to 500, 8 of 500 to 1200, 2 of 1200 to 2200"
)


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and write the folder or file; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        if options.kind == "text":
            made = f"{write_text(options.out, python_reference()):,} bytes"
        elif options.kind == "index":
            made = f"an index of {write_index(options.out):,} samples"
        elif options.kind == "shards":
            made = f"{pack_shards(options.folder, options.out, options.images_per_shard, options.seed):,} samples"
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
    num_files = 0
    with _new_folder(out) as partial:
        for picture in pictures:
            folder = partial / picture.folder
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture.pixels).save(folder / f"{picture.name}.jpg", quality=quality)
            num_files += 1
    return num_files


def pack_shards(source: Path, out: Path, images_per_shard: int, seed: int) -> int:
    """Pack a class folder into shards of a shuffled order, with an index; files go in as they are.

    Args:
        source: as `scan_splits` wants it; a label is the place of its class in the sorted names.
        out: the folder to make; complete or absent.
        images_per_shard: at most so many are in one.
        seed: of the order.

    Returns:
        The number of samples written.

    Raises:
        DataError: `source` is not as it should be, `out` exists, or a file cannot be read or written.
    """
    found = scan_splits(str(source))
    splits = {"train": found.train, "test" if (source / "test").is_dir() else "val": found.test}
    if found.held_out is not None:
        splits["val"] = found.held_out
    random = np.random.default_rng(seed)
    with _new_folder(out) as partial:
        for split, images in splits.items():
            order = random.permutation(len(images))
            for number, start in enumerate(range(0, len(order), images_per_shard)):
                chosen = order[start : start + images_per_shard]
                _write_shard(partial / f"{split}-{number:06d}.tar", images, chosen, first=start)
        return write_index(partial)


def _write_shard(shard: Path, images: EncodedImages, chosen: NDArray[np.int64], first: int) -> None:
    """Samples KEY.EXTENSION and KEY.cls; the key says the class and the file, after a number that no other has."""
    with tarfile.open(shard, "w", format=tarfile.GNU_FORMAT, encoding="utf-8", errors="surrogateescape") as tar:
        for number, position in enumerate(chosen.tolist(), first):
            file = Path(images.name(position))
            # A key ends at the first dot of the name.
            key = f"{number:08d}_{file.parent.name}_{file.stem}".replace(".", "_")
            try:
                image = file.read_bytes()
            except OSError as error:
                raise DataError(f"{file}: cannot be read: {error.strerror}") from error
            label = str(images.labels[position]).encode()
            for name, content in ((f"{key}{file.suffix.lower()}", image), (f"{key}.cls", label)):
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """A folder to fill, which takes the name `out` when the block ends, and is removed if it raises."""
    _refuse_to_overwrite(out)
    partial: Path | None = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
        partial.chmod(0o777 & ~_umask())
        yield partial
        partial.rename(out)
    except OSError as error:
        raise DataError(f"{out}: cannot be written: {error.strerror or error}") from error
    finally:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)


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
    shards = kinds.add_parser("shards", help="pack a folder of images into WebDataset shards, not encoded again")
    shards.add_argument("folder", type=Path, metavar="FOLDER", help="train/CLASS/*.jpg, val/CLASS/*.jpg, test/...")
    shards.add_argument("out", type=Path, metavar="OUT", help="the folder to make; it must not exist")
    shards.add_argument("--images-per-shard", type=_positive, default=5000, help="default 5000: 600 MB of ImageNet")
    shards.add_argument("--seed", type=int, default=0, help="of the order in which images are packed; default 0")
    index = kinds.add_parser(
        "index", help="write index.npz for train-*.tar, val-*.tar, test-*.tar, so that a start need not go through them"
    )
    index.add_argument("out", type=Path, metavar="FOLDER", help="the folder of the shards")
    photos = _kind(kinds, "imagenet-like", PHOTOS)
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
