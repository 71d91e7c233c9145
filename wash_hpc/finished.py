"""Commands on a finished run: judging its members, and averaging them. From files, on any number of ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from wash_hpc.agreement import require_alike, require_same_software
from wash_hpc.config import Config, load_run_config
from wash_hpc.data import open_source
from wash_hpc.data.source import Shard, Source, Split
from wash_hpc.ensemble.flat import Flat, get_statistics
from wash_hpc.ensemble.judged import JudgedSoup
from wash_hpc.ensemble.landscape import distances_per_layer
from wash_hpc.ensemble.soup import Weights
from wash_hpc.errors import ConfigError
from wash_hpc.evaluate import Evaluator
from wash_hpc.evaluate_report import JudgedRun
from wash_hpc.member import load_weights
from wash_hpc.parallel import start_mpi
from wash_hpc.parallel.reducer import Reducer, reducer_class
from wash_hpc.parallel.world import World, agreed, on_root
from wash_hpc.requirements import require_devices_that_fit
from wash_hpc.storage.checkpoint import Manifest, read_member
from wash_hpc.storage.kept import find_step
from wash_hpc.storage.weights import count_members, load_model, member_file, save_model, soup_file
from wash_hpc.train import choose_device, make_initial_model, read_data


@dataclass(frozen=True)
class FinishedRun:
    """A finished run, opened on all ranks of this job.

    Attributes:
        folder: the run's.
        config: the run's, with this job's arguments.
        num_members: M, the files there are; not the ranks of this job.
        world: the ranks of this job.
        source: the run's images.
        evaluator: judges with all ranks.
        reducer: of this job.
        model: holds the member that was read last.
        manifest: of the checkpoint in which members are looked at; None: their final weights.
    """

    folder: Path
    config: Config
    num_members: int
    world: World
    source: Source
    evaluator: Evaluator
    reducer: Reducer
    model: nn.Module
    manifest: Manifest | None = None

    def fetch(self, member: int) -> Weights:
        """A member's weights, read from its file; its own, however many are fetched after it."""
        _load(self.folder, self.manifest, member, self.model)
        return Weights(Flat(self.model).values.detach().clone(), get_statistics(self.model))


def as_judged(config: Config) -> Config:
    """The configuration without what makes training faster: a run is judged on any machine, of weights in one order."""
    return replace(config, train=replace(config.train, cuda_graph=False, compile=False, channels_last=False))


def open_run(folder: Path, overrides: Sequence[str], step: int | None = None) -> FinishedRun:
    """Open a finished run. Collective over MPI_COMM_WORLD.

    Args:
        folder: the run's.
        overrides: `key=value` arguments over the run's own configuration, such as where its data are by now.
        step: of the checkpoint in which members are looked at, of several replicas the first; None: final weights.

    Raises:
        WashError: not a run, or it has no such checkpoint, or its data are not there, or the ranks are not alike; on
            all ranks.
    """
    comm = start_mpi()
    require_same_software(comm)
    num_members, config = on_root(
        comm, lambda: (count_members(folder), as_judged(load_run_config(folder, overrides))), says_host=True
    )
    manifest = None if step is None else on_root(comm, lambda: find_step(folder, step), says_host=True)
    world = World.open(comm, None)
    with agreed(comm):
        device = choose_device(config, world)
    content = read_data(config, world)
    with agreed(comm):
        source = open_source(config, device, content)
        model, scratch = (make_initial_model(config, source, 0, device) for _ in range(2))
        # Are all files readable, and do they fit? Shared out, and at least one a rank: its host may lack them.
        for member in sorted({comm.rank % num_members, *Shard(comm.rank, comm.size).of(num_members)}):
            _load(folder, manifest, member, model)
        make_reducer = reducer_class(config.parallel.reducer)
    require_devices_that_fit(config, world, device)
    require_alike(config, world, model, source, device)
    reducer = make_reducer(world)
    evaluator = Evaluator(config, source, scratch, num_members, Shard(comm.rank, comm.size), reducer)
    return FinishedRun(folder, config, num_members, world, source, evaluator, reducer, model, manifest)


def _load(folder: Path, manifest: Manifest | None, member: int, model: nn.Module) -> None:
    """Read a member's final weights; or those of a checkpoint, which holds all but what is never trained."""
    load_model(member_file(folder, member), model)
    if manifest is not None:
        state = read_member(folder, manifest, member)
        load_weights(model, state.own, manifest.channels_last)


def evaluate_run(folder: Path, overrides: Sequence[str], split: Split, greedy: bool, as_json: bool) -> str:
    """Judge a run's members, ensemble and soups. Collective over MPI_COMM_WORLD.

    Args:
        folder: the run's.
        overrides: as in `open_run`.
        split: which images.
        greedy: also choose a greedy soup on the held-out images, and judge it.
        as_json: one JSON object instead of a table.

    Returns:
        What to print; nothing on ranks other than the root.

    Raises:
        WashError: not a finished run, or no such images; on all ranks.
    """
    run = open_run(folder, overrides)
    with agreed(run.world.comm):
        if run.source.num_images(split) == 0:
            raise ConfigError(f"{folder}: its data have no {split} images (data.held_out=0)")
        if greedy:
            run.evaluator.require_held_out()
    evaluation = run.evaluator.evaluate(run.fetch, split)
    chosen = run.evaluator.greedy(run.fetch, split=split) if greedy else None
    run.reducer.close()
    if not run.world.is_root:
        return ""
    layers = Flat(run.model).layers
    members = (run.fetch(member).values for member in range(run.num_members) if member not in evaluation.left_out)
    judged = JudgedRun(
        name=folder.name,
        split=split,
        metric=run.evaluator.metric,
        evaluation=evaluation,
        greedy=chosen,
        distances=distances_per_layer(members, evaluation.soup.values, layers),
    )
    return judged.as_json() if as_json else judged.as_table()


def make_soup(folder: Path, overrides: Sequence[str], kind: str, output: Path | None) -> str:
    """Average a run's members, judge the soup on the test images and write it. Collective over MPI_COMM_WORLD.

    Args:
        folder: the run's.
        overrides: as in `open_run`.
        kind: `uniform`, `greedy` or `repair`.
        output: the file; None for the run's own.

    Returns:
        What to print; nothing on ranks other than the root.

    Raises:
        WashError: not a finished run, or a greedy soup without held-out images; on all ranks.
    """
    run = open_run(folder, overrides)
    if kind == "greedy":
        with agreed(run.world.comm):
            run.evaluator.require_held_out()
        soup = run.evaluator.greedy(run.fetch)
    elif kind == "repair":
        soup = run.evaluator.repaired(run.fetch)
    else:
        evaluation = run.evaluator.evaluate(run.fetch)
        members = [member for member in range(run.num_members) if member not in evaluation.left_out]
        soup = JudgedSoup(members, evaluation.scores["soup"], evaluation.soup)
    file = output or soup_file(folder, kind)
    run.reducer.close()
    if not run.world.is_root:
        return ""
    run.evaluator.load(soup.weights)
    save_model(file, run.evaluator.model)
    metric = run.evaluator.metric
    found = f"{metric} {soup.scores.by(metric):{'.2%' if metric == 'accuracy' else '.2f'}}"
    return f"{file}: {kind} soup of members {', '.join(map(str, soup.members))}; test {found}"
