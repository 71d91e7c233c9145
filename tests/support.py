"""Support code of the tests: launching real ranks, small configurations, reading what a run left."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from tools.warm_python import CLIENT, with_warm_command
from wash_hpc.__main__ import main
from wash_hpc.config import Config, load_config
from wash_hpc.ensemble.flat import Flat
from wash_hpc.methods import Context
from wash_hpc.parallel.reducer import Scope
from wash_hpc.shuffle.plan import Plan
from wash_hpc.storage.weights import count_members, member_file

WARM_PYTHON = str(CLIENT)

# A run of seconds: synthetic images, a network with normalisation, momentum, augmentation.
TINY = [
    "data.name=synthetic",
    "data.image_size=8",
    "data.resize=8",
    "data.num_images=64",
    "data.num_classes=4",
    "data.batch_size=8",
    "data.held_out=0.25",
    "data.crop_padding=1",
    "model.name=resnet_small",
    "model.width=4",
    "train.steps=8",
    "optimizer.lr=0.05",
    "method.name=wash",
    "method.p=0.3",
    "log.every_steps=4",
    "log.progress=off",
    "evaluate.every_epochs=0",
    "evaluate.batch_size=16",
    "evaluate.statistics_images=32",
]


def tiny_config(*overrides: str) -> Config:
    """The configuration of a run of seconds."""
    return load_config(None, [*TINY, *overrides])


class AloneReducer:
    """A world of one rank, without MPI."""

    def sum_(self, tensor: Tensor, scope: Scope) -> Tensor:
        return tensor

    def mean_(self, tensor: Tensor, scope: Scope) -> Tensor:
        return tensor

    def broadcast_(self, tensor: Tensor, scope: Scope, root: int = 0) -> Tensor:
        return tensor

    def start_mean_(self, tensor: Tensor, name: str) -> None:
        pass

    def finish(self) -> None:
        pass

    def close(self) -> None:
        pass


def method_context(
    config: Config, world: Any, flat: Flat, reducer: Any = None, model: Any = None, source: Any = None
) -> Context:
    """What a method is given in a run of eight steps, four an epoch; WASH alone needs no reducer, model or source."""
    return Context(config, world, reducer, model, flat, source, 8, 4)


def mpirun_command(num_ranks: int, *command: str) -> list[str]:
    """How so many real ranks are launched; see `warm`."""
    launcher = shutil.which("mpirun")
    assert launcher is not None, "mpirun is not on PATH: run the tests by make test, or source tools/mpi_env.sh"
    return [launcher, "-n", str(num_ranks), *warm(*command)]


def warm(*command: str) -> list[str]:
    """The command, with a python whose imports are done for `sys.executable` and below `wash-hpc`: see warm_python.

    The tests of Slurm's scripts run `wash-hpc` itself.
    """
    if command[0] == "wash-hpc":
        command = (sys.executable, "-m", "wash_hpc", *command[1:])
    return [WARM_PYTHON if word == sys.executable else word for word in command]


def mpirun(num_ranks: int, *command: str, timeout: float = 240, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command on so many real ranks, as a user does; a job that hangs is ended and fails the test."""
    return subprocess.run(
        mpirun_command(num_ranks, *command),
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, **environment},
        check=False,
    )


def run_main(*arguments: str) -> int:
    """The exit status of the command line in this process: it exits where something has loaded MPI, else returns."""
    try:
        return main(arguments)
    except SystemExit as end:
        return int(end.code or 0)


def with_quick_ranks(folder: Path) -> dict[str, str]:
    """An environment in which the `wash-hpc` that a sweep launches is a python whose imports are done."""
    return {**os.environ, "PATH": f"{with_warm_command(folder / 'bin')}:{os.environ['PATH']}"}


def started_in_foreground(command: list[str], environment: dict[str, str]) -> subprocess.Popen[str]:
    """A process that heeds Ctrl-C, with pipes for what it says."""
    # A shell tells what runs in its background to ignore Ctrl-C, and children inherit that, but not a handler.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    finally:
        signal.signal(signal.SIGINT, before)


def interrupted_in_mid_run(command: list[str], environment: dict[str, str]) -> tuple[int, str]:
    """Start what trains, press Ctrl-C when a run has said a loss; the exit status, and what is said on stderr."""
    with started_in_foreground(command, environment) as process:
        assert process.stdout is not None
        while " loss " not in process.stdout.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=240)
    return process.returncode, said


def train(folder: Path, name: str, num_ranks: int, *overrides: str) -> Path:
    """Train a tiny run by the command line on so many ranks and return its folder."""
    config = folder / "tiny.yaml"
    config.write_text("{}\n")
    where = [f"run.dir={folder}", f"run.name={name}"]
    command = [sys.executable, "-m", "wash_hpc", "train", str(config), *TINY, *where, *overrides]
    done = mpirun(num_ranks, *command)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return folder / name


class CountingComm:
    """A communicator that lets Alltoallv pass, and writes down what it was given.

    Attributes:
        calls: of each call, the bytes handed to it, and how many values of them for this rank itself.
    """

    def __init__(self, comm: Any) -> None:
        self.size, self.rank, self._comm = comm.size, comm.rank, comm
        self.calls: list[tuple[int, int]] = []

    def Alltoallv(self, send: Any, recv: Any) -> None:
        self.calls.append((int(send[1].sum()) * send[3].Get_size(), int(send[1][self.rank])))
        self._comm.Alltoallv(send, recv)


def exchange_in_one_process(values: Tensor, plans: list[Plan]) -> Tensor:
    """What Alltoallv does with all members' plans: [M, P] values before it to [M, P] after it."""
    result = values.clone()
    for receiver, plan in enumerate(plans):
        for sender, other in enumerate(plans):
            sent = other.send_positions[other.send_displacements[receiver] :][: other.send_counts[receiver]]
            received = plan.recv_positions[plan.recv_displacements[sender] :][: plan.recv_counts[sender]]
            result[receiver, received] = values[sender, sent]
    return result


def final_weights(run: Path) -> list[dict[str, Tensor]]:
    """The state dicts of a finished run's members."""
    return [load_file(member_file(run, member)) for member in range(count_members(run))]


def equal_weights(first: Path, second: Path) -> bool:
    """Whether two finished runs have the same members, bit for bit."""
    pairs = list(zip(final_weights(first), final_weights(second), strict=True))
    return all(a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a) for a, b in pairs)
