#!/usr/bin/env python3
"""Images a second of our own path through DALI beside torchvision's loader, measured in turns; `--help` says how.

Ours is what a run reads: `open_source(config, device).train(...)`, training augmentation included. The rival is a
well-written loader of torchvision's reference: ImageFolder, RandomResizedCrop with antialias, RandomHorizontalFlip,
ToTensor, Normalize, in a DataLoader whose workers stay, prefetch, and pin their memory where a GPU is fed. Both read
the same files from a warm file cache, DALI with as many threads as the DataLoader has processes, and both give float32
batches on the device.

Three comparisons. In random order, which is training's. In sequential order: a source has none for training, so its
files are asked for in order, with the random windows of training, of `decode`, which decodes for the source too; the
DataLoader is then not shuffled. And in random order on the same images shrunk once, so that the shorter side is 256.

In each round a few batches at the start are not counted, nor those at the end, where a loader has nothing more to
prefetch: as many as the DataLoader's workers keep ready, which are many on a host of many cores. A data set of fewer
images than a round reads gives each several times. The figures are medians over rounds, and the ratios are those of the
medians.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import median

import numpy as np
import torch
from bench_common import WARM_UP, Figures, describe_machine, in_lines
from make_dataset import write_folder
from pictures import photo_pictures
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from wash_hpc.config import Config, load_config
from wash_hpc.data import open_source
from wash_hpc.data.augment import draw_windows
from wash_hpc.data.folder import scan_splits
from wash_hpc.data.source import Shard
from wash_hpc.errors import ConfigError, DataError, WashError

SHORTER_SIDE = 256  # of shrunk images
NUM_CLASSES = 16  # of images made here
QUALITY = 95  # of JPEG files written here
PREFETCH = 2  # batches that each worker of torchvision's loader keeps ready, torch's own number
FEW = 10  # batches: fewer say nothing
DISTINCT = 2048  # images made here, and shrunk: a round of more reads them again

Stream = Iterator[object]


@dataclass(frozen=True)
class Setting:
    """What both loaders are given.

    Attributes:
        config: names the folder, whose `train` holds the images.
        device: where batches are wanted.
        num_batches: that a round takes, the uncounted ones included.
        num_ahead: of them at the end, which are not counted.
        rounds: of each loader.
    """

    config: Config
    device: torch.device
    num_batches: int
    num_ahead: int
    rounds: int


def main() -> int:
    """Run the benchmark; returns the exit status: 0, or 2 for wrong input."""
    arguments = parse()
    try:
        with tempfile.TemporaryDirectory(prefix="wash_hpc-bench-") as folder:
            figures = measure(arguments, Path(folder))
    except WashError as error:
        print(f"bench_data.py: {error}", file=sys.stderr)
        return 2
    print(json.dumps(figures) if arguments.json else in_lines(figures))
    return 0


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--data", metavar="FOLDER", help="an ImageNet-style folder (default: images made for the time)")
    parser.add_argument("--images", type=int, help="that a round reads (default: 2048, or more for many workers)")
    parser.add_argument("--batch-size", type=int, default=64, help="default 64")
    parser.add_argument(
        "--workers",
        type=int,
        default=cores,
        help=f"threads of DALI, processes of torchvision (default: cores, {cores})",
    )
    parser.add_argument("--rounds", type=int, default=5, help="of each loader, in turns (default 5)")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="cuda: DALI decodes on the GPU")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    if min(arguments.batch_size, arguments.workers, arguments.rounds) < 1:
        parser.error("expected --batch-size, --workers and --rounds of 1 or more")
    uncounted = WARM_UP + num_ahead(arguments.workers)
    least = (uncounted + FEW) * arguments.batch_size
    if arguments.images is None:
        arguments.images = max(2048, (uncounted + 3 * FEW) * arguments.batch_size)
    if arguments.images < least:
        parser.error(
            f"expected --images of at least {uncounted + FEW} batches, which are {least}: "
            f"{uncounted} of a round are not counted"
        )
    return arguments


def num_ahead(workers: int) -> int:
    """Batches that a loader may have ready when a round has been counted."""
    return max(WARM_UP, PREFETCH * workers)


def measure(arguments: argparse.Namespace, folder: Path) -> Figures:
    """Prepare the images in `folder` and compare the loaders on them.

    Raises:
        WashError: there is no such data set, an image of it cannot be decoded, or there is no GPU.
    """
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: torch sees no GPU on this host")
    device = torch.device(arguments.device)
    torch.set_num_threads(1)  # the loaders' threads and processes are counted, torch's own are not
    num_distinct = min(arguments.images, DISTINCT)
    if arguments.data is None:
        write_folder(folder / "made", photo_pictures(NUM_CLASSES, -(-num_distinct // NUM_CLASSES)), QUALITY)
    link_images(arguments.data or str(folder / "made"), folder / "distinct", num_distinct)
    shrink_images(folder / "distinct", folder / "small")
    images, shrunk = folder / "images", folder / "shrunk"
    link_images(str(folder / "distinct"), images, arguments.images)
    link_images(str(folder / "small"), shrunk, arguments.images)
    plain, small = (make_setting(arguments, path, device) for path in (images, shrunk))
    return {
        "machine": describe_machine(None, arguments.device),
        "file_cache": "warm",
        "num_images": arguments.images,
        "mean_file_bytes": mean_file_bytes(images),
        "mean_file_bytes_shrunk": mean_file_bytes(shrunk),
        "workers": arguments.workers,
        "batch_size": arguments.batch_size,
        "rounds": arguments.rounds,
        **compare(plain, ours_in_random_order(plain), torchvision_in_order(plain, shuffle=True), ""),
        **compare(plain, ours_in_sequence(plain), torchvision_in_order(plain, shuffle=False), "_sequential"),
        **compare(small, ours_in_random_order(small), torchvision_in_order(small, shuffle=True), "_shrunk"),
    }


def compare(setting: Setting, ours: Callable[[], Stream], torchvision: Callable[[], Stream], suffix: str) -> Figures:
    """Rounds of both in turns, the first of each unseen: it fills the file cache and starts the workers."""
    speeds: dict[str, list[float]] = {"dali": [], "torchvision": []}
    for number in range(setting.rounds + 1):
        for name, open_stream in (("dali", ours), ("torchvision", torchvision)):
            speed = images_per_second(setting, open_stream())
            if number > 0:
                speeds[name].append(speed)
    dali, rival = median(speeds["dali"]), median(speeds["torchvision"])
    return {
        f"dali_images_per_second{suffix}": dali,
        f"torchvision_images_per_second{suffix}": rival,
        f"dali_over_torchvision{suffix}": dali / rival,
    }


def images_per_second(setting: Setting, stream: Stream) -> float:
    """Of the middle of a round; ends the stream, so that nothing is prefetched while the other one is measured."""
    for _ in range(WARM_UP):
        next(stream)
    num_timed = setting.num_batches - WARM_UP - setting.num_ahead
    begin = time.perf_counter()
    for _ in range(num_timed):
        next(stream)
    if setting.device.type == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - begin
    for _ in stream:
        pass
    return num_timed * setting.config.data.batch_size / seconds


def ours_in_random_order(setting: Setting) -> Callable[[], Stream]:
    """Opens the training batches of one epoch."""
    source = open_source(setting.config, setting.device)

    def batches() -> Stream:
        yield from islice(source.train(0, Shard(), setting.config.data.batch_size, 0), setting.num_batches)

    return batches


def ours_in_sequence(setting: Setting) -> Callable[[], Stream]:
    """Opens batches of the files in order, with random windows, through the pipeline of the source."""
    from wash_hpc.data.bad_files import BadFiles, Request
    from wash_hpc.data.decode import decode

    data = setting.config.data
    images = scan_splits(data.path).train
    random = np.random.default_rng(0)

    def requests() -> Iterator[Request]:
        for start in range(0, setting.num_batches * data.batch_size, data.batch_size):
            positions = np.arange(start, start + data.batch_size)
            low, high = data.crop_scale
            draws = draw_windows(random, data.batch_size, (low, high), data.flip)
            yield Request(positions, draws)

    bad = BadFiles(images, skip=False)
    return lambda: decode(requests(), images, bad, data.batch_size, data, setting.device, augment=True, fill=True)


def torchvision_in_order(setting: Setting, shuffle: bool) -> Callable[[], Stream]:
    """Opens an epoch of torchvision's loader, whose workers stay from round to round."""
    data, on_gpu = setting.config.data, setting.device.type == "cuda"
    low, high = data.crop_scale
    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(data.image_size, scale=(low, high), antialias=True),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(data.mean, data.std),
        ]
    )
    loader: DataLoader[tuple[torch.Tensor, torch.Tensor]] = DataLoader(
        datasets.ImageFolder(f"{data.path}/train", transform),
        batch_size=data.batch_size,
        shuffle=shuffle,
        num_workers=data.workers,
        pin_memory=on_gpu,
        drop_last=True,
        persistent_workers=True,
        prefetch_factor=PREFETCH,
    )

    def batches() -> Stream:
        for images, labels in loader:
            yield images.to(setting.device, non_blocking=True), labels.to(setting.device, non_blocking=True)

    return batches


def make_setting(arguments: argparse.Namespace, folder: Path, device: torch.device) -> Setting:
    """Both loaders' setting for one folder."""
    numbers = [f"data.batch_size={arguments.batch_size}", f"data.workers={arguments.workers}"]
    config = load_config(None, ["data.name=image_folder", f"data.path={folder}", "data.held_out=0", *numbers])
    return Setting(
        config, device, arguments.images // arguments.batch_size, num_ahead(arguments.workers), arguments.rounds
    )


def link_images(source: str, folder: Path, num_images: int) -> None:
    """Make a data set of `num_images` links to training images of another, spread evenly over it.

    Where it has fewer, its images come several times.

    Raises:
        WashError: it is no data set.
    """
    files = scan_splits(source).train
    for number in range(num_images):
        position = number * len(files) // num_images
        file = Path(files.name(position)).resolve()
        link = folder / "train" / file.parent.name / f"{number:07d}{file.suffix}"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(file)
    (folder / "val").symlink_to("train")  # a source wants a split to test on, which is not read here


def shrink_images(source: Path, folder: Path) -> None:
    """Write a data set's training images as JPEG files whose shorter side is 256, as users do once before training.

    Raises:
        DataError: a file cannot be decoded.
    """
    for file in sorted(source.glob("train/*/*")):
        smaller = folder / file.relative_to(source).with_suffix(".jpg")
        smaller.parent.mkdir(parents=True, exist_ok=True)
        try:
            image = Image.open(file).convert("RGB")
        except OSError as error:
            raise DataError(f"{file.resolve()}: this image cannot be decoded") from error
        share = SHORTER_SIDE / min(image.size)
        if share < 1:
            size = (round(image.width * share), round(image.height * share))
            image = image.resize(size, Image.Resampling.BICUBIC)
        image.save(smaller, quality=QUALITY)
    (folder / "val").symlink_to("train")


def mean_file_bytes(folder: Path) -> float:
    """Of the training images."""
    sizes = [file.stat().st_size for file in folder.glob("train/*/*")]
    return sum(sizes) / len(sizes)


if __name__ == "__main__":
    sys.exit(main())
