"""Several methods in one run, each in its own window of steps: `method.then`."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from wash_hpc.method_kinds import section_of
from wash_hpc.methods import INDEPENDENT, Context, Method


class Chain(Method):
    """Asks each method after each step, in order; where the windows of two overlap, the first acts first.

    Cost: the sum of theirs.
    """

    def __init__(self, context: Context, methods: Sequence[Method]) -> None:
        super().__init__(context)
        self._methods = methods
        self.notes = tuple(note for method in methods for note in method.notes)

    def after_step(self, step: int) -> None:
        """See `Method.after_step`."""
        for method in self._methods:
            method.after_step(step)
        self.values_moved = sum(method.values_moved for method in self._methods)
        self.bytes_sent = sum(method.bytes_sent for method in self._methods)

    def warn(self, num_steps: int) -> list[str]:
        """See `Method.warn`: of each method that will do nothing, and of members that none of them couples."""
        warnings = []
        for number, method in enumerate(self._methods):
            if why := method.why_idle(num_steps):
                warnings.append(f"{section_of(number)}: {why}: it does nothing")
        return [*warnings, INDEPENDENT] if len(warnings) == len(self._methods) else warnings

    def finish(self) -> None:
        """See `Method.finish`."""
        for method in self._methods:
            method.finish()

    def state(self) -> dict[str, Tensor]:
        """See `Method.state`: each method's, with its number in front."""
        return {
            f"{number}.{name}": tensor
            for number, method in enumerate(self._methods)
            for name, tensor in method.state().items()
        }

    def load_state(self, state: dict[str, Tensor], step: int) -> None:
        """See `Method.load_state`."""
        for number, method in enumerate(self._methods):
            prefix = f"{number}."
            own = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
            method.load_state(own, step)
