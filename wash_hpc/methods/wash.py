"""WASH (arXiv 2405.17517, section 3): after a step, shuffle a small random share of the parameters between members.

Cost: each member sends (N-1)/N sum_l p_l d_l scalars a step for N members and layers of d_l parameters; with the
optimizer's state (WASH+Opt) twice that for SGD with momentum, three times for Adam. Where only the members of a group
meet (`method.topology`), N is their number. p_l is that of the step, by `method.p_schedule`.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from wash_hpc.errors import ConfigError, HealthError
from wash_hpc.methods import Context, Method
from wash_hpc.methods.drawing import make_drawer, nodes_of_members, p_factor, why_hardly_any
from wash_hpc.parallel.device import choose_memory
from wash_hpc.parallel.exchange import Exchange, Transfer
from wash_hpc.parallel.overlap import OverlappedExchange, require_thread_support
from wash_hpc.parallel.world import Comm, agreed
from wash_hpc.shuffle.ahead import Ahead
from wash_hpc.shuffle.draw import Draw
from wash_hpc.shuffle.plan import make_plan
from wash_hpc.storage.checkpoint import CheckpointError

_CHECK_EVERY = 1000  # exchanges between two comparisons of the ranks' draws


class Wash(Method):
    """Draw, plan, exchange. Draws and plans are made one exchange ahead, while a step computes."""

    def __init__(self, context: Context) -> None:
        """Raises: ConfigError, on all ranks, where MPI cannot do what the configuration asks."""
        super().__init__(context)
        config, flat, world = context.config, context.flat, context.world
        self._world = world
        nodes = nodes_of_members(config, world)
        self._drawer = make_drawer(config, flat, world.layout.num_members, nodes, context.number)
        self._num_rows = len(flat.rows) if config.method.optimizer_state else 1
        self._row_size = flat.values.numel()
        moved = self._drawer.most_expected_moved * self._num_rows
        overlap = config.method.overlap and world.layout.num_members > 1
        buffers = config.parallel.device_buffers
        with agreed(world.comm):
            if overlap:
                require_thread_support()
            if config.method.quarantine and world.layout.num_replicas > 1:
                raise ConfigError(
                    "method.quarantine=true: a fault may strike one replica of a member alone, of which the ranks of "
                    "the other replicas would not know; expected one rank a member, or false"
                )
            if overlap and world.layout.num_replicas > 1 and flat.values.is_cuda:
                # The gradients of the next step are reduced meanwhile: NCCL and CUDA-aware MPI at once may deadlock.
                if buffers == "on":
                    raise ConfigError("parallel.device_buffers=on: with method.overlap only for one rank a member")
                buffers = "off"
        memory = choose_memory(world, flat.values.device, buffers, moved)
        self.notes = (memory.reason,) if memory.reason else ()
        comm: Comm = world.exchange_comm.Dup() if overlap else world.exchange_comm
        self._exchange = Exchange(comm, flat.storage, moved, memory.staged)
        self._overlapped = OverlappedExchange(self._exchange) if overlap else None
        self._ahead = Ahead(self._draw_and_prepare)
        self._num_exchanges = 0

    def why_idle(self, num_steps: int) -> str:
        """See `Method.why_idle`."""
        if self.config.p == 0 or self._world.layout.num_members == 1:
            return ""
        return super().why_idle(num_steps) or why_hardly_any(self.context.config, self._drawer, num_steps)

    def after_step(self, step: int) -> None:
        """See `Method.after_step`; one Alltoallv over `exchange_comm` when an exchange is due.

        Raises:
            HealthError: a member has values that are not finite.
        """
        self._finish_overlapped(step - 1)
        if not self.is_due(step):
            return
        self._exchange_after(step)
        if self.is_due(step + self.config.every):
            self._ahead.start(step + self.config.every)  # last: it would compete with the exchange for cores

    def _exchange_after(self, step: int) -> None:
        draw, transfer = self._ahead.take(step)
        if self._num_exchanges % _CHECK_EVERY == 0:
            self._world.require_same(draw.digest, f"the draw of step {step}")
        self._num_exchanges += 1
        # Equal on all ranks, as the draw is: a member that rests in this exchange sends nothing, but has to be there.
        if len(draw.positions) > 0 and draw.groups:
            self.count_sent(transfer.num_moved, self._exchange.dtype.itemsize)
            if self._overlapped is not None:
                self._overlapped.start(transfer)
            else:
                self._look_after(self._exchange(transfer), step)

    def finish(self) -> None:
        """See `Method.finish`; applies the last overlapped exchange."""
        self._ahead.close()
        if self._overlapped is not None:
            self._finish_overlapped(None)
            self._overlapped.close()

    def state(self) -> dict[str, Tensor]:
        """See `Method.state`: the exchange under way, and who is quarantined."""
        pending = self._overlapped.state() if self._overlapped is not None else {}
        if self.quarantined:
            pending["quarantined"] = torch.tensor(self.quarantined)
        return pending

    def load_state(self, state: dict[str, Tensor], step: int) -> None:
        """See `Method.load_state`."""
        if "quarantined" in state:
            self.quarantined = tuple(state["quarantined"].tolist())
        if "received" not in state:
            return
        if self._overlapped is None:
            raise CheckpointError(
                "method.overlap=false: the checkpoint was written in mid-exchange; continue with true"
            )
        _, transfer = self._draw_and_prepare(step)
        if len(state["received"]) != transfer.length:
            raise CheckpointError(
                "method: the exchange under way in the checkpoint is of another p, schedule or topology"
            )
        self._overlapped.load_state(transfer, state)

    def _finish_overlapped(self, step: int | None) -> None:
        if self._overlapped is not None and self._overlapped.is_pending:
            self._look_after(self._overlapped.finish(), step)

    def _look_after(self, sick: list[int], step: int | None) -> None:
        """Go on without the sick members, or stop, on all ranks that exchanged with them."""
        if not sick:
            return
        if self.config.quarantine and len(self.quarantined) + len(sick) < self._world.layout.num_members:
            self.quarantined = tuple(sorted({*self.quarantined, *sick}))
            self._ahead.forget()  # it was drawn with them
            return
        named = f"member{'s' * (len(sick) > 1)} {', '.join(map(str, sick))}"
        when = "the last step" if step is None else f"step {step}"
        error = HealthError(
            f"{when}: {named} sent values that are not finite; nobody has taken them over. Try a lower optimizer.lr, "
            "continue from a checkpoint, or go on without such members: method.quarantine=true"
        )
        # Elsewhere only the members of its group know, and a fault of the hardware may strike one replica alone.
        error.agreed = self.config.topology == "global" and self._world.layout.num_replicas == 1
        raise error

    def _draw_and_prepare(self, step: int) -> tuple[Draw, Transfer]:
        drawer = self._drawer.scaled(p_factor(self.context.config, step, self.context.num_steps))
        draw = drawer.draw(step, self.quarantined)
        layout = self._world.layout
        plan = make_plan(draw, layout.member, self._num_rows, self._row_size)
        if self.quarantined:  # those in quarantine hear who else is sick, so that all go on drawing the same
            others = [member for member in range(layout.num_members) if member != layout.member]
            plan = replace(plan, peers=others)
        return draw, self._exchange.prepare(plan)
