"""When a run writes a checkpoint, what goes into it, and how a run goes on from one.

A checkpoint leaves the run as it is, so that a run with checkpoints, or one that was stopped, ends with the same
weights as one without. How it is written is `checkpoint_writer`'s business, and how it lies on the disk `storage`'s.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from wash_hpc.checkpoint_writer import CheckpointWriter
from wash_hpc.clock import Stopwatch
from wash_hpc.config import Config
from wash_hpc.ensemble.averages import Averages
from wash_hpc.ensemble.flat import get_statistics, set_statistics
from wash_hpc.ensemble.judged import Merit
from wash_hpc.errors import StoppedError
from wash_hpc.member import Member
from wash_hpc.methods import Method
from wash_hpc.orders import Orders
from wash_hpc.parallel.world import World, agreed, on_root
from wash_hpc.storage.checkpoint import CheckpointError, DamageError, Manifest, MemberState, read_member, verify_member
from wash_hpc.storage.kept import Best, Found, forget_old, read_best, write_best
from wash_hpc.totals import Totals

_OF_REPLICAS = "replica_statistics"  # [R, S]: each replica has seen other images


class Checkpoints:
    """Writes checkpoints when they are due or asked for, and stops the run. Every method is collective over the world.

    Args:
        config: the run's configuration.
        world: the ranks.
        member: what this rank trains.
        method: has a state, too.
        averages: likewise.
        totals: what the run has come to so far.
        orders: what is asked from outside.
        first_step: steps already done.
        num_steps: of the whole run.
        say: tells the user a sentence.
    """

    def __init__(
        self,
        config: Config,
        world: World,
        member: Member,
        method: Method,
        averages: Averages,
        totals: Totals,
        orders: Orders,
        first_step: int,
        num_steps: int,
        say: Callable[[str], None],
    ) -> None:
        self._config = config
        self._world = world
        self._member = member
        self._method = method
        self._averages = averages
        self._totals = totals
        self._orders = orders
        self._num_steps = num_steps
        self._say = say
        self._writer = CheckpointWriter(config.folder, world, config.checkpoint.keep, first_step)
        self._clock = Stopwatch(member.flat.values.device)
        self._best = on_root(world.comm, lambda: read_best(config.folder))  # kept, also where no better one is sought

    def after_step(self, step: int, merit: Merit | None = None) -> StoppedError | None:
        """Write a checkpoint after update number `step`, from 1, where one is due or asked for.

        Its files are written while the run goes on, unless somebody waits for them.

        Args:
            step: the update.
            merit: of the soup, where an evaluation has just judged it and `checkpoint.keep_best` is on.

        Returns:
            Why the run ends here, on all ranks; None: it goes on, or has done its last step.

        Raises:
            CheckpointError: it, or the one before, cannot be written; on all ranks.
        """
        last = step == self._num_steps
        # A signal that came in the last steps is heeded before the long evaluation that follows them.
        order = self._orders.after_step(step, self._writer.is_busy, at_once=last)
        if order.none_busy and self._writer.is_under_way:
            with self._clock("checkpoint"):
                self._writer.advance()
        if self._is_best(step, merit) or order.save or order.stop or self._is_due(step):
            with self._clock("checkpoint"):
                self._begin(step)
        if self._writer.is_under_way and (order.save or order.stop or last):
            with self._clock("checkpoint"):
                self._writer.finish()
        if order.save:
            self._orders.saved()
            self._say(f"step {step}/{self._num_steps}: a checkpoint is written, as the file SAVE asked")
        if last or not order.stop:
            return None
        stopped = StoppedError(
            f"{self._config.run.name}: stopped after step {step} of {self._num_steps} by {order.stop}; "
            "its checkpoint is written, checkpoint.resume=auto continues it"
        )
        stopped.status = order.stop_status
        return stopped

    def end(self, merit: Merit | None) -> float:
        """The last step has been judged: its checkpoint is there, and may be the best.

        Args:
            merit: of the last soup, as in `after_step`.

        Returns:
            Seconds by which writing checkpoints has held up the loop of this rank in this start.
        """
        if self._is_best(self._num_steps, merit):
            best, keep, folder = self._best, self._config.checkpoint.keep, self._config.folder
            assert best is not None

            def mark() -> None:
                write_best(folder, best)
                forget_old(folder, keep, best)

            on_root(self._world.comm, mark)
        self._writer.close()
        return self._clock.read().get("checkpoint", 0.0)

    def _is_due(self, step: int) -> bool:
        every, keep_best = self._config.checkpoint.every_steps, self._config.checkpoint.keep_best
        if step == self._num_steps:
            return every > 0 or keep_best
        return every > 0 and step % every == 0

    def _is_best(self, step: int, merit: Merit | None) -> bool:
        """Whether a soup is better than all before, and then remember it."""
        if merit is None:
            return False
        merit = self._world.comm.bcast(merit)  # sums of other ranks may differ in their last bit
        before = self._best if self._best is not None and self._best.by == merit.by else None
        if merit.value <= (-math.inf if before is None else before.merit):
            return False
        self._best = Best(step, merit.value, merit.by)
        return True

    def _begin(self, step: int) -> None:
        self._writer.finish()
        layout = self._world.layout
        own = self._member.state()
        statistics = self._world.member_comm.gather(get_statistics(self._member.model).cpu())
        state = None
        if statistics is not None:
            if len(statistics) > 1:
                own[_OF_REPLICAS] = torch.stack(statistics)
            state = MemberState(own, self._method.state(), self._averages.state())
        moved, sent = self._totals.moved_and_sent()
        manifest = Manifest(
            step=step,
            num_members=layout.num_members,
            num_replicas=layout.num_replicas,
            num_parameters=self._member.flat.values.numel(),
            seed=self._config.run.seed,
            optimizer=self._config.optimizer.name,
            channels_last=self._config.train.channels_last,
            values_moved=moved.tolist(),
            bytes_sent=sent.tolist(),
            wall_seconds=self._totals.wall_seconds(),
            checksums={},
        )
        self._writer.begin(manifest, state, self._best)
        self._orders.writing_since(step)


def find_whole(config: Config, world: World, found: list[Found]) -> tuple[Manifest | None, list[str]]:
    """The last checkpoint that is whole: each rank reads the file of its member. Collective over the world.

    Args:
        config: the run's.
        world: the ranks.
        found: the run's checkpoints, the last one first; equal on all ranks.

    Returns:
        Its manifest, None where there are no checkpoints; and what the user is to be told of those that are damaged.

    Raises:
        CheckpointError: all are damaged; on all ranks.
    """
    damaged: list[str] = []
    for candidate in found:
        damage = candidate.damage or _first_damage(config, world, candidate.manifest)
        if not damage:
            note = f"damaged: {'; '.join(damaged)}; the checkpoint before, of step {candidate.step}, is used"
            return candidate.manifest, [note] if damaged else []
        damaged.append(damage)
    with agreed(world.comm):
        if damaged:
            raise CheckpointError(
                f"{config.folder}: no checkpoint is whole: {'; '.join(damaged)}; remove {config.folder} to begin anew"
            )
    return None, []


def _first_damage(config: Config, world: World, manifest: Manifest | None) -> str:
    """What the lowest member's rank found whose file is damaged; empty where none is. Collective over the world.

    Raises:
        CheckpointError: a file cannot be read, which is no damage: nothing is put aside for it. On all ranks.
    """
    damage, layout = "", world.layout
    with agreed(world.comm):
        # Of another number of members it is not this run's, which is said later.
        if manifest is not None and layout.replica == 0 and layout.member < manifest.num_members:
            try:
                verify_member(config.folder, manifest, layout.member)
            except DamageError as error:
                damage = str(error)
    return next((said for said in world.comm.allgather(damage) if said), "")


def continue_from(
    start: Manifest | None, config: Config, member: Member, method: Method, averages: Averages, world: World
) -> int:
    """Put back what a checkpoint holds. Collective over the world.

    Returns:
        The number of the first step to do, 0 without a checkpoint.

    Raises:
        CheckpointError: it cannot be read, or does not fit; on all ranks.
    """
    with agreed(world.comm):
        if start is not None:
            state = read_member(config.folder, start, world.layout.member)
            of_replicas = state.own.pop(_OF_REPLICAS, None)
            is_alike = of_replicas is None or of_replicas.shape[1:] == get_statistics(member.model).shape
            if not is_alike or {name: tensor.shape for name, tensor in state.own.items()} != member.state_shapes():
                raise CheckpointError(f"{config.folder}: its checkpoint is of another model or optimizer")
            member.load_state(state.own, start.step)
            if of_replicas is not None:
                same = len(of_replicas) == world.layout.num_replicas
                set_statistics(member.model, of_replicas[world.layout.replica] if same else of_replicas.mean(dim=0))
            method.load_state(state.method, start.step)
            averages.load_state(state.averages, start.step)
    return 0 if start is None else start.step
