"""Which GPU each rank takes, who shares one, and what `wash-hpc doctor` says of them. No communication.

What a host has is asked of torch in two functions; all else is pure, so that it is tested where there is no GPU.
"""

from __future__ import annotations

import os
import platform
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from wash_hpc.config import ParallelConfig
from wash_hpc.errors import ConfigError
from wash_hpc.parallel.placement import name_ranks

LEAST_FREE = 0.1  # share of a GPU's memory below which somebody else seems to be on it


@dataclass(frozen=True)
class Place:
    """Where one rank computes.

    Attributes:
        host: its name.
        gpu: the UUID of the GPU that the rank takes; None: it computes on the CPU.
    """

    host: str
    gpu: str | None


@dataclass(frozen=True)
class Gpu:
    """One GPU as a rank sees it, with the rank's own CUDA context on it.

    Attributes:
        host: its host's name.
        uuid: of the GPU.
        total_bytes: its memory.
        free_bytes: what of it nobody has taken.
        mps_folder: where an MPS daemon of that host is listening; None: there is none.
    """

    host: str
    uuid: str
    total_bytes: int
    free_bytes: int
    mps_folder: str | None


@dataclass(frozen=True)
class View:
    """The GPUs as one rank sees them.

    Attributes:
        place: where the rank would compute.
        seen: those that it has looked at.
        num_given: that Slurm says the job has on the rank's node; 0 where it says nothing.
        num_present: for which the rank's host has a device file.
    """

    place: Place
    seen: tuple[Gpu, ...] = ()
    num_given: int = 0
    num_present: int = 0


def number_of_gpu(local_rank: int) -> int:
    """The GPU of a rank among those that torch shows it: ranks of a host take them in turn."""
    return local_rank % torch.cuda.device_count()


def place_of(device: torch.device) -> Place:
    """Where this rank computes."""
    on_gpu = device.type == "cuda"
    return Place(platform.node(), str(torch.cuda.get_device_properties(device).uuid) if on_gpu else None)


def find_fault(places: Sequence[Place], parallel: ParallelConfig) -> ConfigError | None:
    """What is wrong with the ranks' devices, looked at together.

    Args:
        places: of each rank.
        parallel: whether ranks may share a GPU, and who reduces.

    Returns:
        An error, where some ranks have a GPU and some have none, where several share one unasked, or where NCCL would
        meet two on one; else None.
    """
    without = [rank for rank, place in enumerate(places) if place.gpu is None]
    if len(without) == len(places):
        return None
    if without:
        return ConfigError(f"parallel.device={parallel.device}: no GPU for rank {', '.join(map(str, without))}")
    gpus = [place.gpu for place in places]
    shared = [place for place in places if gpus.count(place.gpu) > 1]
    if not shared:
        return None
    if not parallel.share_gpus:
        there = [place.gpu for place in places if place.host == shared[0].host]
        num_gpus = len(set(there))
        needed = "parallel.share_gpus=true" + " parallel.reducer=mpi" * (parallel.reducer == "horovod")
        return ConfigError(
            f"parallel.share_gpus=false: on host {shared[0].host} {len(there)} ranks have {num_gpus} "
            f"GPU{'s' * (num_gpus != 1)}; start one rank a GPU, or let them share by {needed}"
        )
    if parallel.reducer == "horovod":
        return ConfigError("parallel.reducer=horovod: several ranks share a GPU, which NCCL refuses; use mpi")
    return None


def look_at_gpus(numbers: Sequence[int]) -> list[Gpu]:
    """Ask torch for some of the GPUs that it shows this rank; it makes a CUDA context on each."""
    host, mps = platform.node(), find_mps(os.environ)
    seen = []
    for number in numbers:
        free_bytes, total_bytes = torch.cuda.mem_get_info(number)
        uuid = str(torch.cuda.get_device_properties(number).uuid)
        seen.append(Gpu(host, uuid, total_bytes, free_bytes, mps))
    return seen


def find_mps(environment: Mapping[str, str]) -> str | None:
    """The folder in which an MPS daemon's control socket lies; None where there is none."""
    folder = environment.get("CUDA_MPS_PIPE_DIRECTORY") or "/tmp/nvidia-mps"
    try:
        mode = (Path(folder) / "control").stat().st_mode
    except OSError:
        return None
    return folder if stat.S_ISSOCK(mode) or stat.S_ISFIFO(mode) else None


def count_device_files() -> int:
    """GPUs for which the driver has made a file on this host, whether torch can use them or not."""
    return len(list(Path("/dev").glob("nvidia[0-9]*")))


def describe_views(views: Sequence[View]) -> list[str]:
    """What all ranks together know of the GPUs: who shares one, each GPU, and who has none where there are some."""
    places = [view.place for view in views]
    lines = describe_shares(places) + describe_gpus([gpu for view in views for gpu in view.seen], places)
    return lines + [f"warning: {sentence}" for sentence in find_unused_gpus(views)]


def find_unused_gpus(views: Sequence[View]) -> list[str]:
    """Ranks that compute on the CPU where there are GPUs: a sentence for each host."""
    said = []
    for host in dict.fromkeys(view.place.host for view in views):
        here = {rank: view for rank, view in enumerate(views) if view.place.host == host}
        without = [rank for rank, view in here.items() if view.place.gpu is None]
        num_given, num_present = (max(counts) for counts in zip(*map(_count_gpus, here.values()), strict=True))
        if not without or (len(without) == len(here) and num_given == num_present == 0):
            continue
        if len(without) < len(here):
            why = "the others there have one: does each task see the GPUs of its node?"
        elif num_given:
            why = f"Slurm gave the job {num_given} there: is torch built for CUDA, does a container show them?"
        else:
            why = f"the host has {num_present}: did the job ask for any, is torch built for CUDA?"
        said.append(f"no GPU for {name_ranks(without)} on {host}, and {why}")
    return said


def _count_gpus(view: View) -> tuple[int, int]:
    return view.num_given, view.num_present


def describe_shares(places: Sequence[Place]) -> list[str]:
    """A line that says whether each rank has a GPU of its own; none where that is no question."""
    gpus = [place.gpu for place in places]
    if None in gpus or len(gpus) < 2:
        return []
    most = max(gpus.count(gpu) for gpu in gpus)
    return ["each rank has a GPU of its own" if most == 1 else f"up to {most} ranks share a GPU"]


def describe_gpus(seen: Sequence[Gpu], places: Sequence[Place]) -> list[str]:
    """A line for each GPU, and one for each warning of it.

    Args:
        seen: by all ranks, with repetitions: the most that any rank saw free counts, because ranks that come later
            find the contexts of the earlier.
        places: of each rank.
    """
    most_free: dict[str, Gpu] = {}
    for gpu in seen:
        if gpu.uuid not in most_free or gpu.free_bytes > most_free[gpu.uuid].free_bytes:
            most_free[gpu.uuid] = gpu
    lines = []
    for gpu in most_free.values():
        num_ranks = sum(place.gpu == gpu.uuid for place in places)
        lines += _describe_gpu(gpu, num_ranks)
    return lines


def _describe_gpu(gpu: Gpu, num_ranks: int) -> list[str]:
    mps = "no MPS" if gpu.mps_folder is None else f"MPS listens in {gpu.mps_folder}"
    total, free = gpu.total_bytes / 1e9, gpu.free_bytes / 1e9
    ranks = f"{num_ranks} rank{'s' * (num_ranks != 1)} of this job"
    lines = [f"{gpu.host} {gpu.uuid[:8]}: {total:.1f} GB, {free:.1f} GB free, {ranks}, {mps}"]
    if num_ranks > 1 and gpu.mps_folder is None:
        lines.append(
            f"warning: {num_ranks} ranks share it without MPS, so their kernels take turns; docs/clusters.md says how "
            "to start it"
        )
    if gpu.free_bytes < LEAST_FREE * gpu.total_bytes:
        lines.append(
            f"warning: less than {100 * LEAST_FREE:.0f} % of its memory is free; who else is on it? nvidia-smi says"
        )
    return lines
