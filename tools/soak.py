#!/usr/bin/env python3
"""Train for a long time on real ranks, with an exchange after every step, and say whether every promise was kept.

It is `wash_hpc.train` itself, with its data, checkpoints, metrics and evaluations; the method is WASH, watched. What is
promised: memory, open files and threads of every rank stay as they are; replicas of a member are equal bit for bit; and
every so many steps a shuffle is that of the slow reference, bit for bit, keeps the values of each position and their
mean, and sends what the plan says.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar
from zlib import crc32

import numpy as np
import torch
from bench_common import Figures, describe_machine
from numpy.typing import NDArray
from soak_watch import PLANTS, Watch, judge

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run from a clone that is not installed

from wash_hpc.errors import ConfigError, StoppedError, WashError
from wash_hpc.method_kinds import KINDS
from wash_hpc.methods import Context, register
from wash_hpc.methods.drawing import make_drawer, nodes_of_members, p_factor
from wash_hpc.methods.wash import Wash
from wash_hpc.parallel import end_command, start_mpi
from wash_hpc.parallel.reducer import Scope
from wash_hpc.parallel.world import Comm
from wash_hpc.shuffle.reference import draw_slowly, plan_slowly, shuffle_members
from wash_hpc.storage.kept import last_manifest
from wash_hpc.storage.metrics import read_metrics
from wash_hpc.storage.run_folder import STOP
from wash_hpc.train import train

RUN = [
    "run.name=soak",
    "data.name=synthetic",
    "data.image_size=8",
    "data.resize=8",
    "data.num_images=512",
    "data.num_classes=4",
    "data.batch_size=16",
    "data.held_out=0.25",
    "data.crop_padding=1",
    "model.name=resnet_small",
    "model.width=4",
    "train.steps=1000000000",
    "optimizer.schedule=constant",
    "optimizer.lr=0.01",
    "method.name=watched_wash",
    "method.p=0.1",
    "method.optimizer_state=true",
    "log.every_steps=100",
    "evaluate.every_epochs=20",
    "evaluate.statistics_images=64",
    "checkpoint.every_steps=500",
]

EXAMPLES = """\
examples, after `source tools/mpi_env.sh` where ranks share cores:
  mpirun -n 4 python tools/soak.py --minutes 30
  mpirun -n 4 python tools/soak.py --minutes 30 --members 4 method.topology=ring
  mpirun -n 4 python tools/soak.py --minutes 10 data.name=image_folder data.path=data/digits data.resize=8

Memory is judged over what lies behind the first two minutes (of a short run, its first half): it may grow by 1 MB in
ten minutes, and where less was measured, by 1 MB in all.
exit status: 0 every promise was kept; 1 some were broken, each is named; 2 wrong input.
"""


class WatchedWash(Wash):
    """WASH that is compared with the slow reference every so many steps.

    Attributes:
        watch: takes down what is seen.
    """

    watch: ClassVar[Watch]

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        if self.config.overlap:
            raise ConfigError("method.overlap=true: this tool compares what an exchange leaves at once; use false")
        world = context.world
        self.watch.place = world.layout.member, world.layout.replica
        nodes = nodes_of_members(context.config, world)
        self._slow_drawer = make_drawer(context.config, self.flat, world.layout.num_members, nodes, context.number)

    def after_step(self, step: int) -> None:
        world = self.context.world
        is_checked = step % self.watch.check_every == 0 and self.is_due(step)
        before = self._all_members() if is_checked else None
        counted = self.values_moved, self.bytes_sent
        super().after_step(step)
        if before is not None:
            if "law" in self.watch.plant and world.layout.member == 0:
                self.flat.values[0] += 1
            if "count" in self.watch.plant:
                self.values_moved += 1
            self._check(step, before, counted)
            if "drift" in self.watch.plant and world.layout.replica == 1:
                self.flat.values[-1] += 1e-4
        self.watch.after_step(step, self.context.config.folder / STOP if world.is_root else None)

    def _all_members(self) -> NDArray[np.float32]:
        """[M, rows, P], rows as the exchange moves them. Collective over `exchange_comm`."""
        return np.stack(self.context.world.exchange_comm.allgather(self.flat.rows[: self._num_rows].cpu().numpy()))

    def _check(self, step: int, before: NDArray[np.float32], counted: tuple[int, int]) -> None:
        """Compare a shuffle with the reference. Collective over the world."""
        world = self.context.world
        after = self._all_members()
        factor = p_factor(self.context.config, step, self.context.num_steps)
        draw = draw_slowly(self._slow_drawer.scaled(factor), step)
        for row in range(self._num_rows):
            expected = shuffle_members(torch.from_numpy(before[:, row]), draw).numpy()
            self.watch.expect(
                same_bits(after[:, row], expected), "a shuffle is the slow reference's, bit for bit", step
            )
        kept = same_bits(*(np.sort(values.view(np.int32), axis=0) for values in (before, after)))
        self.watch.expect(kept, "each position keeps its values", step)
        self.watch.expect(have_equal_means(before, after), "each position keeps its mean", step)
        mean = self.context.reducer.mean_(self.flat.values.clone(), Scope.MEMBERS).cpu().numpy()
        self.watch.expect(
            np.allclose(mean, after[:, 0].mean(axis=0), rtol=1e-5, atol=1e-6), "ranks have one mean", step
        )
        num_moved = len(plan_slowly(draw, world.layout.member).send_positions) * self._num_rows
        moved = self.values_moved - counted[0], self.bytes_sent - counted[1]
        self.watch.expect(moved == (num_moved, num_moved * after.itemsize), "as many values move as planned", step)
        replicas = world.member_comm.allgather(crc32(self.flat.rows.cpu().numpy().tobytes()))
        self.watch.expect(len(set(replicas)) == 1, "replicas are equal, bit for bit", step)
        self.watch.num_checks += 1


def same_bits(first: NDArray[Any], second: NDArray[Any]) -> bool:
    """Whether two arrays are equal, bit for bit."""
    return first.tobytes() == second.tobytes()


def have_equal_means(before: NDArray[np.float32], after: NDArray[np.float32]) -> bool:
    """Whether the members' mean at every position is as it was, to float64's rounding."""
    means = (values.astype(np.float64).mean(axis=0) for values in (before, after))
    scale = np.abs(before).max(axis=0).astype(np.float64)
    return bool((np.abs(np.subtract(*means)) <= 1e-12 * scale).all())


def judge_folder(folder: Path, num_steps: int) -> dict[str, str]:
    """Promises about what the run has left that are broken."""
    broken = {}
    manifest, metrics = last_manifest(folder), read_metrics(folder)
    if manifest is None or manifest.step != num_steps:
        broken["a run that is stopped leaves a checkpoint"] = f"not that of step {num_steps}"
    if len(metrics.step) == 0 or bool((np.diff(metrics.step) <= 0).any()):
        broken["metrics are read back, in order"] = f"{len(metrics.step)} records"
    return broken


def collect(comm: Comm, watch: Watch, folder: Path) -> Figures | None:
    """All ranks' figures, on the root. Collective over `comm`."""
    ranks = comm.gather(judge(comm.rank, watch))
    if ranks is None:
        return None
    broken: dict[str, str] = judge_folder(folder, watch.num_steps)
    for judged in ranks:
        for promise, how in judged.broken.items():
            broken.setdefault(promise, f"rank {judged.rank}: {how}")
    metrics = read_metrics(folder)
    return {
        "machine": describe_machine(comm.size),
        "minutes": round(watch.samples[-4] / 60, 2),
        "steps": watch.num_steps,
        "shuffles_checked": watch.num_checks,
        "records": len(metrics.step),
        "evaluations": len(metrics.evaluate_step),
        "ranks": [asdict(judged) for judged in ranks],
        "broken": broken,
    }


def in_table(figures: Figures) -> str:
    """The figures as a person reads them, and the verdict."""
    shown = ("machine", "minutes", "steps", "shuffles_checked", "records", "evaluations")
    lines = [f"{key}: {figures[key]}" for key in shown]
    lines += ["", "rank  member  replica  MB then  MB now  MB in 10 min  open files  threads"]
    for rank in figures["ranks"]:
        (member, replica), (then, now) = rank["place"], rank["megabytes"]
        files, threads = (f"{first} {last}" for first, last in (rank["files"], rank["threads"]))
        memory = f"{then:7.1f}  {now:6.1f}  {rank['growth']:12.2f}"
        lines.append(f"{rank['rank']:4}  {member:6}  {replica:7}  {memory}  {files:>10}  {threads:>7}")
    broken = [f"broken: {promise} ({how})" for promise, how in figures["broken"].items()]
    return "\n".join([*lines, "", *(broken or ["every promise was kept"])])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30.0, help="how long to train, from the first step on")
    parser.add_argument("--steps", type=int, default=0, help="to do in any case, however long they take")
    parser.add_argument("--members", type=int, help="default: half as many as ranks, so that each has two replicas")
    parser.add_argument("--check-every", type=int, default=100, help="steps between two looks at a shuffle")
    parser.add_argument(
        "--plant",
        action="append",
        choices=PLANTS,
        default=[],
        help="a fault to make, which must be found; may be repeated",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="over the small run's configuration")
    arguments = parser.parse_args()
    try:
        return soak(arguments)
    except WashError as error:
        return end_command(error)


def soak(arguments: argparse.Namespace) -> int:
    """Train and judge. Collective over MPI_COMM_WORLD."""
    comm = start_mpi()
    watch = Watch(arguments.minutes, arguments.steps, arguments.check_every, arguments.plant)
    WatchedWash.watch = watch
    register("watched_wash", options=KINDS["wash"].options)(WatchedWash)
    members = arguments.members or max(1, comm.size // 2)
    folder = Path(comm.bcast(tempfile.mkdtemp(prefix="wash_hpc-soak-") if comm.rank == 0 else None))
    where = [f"run.dir={folder}", f"ensemble.members={members}"]
    quiet = ["log.progress=off"] if arguments.json else []
    try:
        train(None, [*RUN, *where, *quiet, *arguments.overrides])
    except StoppedError:
        figures = collect(comm, watch, folder / "soak")
    else:
        raise ConfigError("train.steps: the run came to its end before its time was over; expected more steps")
    finally:
        if comm.rank == 0:
            shutil.rmtree(folder, ignore_errors=True)
    status = 0
    if figures is not None:
        print(json.dumps(figures) if arguments.json else in_table(figures), flush=True)
        status = int(bool(figures["broken"]))
    return int(comm.bcast(status))


if __name__ == "__main__":
    sys.exit(main())
