"""The graph by which DALI decodes, cuts out, resizes and normalises images, on the CPU or a GPU by one code path.

One step differs: on a CPU random windows are resized by torch (`resize`), which halves the time of an image there.

The only module that imports DALI. The order is ours: a plain Python callback gives DALI, batch by batch, paths or
files' bytes, the labels and the random numbers, so that DALI holds no state worth saving and a run resumes at any step
exactly.

    feed (numpy)                  paths or bytes, labels, draws               Python, a few batches ahead
      io.file.read                encoded bytes, where paths are given        C++ threads
      peek_image_shape            height and width, hence the crop window     C++ threads
      decoders.image_slice        the window, decoded                         C++ threads, or the GPU's decoder
      resize, normalise, mirror   [B, 3, H, W] float32                        C++ threads, or the GPU
      first and last bytes        [B, 4] uint8, by which cut files are told   C++ threads
    Batch (torch)                 shares DALI's memory, and keeps it          `decode`
"""

# DALI makes its operators at run time, so mypy sees neither them nor their types.
# mypy: disable-error-code="attr-defined,no-untyped-call"

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from wash_hpc.config import DataConfig
from wash_hpc.data.augment import HEIGHTS, LEFT, MIRROR, NUM_TRIES, RATIOS, TOP, WIDTHS
from wash_hpc.data.resize import resizer
from wash_hpc.errors import MissingDependencyError

try:
    import nvidia.dali
    import nvidia.dali.fn as fn
    import nvidia.dali.math as dali_math
    import nvidia.dali.types as types
    from nvidia.dali.pipeline import Pipeline
except ImportError as error:
    raise MissingDependencyError("NVIDIA DALI", "pip install 'wash_hpc[dali]'") from error

Node = Any  # a DataNode of DALI's graph, whose operators are not annotated


@dataclass(frozen=True)
class Inputs:
    """What DALI is given for a batch.

    Attributes:
        files: B arrays of uint8, each a path or the bytes of a file.
        labels: [B] int64.
        draws: [B, 23] float32 as `augment.draw_windows` gives them; None: the centre, not mirrored.
    """

    files: list[NDArray[np.uint8]]
    labels: NDArray[np.int64]
    draws: NDArray[np.float32] | None


def version() -> str:
    """DALI's version."""
    return str(nvidia.dali.__version__)


def build_pipeline(
    feed: Iterator[Inputs], are_paths: bool, max_batch_size: int, data: DataConfig, device: torch.device, augment: bool
) -> Pipeline:
    """The graph from a feed to images, labels, and the first and last bytes of files.

    Args:
        feed: the batches, of at most `max_batch_size` images.
        are_paths: the feed gives paths; else the files' bytes.
        max_batch_size: sizes DALI's memory.
        data: sizes, normalisation and number of threads.
        device: where images and labels are wanted.
        augment: cut out the window that the draws give; else the centre.

    Returns:
        A pipeline whose `run` gives [B, 3, H, W] float32 and [B] int64 on the device, and [B, 4] uint8 on the CPU. It
        raises StopIteration behind the feed's end, and RuntimeError where a file cannot be read or decoded.
    """
    on_gpu = device.type == "cuda"
    pipeline = Pipeline(
        batch_size=max_batch_size,
        num_threads=data.workers,
        device_id=(torch.cuda.current_device() if device.index is None else device.index) if on_gpu else None,
        prefetch_queue_depth=data.prefetch,
        exec_dynamic=True,
    )
    kinds, axes = [types.UINT8, types.INT64, types.FLOAT], [1, 0, 1]
    num_inputs = 3 if augment else 2
    with pipeline:
        files, labels, *draws = fn.external_source(
            source=_encode(feed), num_outputs=num_inputs, dtype=kinds[:num_inputs], ndim=axes[:num_inputs]
        )
        encoded = _read(files) if are_paths else files
        if augment:
            images = _random_crop(encoded, draws[0], data, on_gpu)
            mirror: Node = fn.cast(draws[0][MIRROR], dtype=types.INT32)
        else:
            images = _centre_crop(encoded, data, on_gpu)
            mirror = 0
        normalised = fn.crop_mirror_normalize(
            images,
            dtype=types.FLOAT,
            output_layout="CHW",
            mean=[255 * value for value in data.mean],
            std=[255 * value for value in data.std],
            mirror=mirror,
        )
        ends = fn.stack(encoded[0], encoded[1], encoded[-2], encoded[-1])
        pipeline.set_outputs(normalised, labels.gpu() if on_gpu else labels, ends)
    pipeline.build()
    return pipeline


def run_pipeline(pipeline: Pipeline, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, NDArray[np.uint8]]:
    """The next batch of `build_pipeline`: images, labels and ends; the memory of both tensors stays theirs.

    Raises:
        StopIteration, RuntimeError: as there.
    """
    images, labels, ends = pipeline.run(torch.cuda.current_stream(device) if device.type == "cuda" else None)
    # No copy: DALI's dynamic executor hands the memory over, and torch keeps it for as long as the tensor lives.
    return (
        torch.from_dlpack(images.as_tensor()),
        torch.from_dlpack(labels.as_tensor()),
        np.array(ends.as_tensor()),
    )


def _random_crop(encoded: Node, draws: Node, data: DataConfig, on_gpu: bool) -> Node:
    """The window that the draws give, decoded alone and resized."""
    height, width = _image_shape(encoded)
    corner, shape = random_window(height, width, draws)
    images = fn.decoders.image_slice(encoded, corner, shape, axes=[0, 1], **decoding(on_gpu, data))
    if not on_gpu:
        resize = resizer(data.image_size, data.workers)
        return fn.python_function(images, function=resize, batch_processing=True, output_layouts=["HWC"])
    return fn.resize(images, size=[data.image_size] * 2, interp_type=types.INTERP_LINEAR, antialias=True)


def random_window(height: Node, width: Node, draws: Node) -> tuple[Node, Node]:
    """`augment.first_valid_window` in DALI's arithmetic, which has no branches: 0 and 1 are multiplied in their stead.

    Args:
        height: of each image, int32.
        width: of each image, int32.
        draws: [23] float32 for each image.

    Returns:
        (top, left) and (height, width) of each window, [2] int32 each.
    """
    side = dali_math.sqrt(fn.cast(height * width, dtype=types.FLOAT))
    heights = _floor(draws[HEIGHTS] * side + 0.5)
    widths = _floor(draws[WIDTHS] * side + 0.5)
    fits = (heights > 0) & (widths > 0) & (heights <= height) & (widths <= width)
    # The first that fits has the largest rank; where none does the largest is 0.
    rank = fn.cast(fits, dtype=types.INT32) * types.Constant(np.arange(NUM_TRIES, 0, -1, dtype=np.int32))
    best = fn.reductions.max(rank, axes=[0])
    chosen = fn.cast((rank == best) & (best > 0), dtype=types.INT32)
    any_fits = fn.cast(best > 0, dtype=types.INT32)
    starts, lengths = [], []
    for size, sizes, largest, corner in (
        (height, heights, _floor(width / RATIOS[0] + 0.5), draws[TOP]),
        (width, widths, _floor(height * RATIOS[1] + 0.5), draws[LEFT]),
    ):
        drawn = fn.reductions.sum(sizes * chosen, axes=[0], dtype=types.INT32)
        length = any_fits * drawn + (1 - any_fits) * dali_math.min(size, largest)
        room = size - length
        lengths.append(length)
        starts.append(any_fits * dali_math.min(_floor(corner * (room + 1)), room) + (1 - any_fits) * (room // 2))
    return fn.stack(*starts), fn.stack(*lengths)


def _centre_crop(encoded: Node, data: DataConfig, on_gpu: bool) -> Node:
    """Resize so that the shorter side has `data.resize` pixels and cut out the centre, both in one pass."""
    height, width = _image_shape(encoded)
    smaller = dali_math.min(height, width)
    starts, ends = [], []
    for size in (height, width):
        resized = (size * data.resize) // smaller  # torchvision drops the fraction of a pixel
        room = resized - data.image_size
        start = room // 2 + (room & 1) * (room // 2 & 1)  # torchvision rounds a half to the even neighbour
        step = fn.cast(size, dtype=types.FLOAT) / fn.cast(resized, dtype=types.FLOAT)
        starts.append(start * step)
        ends.append((start + data.image_size) * step)
    return fn.resize(
        fn.decoders.image(encoded, **decoding(on_gpu, data)),
        size=[data.image_size] * 2,
        roi_start=fn.stack(*starts),
        roi_end=fn.stack(*ends),
        interp_type=types.INTERP_LINEAR,
        antialias=True,
    )


def decoding(on_gpu: bool, data: DataConfig) -> dict[str, Any]:
    """How files are decoded: as torchvision's loader does, so not turned by the camera's orientation tag."""
    how: dict[str, Any] = {
        "device": "mixed" if on_gpu else "cpu",
        "adjust_orientation": False,
        "jpeg_fancy_upsampling": True,
    }
    if on_gpu:
        height, width = data.decoder_size_hint
        how |= {"preallocate_height_hint": height, "preallocate_width_hint": width}
        if data.hw_decoder_share is not None:  # else DALI's own default, 0.65
            how["hw_decoder_load"] = data.hw_decoder_share
    return how


def _image_shape(encoded: Node) -> tuple[Node, Node]:
    shape = fn.peek_image_shape(encoded, dtype=types.INT32, adjust_orientation=False)
    return shape[0], shape[1]


def _floor(value: Node) -> Node:
    return fn.cast(dali_math.floor(value), dtype=types.INT32)


def _read(paths: Node) -> Node:
    return fn.io.file.read(paths, dont_use_mmap=True)  # mapping files is slow on network file systems


def _encode(feed: Iterator[Inputs]) -> Callable[[], tuple[Any, ...]]:
    """The callback that DALI asks for a batch; it ends with StopIteration."""

    def next_batch() -> tuple[Any, ...]:
        batch = next(feed)
        inputs = (batch.files, batch.labels)
        return inputs if batch.draws is None else (*inputs, batch.draws)

    return next_batch


class TrialDecoder:
    """Decodes one whole image at a time, on the CPU, where a file that is cut short is an error in every format.

    Args:
        are_paths: images are given as paths; else as the files' bytes.
    """

    def __init__(self, are_paths: bool) -> None:
        self._are_paths = are_paths
        self._pipeline: Pipeline | None = None

    def can_decode(self, file: NDArray[np.uint8]) -> bool:
        """Whether an image, given as `Inputs.files` has it, can be read and decoded."""
        if self._pipeline is None:
            self._pipeline = Pipeline(batch_size=1, num_threads=1, device_id=None, prefetch_queue_depth=1)
            with self._pipeline:
                given = fn.external_source(name="file", dtype=types.UINT8, ndim=1)
                encoded = _read(given) if self._are_paths else given
                self._pipeline.set_outputs(fn.decoders.image(encoded, **decoding(False, DataConfig())))
        try:
            self._pipeline.run(file=[file])
        except RuntimeError:
            self._pipeline = None  # one that has failed cannot be used again
            return False
        return True
