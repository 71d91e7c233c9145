"""A training run from its configuration to its summary. Read this file first.

    with agreed: ...      everything a user can get wrong is checked on all ranks before anything is written
    for step in ...:      next batch -> member.step -> method.after_step -> observer.after_step -> checkpoints
    finish                evaluate, write members, soup and summary

What crosses the network: gradients among the replicas of a member (inside `member.step`), what the method moves
between members (inside `method.after_step`; for WASH one Alltoallv of K_m values), and what is reduced for the log when
it is due (inside `observer.after_step`). About once a second all ranks ask each other whether the run is to stop
(inside `checkpoints.after_step`). The order is always compute, communicate, observe, persist.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from wash_hpc.agreement import require_alike, require_same_software
from wash_hpc.checkpoints import Checkpoints, continue_from, find_whole
from wash_hpc.clock import Stopwatch
from wash_hpc.config import Config, load_config
from wash_hpc.data import Content, open_source, read_content, require_content
from wash_hpc.data.regularize import regularize
from wash_hpc.data.source import Shard, Source, steps_per_epoch
from wash_hpc.ensemble.averages import Averages, snapshot_steps
from wash_hpc.ensemble.flat import to_channels_last, trainable_parameters
from wash_hpc.errors import ConfigError, StoppedError
from wash_hpc.evaluate import Evaluator
from wash_hpc.logs import say
from wash_hpc.member import Member
from wash_hpc.methods import Context, make_method, require_methods
from wash_hpc.models import build_model
from wash_hpc.observe import Observer
from wash_hpc.orders import Orders
from wash_hpc.parallel import start_mpi
from wash_hpc.parallel.gpus import number_of_gpu
from wash_hpc.parallel.reducer import Reducer, reducer_class
from wash_hpc.parallel.world import Comm, World, abort_on_uncaught_error, agreed, on_root
from wash_hpc.requirements import (
    require_devices_that_fit,
    require_divisible_batch,
    require_step_options,
    require_whole_statistics,
)
from wash_hpc.seeds import Stream, torch_seed
from wash_hpc.signals import Signals
from wash_hpc.stalls import StallWatch
from wash_hpc.startup import start_clock
from wash_hpc.storage.checkpoint import Manifest
from wash_hpc.storage.kept import Found
from wash_hpc.storage.metrics import import_h5py
from wash_hpc.storage.run_folder import claim_folder, create_folder, find_finished, find_start
from wash_hpc.storage.run_lock import RunLock
from wash_hpc.storage.sinks import import_sinks
from wash_hpc.storage.summary import Summary
from wash_hpc.totals import Totals


def train(file: str | Path | None, overrides: Sequence[str] = (), signals: Signals | None = None) -> Summary:
    """Train an ensemble, judge it and leave a run folder. Collective over MPI_COMM_WORLD.

    Args:
        file: a configuration; None for the defaults.
        overrides: `key=value` arguments.
        signals: that may stop the run; whoever gives them has entered their block. None: it heeds none.

    Returns:
        The run's summary, on every rank.

    Raises:
        WashError: a mistake of the user's, on all ranks before anything is written.
        StoppedError: a signal or the file STOP came; a checkpoint is written. On all ranks.
    """
    comm = start_mpi()
    require_same_software(comm)
    config = on_root(comm, lambda: load_config(file, overrides))
    finished = on_root(comm, lambda: find_finished(config))
    start_clock.ended("configuration")
    if finished is None:
        setup, signals = set_up(comm, config), signals or Signals()
        signals.end_by_force_after(config.checkpoint.grace_seconds, f"rank {comm.rank}")
        clock = Stopwatch(setup.device)
        with _folder_held(setup, config) as notes, _stall_watch(setup, config, clock) as stalls:
            return _train(setup, config, signals, clock, stalls, notes)
    if comm.rank == 0:
        say(f"{config.run.name}: has finished before; nothing is left to do, the results are in {config.folder}")
    return finished


@contextmanager
def _folder_held(setup: Setup, config: Config) -> Iterator[list[str]]:
    """Have the run's folder for this run alone while the block runs; gives what the user is to be told.

    Collective over the world as it begins.
    """
    try:
        note = on_root(setup.world.comm, lambda: claim_folder(config, setup.found, setup.lock))
        yield [note] if note else []
    finally:
        setup.lock.release()


def _stall_watch(setup: Setup, config: Config, clock: Stopwatch) -> StallWatch:
    """Collective over the world."""
    layout = setup.world.layout
    name = f"rank {layout.rank} (member {layout.member}, replica {layout.replica}, on {socket.gethostname()})"
    names = setup.world.comm.allgather(name)
    first_step = 0 if setup.start is None else setup.start.step
    return StallWatch(config.folder, layout.rank, names, clock, config.log.stall_seconds, first_step)


def _train(
    setup: Setup, config: Config, signals: Signals, clock: Stopwatch, stalls: StallWatch, notes: list[str]
) -> Summary:
    """Assemble the parts, do the steps, judge. Collective over the world; raises what `train` raises."""
    world, layout, source, num_steps = setup.world, setup.world.layout, setup.source, setup.num_steps
    reducer = setup.make_reducer(world)
    start_clock.ended("reducer")
    member = Member(setup.model, config, layout.member, layout.replica, num_steps, reducer, clock)
    start_clock.ended("optimizer")
    per_epoch = steps_per_epoch(source.num_train, config.data.batch_size)
    method = make_method(Context(config, world, reducer, member.model, member.flat, source, num_steps, per_epoch))
    averages = Averages(config.average, member.flat.values, num_steps, per_epoch)
    first_step = continue_from(setup.start, config, member, method, averages, world)
    notes += on_root(world.comm, lambda: create_folder(config, setup.start))
    evaluator = Evaluator(config, source, setup.scratch, layout.num_members, Shard(layout.rank, layout.size), reducer)
    totals = Totals(world, reducer, method, setup.start)
    observer = Observer(
        config, source, world, reducer, member, method, averages, evaluator, clock, totals, num_steps, first_step
    )
    observer.say_start([*setup.notes, *source.notes, *notes])
    checkpoints = Checkpoints(
        config,
        world,
        member,
        method,
        averages,
        totals,
        Orders(config.folder, world, signals, first_step),
        first_step,
        num_steps,
        observer.say,
    )
    replica = Shard(layout.replica, layout.num_replicas)
    raw = source.train(layout.member, replica, config.data.batch_size, first_step)
    batches = regularize(raw, config, layout.member, replica, first_step, source.num_classes)

    stopped: StoppedError | None = None
    for step in range(first_step, num_steps):
        with clock("data"):
            batch = next(batches)
        with clock("compute"):
            member.step(batch, step)
        with clock("exchange"):
            method.after_step(step + 1)
        averages.after_step(step + 1)
        merit = observer.after_step(step + 1)
        stopped = checkpoints.after_step(step + 1, merit)
        stalls.step_ended(step + 1)
        if stopped:
            break

    method.finish()
    if stopped is None:
        summary = observer.finish(checkpoints.end)
    observer.close()
    reducer.close()
    if stopped is not None:
        raise stopped
    return summary


@dataclass(frozen=True)
class Setup:
    """What a run needs that a user can get wrong, checked on all ranks; nothing is written yet.

    Attributes:
        world: the ranks.
        device: this rank's.
        source: the images, on the device.
        num_steps: of the whole run.
        model: this member's network with its initial weights, on the device.
        scratch: another one for evaluation.
        make_reducer: opens the reducer; collective over the world.
        lock: of the run's folder, not yet taken.
        found: the checkpoints that there are.
        start: the one to continue from, or None.
        notes: what a user is to be told of it, and of the ranks.
    """

    world: World
    device: torch.device
    source: Source
    num_steps: int
    model: nn.Module
    scratch: nn.Module
    make_reducer: Callable[[World], Reducer]
    lock: RunLock
    found: list[Found]
    start: Manifest | None
    notes: list[str]


def set_up(comm: Comm, config: Config) -> Setup:
    """Check and open everything. Collective over `comm`.

    Raises:
        WashError: a mistake of the user's, the same on all ranks.
    """
    with agreed(comm):
        require_methods(config)
        world = World.open(comm, config.ensemble.members)
    layout = world.layout
    abort_on_uncaught_error(f"rank {layout.rank} (member {layout.member}, replica {layout.replica})", layout.rank)
    lock = RunLock(config.folder)
    found = on_root(comm, lambda: find_start(config, lock))
    start, damage = find_whole(config, world, found)
    with agreed(comm):
        device = choose_device(config, world)
        require_step_options(config, device)
        require_divisible_batch(config, layout.num_replicas)
    start_clock.ended("device")
    content = read_data(config, world)
    with agreed(comm):
        source = open_source(config, device, content)
        start_clock.ended("data")
        num_steps = count_steps(config, source)
        snapshot_steps(config.average, num_steps, steps_per_epoch(source.num_train, config.data.batch_size))
        model, scratch = (make_initial_model(config, source, layout.member, device) for _ in range(2))
        require_whole_statistics(config, layout.num_replicas, model)
        start_clock.ended("model")
        num_parameters = sum(parameter.numel() for _, parameter in trainable_parameters(model))
        if start is not None:
            start.require_fit(config, layout.num_members, num_parameters, num_steps)
        make_reducer = reducer_class(config.parallel.reducer)
        start_clock.ended("reducer")
        if world.is_root:
            import_h5py()  # it writes metrics: a library that is missing is said before anything is written
            import_sinks(config.log.sinks)
        source.check_files(Shard(layout.rank, layout.size))
    require_devices_that_fit(config, world, device)
    # Each rank has built its own model, with its own host's libraries, and perhaps made its own data.
    unlike = require_alike(config, world, model, source, device)
    start_clock.ended("data")
    return Setup(world, device, source, num_steps, model, scratch, make_reducer, lock, found, start, [*damage, *unlike])


def read_data(config: Config, world: World) -> Content | None:
    """What is in the files of the data set, read by the root alone, so that ranks do not crowd the file system.

    Of image files that is a listing; whether each host has them is looked at by one rank of it. Collective over the
    world.

    Raises:
        WashError: they are absent, incomplete or unreadable, or not the same on some hosts; on all ranks.
    """
    content = on_root(world.comm, lambda: read_content(config), says_host=True)
    with agreed(world.comm):
        if world.local_rank == 0:
            require_content(config, content)
    return content


def choose_device(config: Config, world: World) -> torch.device:
    """This rank's device, and torch's settings for it: ranks of a host take its GPUs in turn.

    Raises:
        ConfigError: a GPU is asked for and there is none.
    """
    if config.run.threads or "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(config.run.threads or world.num_cores)
    if config.run.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = not config.run.deterministic  # of fixed shapes, the fastest kernels are found once
    kind = config.parallel.device
    if kind == "cpu" or (kind == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ConfigError("parallel.device=cuda: torch sees no GPU on this host; use auto or cpu")
    device = torch.device("cuda", number_of_gpu(world.local_rank))
    torch.cuda.set_device(device)
    return device


def count_steps(config: Config, source: Source) -> int:
    """Optimizer updates of the whole run: `train.steps`, or `train.epochs` full passes."""
    per_epoch = steps_per_epoch(source.num_train, config.data.batch_size)
    return config.train.steps or config.train.epochs * per_epoch


def make_initial_model(config: Config, source: Source, member: int, device: torch.device) -> nn.Module:
    """The network with a member's initial weights, a function of (seed, member), or of the seed alone."""
    torch.manual_seed(torch_seed(config.run.seed, Stream.WEIGHTS, 0 if config.ensemble.same_init else member))
    model = build_model(config.model.name, source.image_shape, source.num_classes, config.model.width)
    if config.train.channels_last:
        to_channels_last(model, device)
    return model.to(device)
