"""When a run writes a checkpoint, what goes into it, and how a run goes on from one.

A checkpoint leaves the run as it is, so that a run with checkpoints, or one that was stopped, ends with the same
weights as one without. How it lies on the disk is `storage.checkpoint`'s business.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from wash_hpc.config import Config
from wash_hpc.ensemble.averages import Averages
from wash_hpc.ensemble.flat import get_statistics, set_statistics
from wash_hpc.errors import StoppedError
from wash_hpc.member import Member
from wash_hpc.methods import Method
from wash_hpc.orders import Orders
from wash_hpc.parallel.world import World, agreed
from wash_hpc.storage.checkpoint import (
    CheckpointError,
    Manifest,
    MemberState,
    read_member,
    write_manifest,
    write_member,
)
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

    def after_step(self, step: int) -> StoppedError | None:
        """Write a checkpoint after update number `step`, from 1, where one is due or asked for.

        Returns:
            Why the run ends here, on all ranks; None: it goes on, or has done its last step.
        """
        every, last = self._config.checkpoint.every_steps, step == self._num_steps
        order = self._orders.after_step(step)
        if order.save or order.stop or (every and (last or step % every == 0)):
            self._write(step)
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

    def _write(self, step: int) -> None:
        layout = self._world.layout
        own = self._member.state()
        statistics = self._world.member_comm.gather(get_statistics(self._member.model).cpu())
        checksum = ""
        if statistics is not None:
            if len(statistics) > 1:
                own[_OF_REPLICAS] = torch.stack(statistics)
            state = MemberState(own, self._method.state(), self._averages.state())
            checksum = write_member(self._config.folder, step, layout.member, state)
        # The manifest comes after this: when all checksums are here, all files are there.
        checksums = self._world.comm.allgather((layout.member, checksum))
        moved, sent = self._totals.moved_and_sent()
        if self._world.is_root:
            manifest = Manifest(
                step=step,
                num_members=layout.num_members,
                num_parameters=self._member.flat.values.numel(),
                seed=self._config.run.seed,
                optimizer=self._config.optimizer.name,
                channels_last=self._config.train.channels_last,
                values_moved=moved.tolist(),
                bytes_sent=sent.tolist(),
                wall_seconds=self._totals.wall_seconds(),
                checksums={f"member-{member:04d}.safetensors": text for member, text in checksums if text},
            )
            write_manifest(self._config.folder, manifest, self._config.checkpoint.keep)
        self._world.barrier()  # a run that stops says that its checkpoint is there


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
            if {name: tensor.shape for name, tensor in state.own.items()} != member.state_shapes():
                raise CheckpointError(f"{config.folder}: its checkpoint is of another model or optimizer")
            member.load_state(state.own, start.step)
            if of_replicas is not None:
                same = len(of_replicas) == world.layout.num_replicas
                set_statistics(member.model, of_replicas[world.layout.replica] if same else of_replicas.mean(dim=0))
            method.load_state(state.method, start.step)
            averages.load_state(state.averages, start.step)
    return 0 if start is None else start.step
