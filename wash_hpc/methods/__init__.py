"""What members do to each other after a step: one small file a method, built on the exchange and the reducer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from importlib import import_module
from typing import TYPE_CHECKING

from torch import Tensor

from wash_hpc.config import Config, refuse_unknown
from wash_hpc.ensemble.flat import Flat

if TYPE_CHECKING:
    from wash_hpc.parallel.world import World


class Method(ABC):
    """A way of coupling members.

    Attributes:
        values_moved: scalars that this rank has sent to other members so far.
        bytes_sent: the same as bytes of payload.
        quarantined: members that no longer take part, because their values are not finite; equal on all ranks.
        notes: what the user is to be told once, when the run starts.
    """

    values_moved: int = 0
    bytes_sent: int = 0
    quarantined: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()

    @abstractmethod
    def after_step(self, step: int) -> None:
        """Do what is due after the update number `step`, from 1. Collective over `exchange_comm`."""

    def warn(self, num_steps: int) -> list[str]:
        """What the user is to be warned of in a run of so many steps, a sentence each; local."""
        return []

    def finish(self) -> None:
        """Do what is still under way after the last step, and end what runs in the background.

        Collective over `exchange_comm`; no other call may follow.
        """
        return

    def state(self) -> dict[str, Tensor]:
        """What a restart needs of the method besides the step and the member's own state; not copies."""
        return {}

    def load_state(self, state: dict[str, Tensor], step: int) -> None:
        """Put back what `state` gave after update number `step`.

        Raises:
            CheckpointError: it does not fit this configuration.
        """
        return


_METHODS = {"independent": "Independent", "wash": "Wash"}
"""A method's name, which is that of its module, and its class; imported when used, because most need MPI."""


def method_names() -> list[str]:
    """Names that `require_method` and `make_method` know."""
    return list(_METHODS)


def require_method(name: str) -> None:
    """Refuse a name that is no method.

    Raises:
        ConfigError: naming those there are.
    """
    if name not in _METHODS:
        raise refuse_unknown("method.name", name, method_names())


def make_method(config: Config, flat: Flat, world: World) -> Method:
    """The method of a configuration, for this rank's member.

    Args:
        config: the run's configuration, its method known.
        flat: this member's parameters and optimizer state, changed in place by the method.
        world: the ranks.
    """
    module = import_module(f"wash_hpc.methods.{config.method.name}")
    method: Method = getattr(module, _METHODS[config.method.name])(config, flat, world)
    return method
