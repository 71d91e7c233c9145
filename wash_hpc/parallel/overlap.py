"""An exchange that runs while the next step computes.

The exchange of step t is packed after step t, travels during step t + 1, and is then added in place as the difference
between what came and what it replaces. So the local update of step t + 1 survives, and the members' mean is kept, to
rounding. A blocking Alltoallv in a thread of its own, because non-blocking collectives on device buffers are unsafe in
several MPI builds; it needs MPI_THREAD_MULTIPLE and a communicator that nobody else uses.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

import torch
from mpi4py import MPI
from torch import Tensor

from wash_hpc.errors import ConfigError
from wash_hpc.parallel.exchange import Exchange, Transfer


def require_thread_support() -> None:
    """Refuse an MPI that may be called by one thread at a time only. Local, and the same on all ranks.

    Raises:
        ConfigError: naming the key.
    """
    if MPI.Query_thread() < MPI.THREAD_MULTIPLE:
        raise ConfigError("method.overlap=true: this MPI does not support calls from several threads; use false")


class OverlappedExchange:
    """At most one exchange under way, from `start` to `finish`.

    Args:
        exchange: does the work; its communicator must be used by nobody else.
    """

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._replaced = exchange.send.new_empty(exchange.send.numel())
        self._pending: tuple[Transfer, Future[list[int]]] | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="exchange")
        self._stream = torch.cuda.Stream(exchange.device) if exchange.device.type == "cuda" else None

    @property
    def is_pending(self) -> bool:
        """Whether an exchange is under way."""
        return self._pending is not None

    def start(self, transfer: Transfer) -> None:
        """Pack, and begin to communicate. Collective over the exchange's communicator."""
        assert self._pending is None, "one exchange at a time"
        self._exchange.pack(transfer)
        if transfer.length > self._replaced.numel():
            self._replaced = self._exchange.send.new_empty(transfer.length)
        self._exchange.gather_replaced(transfer, out=self._replaced)
        self._pending = transfer, self._thread.submit(self._communicate, transfer)

    def wait(self) -> list[int]:
        """Wait until the values have arrived; returns the sick members, as a call of `Exchange` does."""
        assert self._pending is not None
        return self._pending[1].result()

    def finish(self) -> list[int]:
        """Wait, and add what has come. Nothing is changed where there are sick members, which are returned."""
        sick = self.wait()
        assert self._pending is not None
        transfer, _ = self._pending
        if not sick:
            self._add(transfer)
        self._pending = None
        return sick

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=True)

    def state(self) -> dict[str, Tensor]:
        """What a restart needs to finish the exchange that is under way; nothing where there is none. Waits for it."""
        if self._pending is None:
            return {}
        length = self._pending[0].length
        return {
            "received": self._exchange.recv[:length],
            "replaced": self._replaced[:length],
            "sick": torch.tensor(self.wait(), dtype=torch.int64),
        }

    def load_state(self, transfer: Transfer, state: dict[str, Tensor]) -> None:
        """Put back an exchange that was under way.

        Args:
            transfer: its plan, drawn again.
            state: of `state`.
        """
        self._exchange.pack(transfer)  # allocates, should the draw be larger than the buffers
        if transfer.length > self._replaced.numel():
            self._replaced = self._exchange.send.new_empty(transfer.length)
        self._exchange.recv[: transfer.length].copy_(state["received"])
        self._replaced[: transfer.length].copy_(state["replaced"])
        done: Future[list[int]] = Future()
        done.set_result(state["sick"].tolist())
        self._pending = transfer, done

    def _communicate(self, transfer: Transfer) -> list[int]:
        if self._stream is None:
            return self._exchange.communicate(transfer)
        with torch.cuda.device(self._exchange.device), torch.cuda.stream(self._stream):
            sick = self._exchange.communicate(transfer)
            self._stream.synchronize()  # the training stream is to find everything there
        return sick

    def _add(self, transfer: Transfer) -> None:
        """received - (replaced - current): where nothing was updated since, exactly what was received, also -0."""
        exchange, length = self._exchange, transfer.length
        current, received = exchange.send[:length], exchange.recv[:length]  # sent: its buffer is free
        exchange.gather_replaced(transfer, out=current)
        update = self._replaced[:length].view(exchange.dtype).sub_(current.view(exchange.dtype))
        received.view(exchange.dtype).sub_(update)
        exchange.unpack(transfer)
