"""Whether MPI can be handed GPU memory here, found out with real device buffers and never from a version string."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from wash_hpc.errors import ConfigError
from wash_hpc.parallel.exchange import Exchange
from wash_hpc.parallel.world import Comm, agreed
from wash_hpc.seeds import Stream, generator
from wash_hpc.shuffle.draw import Drawer
from wash_hpc.shuffle.plan import make_plan
from wash_hpc.shuffle.reference import shuffle_members

_SIZE = 4096


def require_device_buffers(comm: Comm, device: torch.device) -> None:
    """Try an exchange on device buffers and check every value. Collective over `comm`.

    An MPI library without CUDA support may also end the process: that is the risk of `parallel.device_buffers=on`.

    Raises:
        ConfigError: values came back wrong; on all ranks.
    """
    drawer = Drawer(0, comm.size, [_SIZE], np.array([0.5]))
    everyone = torch.from_numpy(generator(0, Stream.SYNTHETIC, 0).standard_normal((comm.size, _SIZE))).float()
    mine = everyone[comm.rank].to(device)
    draw = drawer.draw(1)
    Exchange(comm, mine, drawer.expected_picked, device_buffers=True)(make_plan(draw, comm.rank))
    exact = torch.equal(mine.cpu(), shuffle_members(everyone, draw)[comm.rank])
    with agreed(comm):
        if not exact:
            raise ConfigError("parallel.device_buffers=on: this MPI does not deliver GPU memory right; use off")


def require_plain_allocator(environment: Mapping[str, str]) -> None:
    """Refuse torch's allocator settings under which CUDA-aware MPI is silently hundreds of times slower.

    Raises:
        ConfigError: naming the variable.
    """
    for variable in ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"):
        settings = environment.get(variable, "")
        if "expandable_segments:True" in settings or "cudaMallocAsync" in settings:
            raise ConfigError(
                f"{variable}={settings}: makes parallel.device_buffers=on very slow; unset it, or use off"
            )
