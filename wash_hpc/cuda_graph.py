"""Work on a GPU that is recorded once and replayed: the host gives one command in place of a thousand.

Nothing of a recording may change but the content of memory: no shape, no address, no number that Python computes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

_WARM_UP = 3  # calls before the recording, in which libraries choose and load their kernels


class Replayed:
    """A function without arguments or result whose work on the GPU is a CUDA graph.

    The first calls run as usual, and count as any other. Random numbers of torch's generator are those of a call that
    is not replayed: the graph reads the seed that is set before each replay.

    Args:
        work: does the same to the same memory in every call.
    """

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work
        self._stream = torch.cuda.Stream()
        self._num_calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        """Do the work, on the current stream or ordered with it."""
        self._num_calls += 1
        if self._num_calls <= _WARM_UP:
            # On the stream of the recording: autograd remembers on which one a gradient is accumulated.
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                self._work()
            torch.cuda.current_stream().wait_stream(self._stream)
            return
        if self._graph is None:
            self._graph = torch.cuda.CUDAGraph()
            # Of this thread alone: others prepare exchanges and batches meanwhile, in streams of their own.
            with torch.cuda.graph(self._graph, stream=self._stream, capture_error_mode="thread_local"):
                self._work()
        self._graph.replay()
