"""Whether MPI is handed GPU memory or a copy in host memory: tried and timed with real buffers where that is safe."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Literal

import numpy as np
import torch
from mpi4py import MPI

from wash_hpc.errors import ConfigError
from wash_hpc.parallel.exchange import Exchange
from wash_hpc.parallel.world import Comm, World, agreed
from wash_hpc.seeds import Stream, generator
from wash_hpc.shuffle.draw import Drawer
from wash_hpc.shuffle.plan import make_plan
from wash_hpc.shuffle.reference import shuffle_members

Setting = Literal["auto", "on", "off"]
_SIZE = 4096
_ROUNDS = 10


@dataclass(frozen=True)
class Memory:
    """What exchanges hand to MPI.

    Attributes:
        staged: a copy in pinned host memory; else the GPU's own memory, or on a CPU the buffers as they are.
        reason: why, for the log; empty on a CPU.
    """

    staged: bool
    reason: str


def choose_memory(world: World, device: torch.device, setting: Setting, expected_moved: float) -> Memory:
    """Choose what exchanges hand to MPI. Collective over the world, and the same on all ranks.

    `auto` tries GPU memory only where the MPI library says that it takes it, since with another the trial would end
    the process; `on` tries it anyhow. What passed the trial is timed beside staging, with exchanges of the run's size.

    Args:
        world: the ranks.
        device: of the values.
        setting: `parallel.device_buffers`.
        expected_moved: mean number of values that a member sends in one exchange.

    Raises:
        ConfigError: `on`, and values came back wrong, or torch's allocator makes it slow; on all ranks.
    """
    if device.type == "cpu" or world.layout.num_members == 1:
        return Memory(False, "")
    if setting == "off":
        return Memory(True, "exchanges go through pinned host memory: parallel.device_buffers=off")
    slow = name_slow_allocator(os.environ)
    with agreed(world.comm):
        if setting == "on" and slow:
            raise ConfigError(f"{slow}: makes parallel.device_buffers=on very slow; unset it, or use off")
    obstacle = slow or ("" if says_cuda_aware() else "this MPI does not say that it takes GPU memory")
    if setting == "auto" and world.comm.allreduce(bool(obstacle), MPI.LOR):
        return Memory(True, f"exchanges go through pinned host memory: {obstacle or 'not all ranks can do without'}")
    exact = world.comm.allreduce(try_exchange(world.exchange_comm, device, staged=False), MPI.LAND)
    if not exact and setting == "on":
        error = ConfigError("parallel.device_buffers=on: this MPI does not deliver GPU memory right; use off")
        error.agreed = True
        raise error
    seconds = [measure_exchange(world.exchange_comm, device, staged, expected_moved) for staged in (False, True)]
    direct, through_host = (world.comm.allreduce(each, MPI.MAX) for each in seconds)
    return choose(setting, exact, direct, through_host)


def choose(setting: Setting, exact: bool, direct_seconds: float, staged_seconds: float) -> Memory:
    """The choice, from what was seen. Pure.

    Args:
        setting: `on` or `auto`.
        exact: whether exchanges of GPU memory delivered every value.
        direct_seconds: of one exchange of GPU memory.
        staged_seconds: of one exchange through host memory.
    """
    if not exact:
        return Memory(True, "exchanges go through pinned host memory: this MPI does not deliver GPU memory right")
    staged = setting == "auto" and staged_seconds < direct_seconds
    figures = (
        f"{direct_seconds * 1e6:.0f} us an exchange in GPU memory, {staged_seconds * 1e6:.0f} us through the host's"
    )
    return Memory(staged, f"exchanges go through {'pinned host' if staged else 'GPU'} memory: {figures}")


def says_cuda_aware() -> bool:
    """Whether the MPI library says of itself that it takes GPU memory; False also where it says nothing. Local."""
    try:
        return bool(ctypes.CDLL(MPI.__file__).MPIX_Query_cuda_support())
    except AttributeError:  # an extension that not every MPI has
        return False


def try_exchange(comm: Comm, device: torch.device, staged: bool) -> bool:
    """A shuffle with all ranks of `comm` as members, compared with the slow reference. Collective over `comm`.

    Returns:
        Whether every value that this rank got is exact.
    """
    drawer = Drawer(0, comm.size, [_SIZE], np.array([0.5]))
    everyone = torch.from_numpy(generator(0, Stream.SYNTHETIC, 0).standard_normal((comm.size, _SIZE + 1))).float()
    everyone[:, -1] = 0
    mine = everyone[comm.rank].to(device)
    draw = drawer.draw(1)
    exchange = Exchange(comm, mine, drawer.most_expected_moved, staged)
    exchange(exchange.prepare(make_plan(draw, comm.rank)))
    return torch.equal(mine.cpu(), shuffle_members(everyone, draw)[comm.rank])


def measure_exchange(comm: Comm, device: torch.device, staged: bool, expected_moved: float) -> float:
    """Median seconds of an exchange of about so many values. Collective over `comm`."""
    size = max(_SIZE, int(10 * expected_moved))
    p = min(1.0, expected_moved / size * comm.size / max(comm.size - 1, 1))
    drawer = Drawer(0, comm.size, [size], np.array([p]))
    exchange = Exchange(comm, torch.zeros(size + 1, device=device), drawer.most_expected_moved, staged)
    seconds = []
    for step in range(_ROUNDS):
        transfer = exchange.prepare(make_plan(drawer.draw(step), comm.rank))
        comm.Barrier()
        begin = time.perf_counter()
        exchange(transfer)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - begin)
    return median(seconds)


def name_slow_allocator(environment: Mapping[str, str]) -> str:
    """torch's allocator settings under which CUDA-aware MPI is silently hundreds of times slower; empty for none."""
    for variable in ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"):
        settings = environment.get(variable, "")
        if "expandable_segments:True" in settings or "cudaMallocAsync" in settings:
            return f"{variable}={settings}"
    return ""
