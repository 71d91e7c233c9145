"""What the benchmarks share: starting ranks on this machine, timing them together, and printing figures."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run from a clone that is not installed

from wash_hpc.sweep.launch import ON_ONE_MACHINE

WARM_UP = 3  # rounds that are not counted: they connect the ranks and touch the buffers for the first time

Figures = dict[str, Any]


def start_ranks(num_ranks: int, script: str, arguments: list[str]) -> Figures:
    """Run a script on so many ranks of this machine, more of them than cores if need be.

    Returns:
        The JSON object in the last line that they print.
    """
    mpirun = shutil.which("mpirun")
    if mpirun is None:
        sys.exit("mpirun is not on PATH: activate the environment (source .venv/bin/activate)")
    command = [mpirun, "-n", str(num_ranks), sys.executable, script, *arguments]
    done = subprocess.run(command, env=ON_ONE_MACHINE | os.environ, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"{Path(script).name}: the ranks ended with status {done.returncode}")
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    return figures


def describe_machine(num_ranks: int | None, device: str = "cpu") -> str:
    """What the figures were measured on; None where no ranks are started."""
    cores = len(os.sched_getaffinity(0))
    gpu = torch.cuda.get_device_name() if device == "cuda" else "no GPU used"
    ranks = "" if num_ranks is None else f" {num_ranks} ranks,"
    return f"{cores} cores, {gpu},{ranks} load {os.getloadavg()[0]:.1f} at the start"


def seconds_of(work: Callable[[], object]) -> float:
    """How long a call takes."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


@dataclass(frozen=True)
class Ranks:
    """The ranks of a benchmark. Every method is collective over the world.

    Attributes:
        world: a `wash_hpc.parallel.world.World`.
        pause_seconds: before each timing, as long as a step.
        on_gpu: whether to wait for the GPU.
    """

    world: Any
    pause_seconds: float
    on_gpu: bool

    def time(self, work: Callable[[], object]) -> float:
        """Seconds of a call on this rank, after a pause and a barrier."""
        time.sleep(self.pause_seconds)
        self._wait()
        self.world.comm.Barrier()
        begin = time.perf_counter()
        work()
        self._wait()
        return time.perf_counter() - begin

    def slowest(self, seconds: list[float]) -> float:
        """The median over the rounds of the slowest rank, without those of the warm-up."""
        return float(np.median(np.max(self.world.comm.allgather(seconds[WARM_UP:]), axis=0)))

    def most(self, number: int) -> int:
        """The greatest number of any rank."""
        return int(max(self.world.comm.allgather(number)))

    def _wait(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize()


def reset_peak(on_gpu: bool) -> int:
    """Forget the peak of memory so far; returns the bytes in use."""
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    ctypes.CDLL(None).malloc_trim(0)  # memory that was freed and kept would hide what is taken next
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return read_peak(on_gpu)


def read_peak(on_gpu: bool) -> int:
    """The most bytes in use since `reset_peak`: of the process, or on a GPU of torch."""
    if on_gpu:
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))


def time_calls(owner: Any, name: str) -> list[float]:
    """From now on, the seconds of each call of a method are put into the list."""
    call, seconds = getattr(owner, name), []

    def timing(*arguments: Any) -> Any:
        begin = time.perf_counter()
        result = call(*arguments)
        seconds.append(time.perf_counter() - begin)
        return result

    setattr(owner, name, timing)
    return seconds


def in_lines(figures: Figures) -> str:
    """The figures, one a line."""
    width = max(map(len, figures))
    return "\n".join(
        f"{name:<{width}}  {value:.6g}" if isinstance(value, float) else f"{name:<{width}}  {value}"
        for name, value in figures.items()
    )
