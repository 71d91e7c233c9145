"""Batches out of encoded images, some batches ahead, and past files that cannot be used. The graph is `dali`'s."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray

from wash_hpc.config import DataConfig
from wash_hpc.data.bad_files import BadFiles, Request
from wash_hpc.data.dali import Inputs, build_pipeline, run_pipeline
from wash_hpc.data.encoded import EncodedImages
from wash_hpc.data.source import Batch

NUM_READERS = 16  # threads that read from shards: on a network file system the time goes into waiting
NUM_READ_AHEAD = 2  # batches, besides those that DALI works on

Files = list[NDArray[np.uint8]]


def decode(
    requests: Iterator[Request],
    images: EncodedImages,
    bad: BadFiles,
    max_batch_size: int,
    data: DataConfig,
    device: torch.device,
    augment: bool,
    fill: bool,
) -> Iterator[Batch]:
    """Decode and resize the images of each request, in background threads.

    Where a file is bad the pipeline is made anew from the batch that met it. So what comes out is a function of the
    requests and of which files are bad, whenever that was found.

    Args:
        requests: of at most `max_batch_size` images each.
        images: the split that their positions are of.
        bad: its bad files.
        max_batch_size: sizes DALI's memory.
        data: sizes, normalisation and number of threads.
        device: where batches are wanted; DALI decodes and resizes there.
        augment: cut out the window that the draws give; else the centre.
        fill: bad files' places in a batch are taken by others of it; else batches are smaller, and none is empty.

    Yields:
        Batches that stay valid after the next is taken.

    Raises:
        DataError: a file cannot be read or decoded, and is not to be skipped; or none of a batch to be filled can.
    """
    while True:
        waiting: deque[tuple[Request, Request]] = deque()  # given to DALI and not come out: as asked for, as given
        with closing(
            _feed(_take(requests, bad, fill, waiting), images)
        ) as feed:  # DALI would keep its threads and files
            pipeline = build_pipeline(feed, images.are_paths, max_batch_size, data, device, augment)
            while True:
                try:
                    pixels, labels, ends = run_pipeline(pipeline, device)
                except StopIteration:
                    return
                except RuntimeError:
                    if not any(bad.find(given.positions) for _, given in waiting):
                        raise
                    break
                if bad.find_truncated(waiting[0][1].positions, ends):
                    break
                waiting.popleft()
                yield Batch(pixels, labels)
        requests = chain([asked for asked, _ in waiting], requests)


def _take(
    requests: Iterator[Request], bad: BadFiles, fill: bool, waiting: deque[tuple[Request, Request]]
) -> Iterator[Request]:
    """Requests without the bad files that are known, each written down."""
    for request in requests:
        given = bad.without(request, fill)
        if len(given.positions):
            waiting.append((request, given))
            yield given


def _feed(requests: Iterator[Request], images: EncodedImages) -> Generator[Inputs, None, None]:
    """What DALI is given for each request."""
    feed = _read_paths if images.are_paths else _read_ahead
    for request, files in feed(requests, images):
        yield Inputs(files, images.labels[request.positions], request.draws)


def _read_paths(requests: Iterator[Request], images: EncodedImages) -> Iterator[tuple[Request, Files]]:
    return ((request, images.inputs(request.positions)) for request in requests)


def _read_ahead(requests: Iterator[Request], images: EncodedImages) -> Iterator[tuple[Request, Files]]:
    """Each request with the bytes of its files, which are read in threads while DALI works on batches before it."""
    readers = ThreadPoolExecutor(NUM_READERS, thread_name_prefix="read")
    ahead: deque[tuple[Request, list[Future[Files]]]] = deque()
    try:
        for request in chain(requests, [None] * NUM_READ_AHEAD):
            if request is not None:
                parts = np.array_split(request.positions, min(NUM_READERS, len(request.positions)))
                ahead.append((request, [readers.submit(images.inputs, part) for part in parts]))
            if ahead and (request is None or len(ahead) > NUM_READ_AHEAD):
                first, futures = ahead.popleft()
                yield first, [file for future in futures for file in future.result()]
    finally:
        readers.shutdown(cancel_futures=True)
