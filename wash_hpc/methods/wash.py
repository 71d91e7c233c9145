"""WASH (arXiv 2405.17517, section 3): after a step, shuffle a small random share of the parameters between members.

Cost: each member sends (N-1)/N sum_l p_l d_l scalars a step for N members and layers of d_l parameters; with the
optimizer's state (WASH+Opt) twice that for SGD with momentum, three times for Adam.
"""

from __future__ import annotations

from wash_hpc.config import Config
from wash_hpc.ensemble.flat import Flat
from wash_hpc.methods.drawing import expected_moved, is_due, make_drawer
from wash_hpc.parallel.exchange import Exchange
from wash_hpc.parallel.world import World
from wash_hpc.shuffle.ahead import Ahead
from wash_hpc.shuffle.draw import Draw
from wash_hpc.shuffle.plan import Plan, make_plan

_CHECK_EVERY = 1000  # exchanges between two comparisons of the ranks' draws


class Wash:
    """Draw, plan, exchange. Draws and plans are made one exchange ahead in the background."""

    def __init__(self, config: Config, flat: Flat, world: World) -> None:
        self.values_moved = 0
        self.bytes_sent = 0
        self._config = config.method
        self._world = world
        self._drawer = make_drawer(config, flat, world.layout.num_members)
        device_buffers = config.parallel.device_buffers == "on" and flat.values.is_cuda
        num_rows = len(flat.rows) if config.method.optimizer_state else 1
        moved = expected_moved(self._drawer) * num_rows
        self._exchange = Exchange(world.exchange_comm, flat.rows[:num_rows].view(-1), moved, device_buffers)
        self._num_rows, self._row_size = num_rows, flat.values.numel()
        self._ahead = Ahead(self._draw_and_plan)
        self._num_exchanges = 0

    def after_step(self, step: int) -> None:
        """See `Method.after_step`; one Alltoallv over `exchange_comm` when an exchange is due."""
        if not is_due(self._config, step):
            return
        draw, plan = self._ahead.take(step, step + self._config.every)
        if self._num_exchanges % _CHECK_EVERY == 0:
            self._world.require_same(draw.digest, f"the draw of step {step}")
        self._num_exchanges += 1
        if len(draw.positions) > 0:  # equal on all ranks, as the draw is
            self.bytes_sent += self._exchange(plan)
            self.values_moved += plan.num_moved

    def close(self) -> None:
        """End the background thread."""
        self._ahead.close()

    def _draw_and_plan(self, step: int) -> tuple[Draw, Plan]:
        draw = self._drawer.draw(step)
        return draw, make_plan(draw, self._world.layout.member, self._num_rows, self._row_size)
