"""What members do to each other after a step: one small file a method, built on the exchange and the reducer.

A method of one's own is a class between `register` and `wash_hpc.__main__.main`; docs/methods.md shows one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, TypeVar

from torch import Tensor, nn

from wash_hpc.config import Config, refuse_unknown
from wash_hpc.ensemble.flat import Flat
from wash_hpc.method_kinds import KINDS, Kind, kind_of, section_of
from wash_hpc.methods.drawing import describe_chosen_p, with_chosen_p
from wash_hpc.methods.due import counted_in_steps, is_due, why_never_due

if TYPE_CHECKING:
    from wash_hpc.data.source import Source
    from wash_hpc.parallel.reducer import Reducer
    from wash_hpc.parallel.world import World


@dataclass(frozen=True)
class Context:
    """What a method is given of a run.

    Attributes:
        config: of the run; its section `method` is this method's own.
        world: the ranks.
        reducer: averages over them.
        model: this rank's network; its parameters are views of `flat`.
        flat: this member's parameters and optimizer state, changed in place by the method.
        source: the images.
        num_steps: of the whole run.
        steps_per_epoch: of a pass over the training set.
        number: which of the run's methods it is, from 0; random numbers of two are independent.
    """

    config: Config
    world: World
    reducer: Reducer
    model: nn.Module
    flat: Flat
    source: Source
    num_steps: int
    steps_per_epoch: int
    number: int = 0


INDEPENDENT = "the members train independently, or nearly so"


class Method(ABC):
    """A way of coupling members.

    Attributes:
        context: what it was given.
        config: its own options, `every` in steps.
        flat: this member's parameters.
        values_moved: scalars that this rank has sent to other members so far.
        bytes_sent: the same as bytes of payload.
        quarantined: members that no longer take part, because their values are not finite; equal on all ranks.
        notes: what the user is to be told once, when the run starts.
    """

    def __init__(self, context: Context) -> None:
        self.context = context
        self.config = counted_in_steps(context.config.method, context.num_steps, context.steps_per_epoch)
        self.flat = context.flat
        self.values_moved = 0
        self.bytes_sent = 0
        self.quarantined: tuple[int, ...] = ()
        self.notes: tuple[str, ...] = ()

    @abstractmethod
    def after_step(self, step: int) -> None:
        """Do what is due after the update number `step`, from 1. Collective over `exchange_comm` and `member_comm`."""

    def is_due(self, step: int) -> bool:
        """Whether members meet after this update, by `method.every`, `start` and `stop`; the same on all ranks.

        Never where there is one member.
        """
        return self.context.world.layout.num_members > 1 and is_due(self.config, step)

    def mean_over_members(self, tensor: Tensor) -> Tensor:
        """The mean of the members' tensors, as a new one; counted as sent by a ring allreduce.

        Collective over `exchange_comm` and `member_comm`. Equal on all members' ranks, bit for bit.

        Args:
            tensor: of one shape on all members; left as it is.

        Raises:
            HealthError: the mean is not finite; on all ranks, naming the members that made it so.
        """
        from wash_hpc.methods.averaging import mean_over_members, num_sent

        mean = mean_over_members(self.context, tensor)
        self.count_sent(num_sent(tensor.numel(), self.context.world.layout.num_members), tensor.element_size())
        return mean

    def count_sent(self, num_values: int, item_size: int) -> None:
        """Add to what this rank has sent: so many scalars of so many bytes."""
        self.values_moved += num_values
        self.bytes_sent += num_values * item_size

    def warn(self, num_steps: int) -> list[str]:
        """What the user is to be warned of in a run of so many steps, a sentence each; local."""
        why = self.why_idle(num_steps)
        return [f"{why}: {INDEPENDENT}"] if why else []

    def why_idle(self, num_steps: int) -> str:
        """Why the method will move nothing, or hardly anything, in a run of so many steps; local.

        Empty where it will, and where that is meant, as by a single member or p = 0.
        """
        if self.context.world.layout.num_members == 1:
            return ""
        return why_never_due(self.context.config.method, num_steps, self.context.steps_per_epoch)

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


MethodClass = TypeVar("MethodClass", bound=type[Method])

_MODULES = {
    "independent": "Independent",
    "wash": "Wash",
    "papa": "Papa",
    "papa_all": "PapaAll",
    "sparta": "Sparta",
    "local_sgd": "LocalSGD",
    "diloco": "DiLoCo",
    "data_parallel": "DataParallel",
}
"""A method's name, which is that of its module, and its class; imported when used, because most need MPI."""

_REGISTERED: dict[str, type[Method]] = {}


def register(name: str, options: Sequence[str] = (), every: int = 1) -> Callable[[MethodClass], MethodClass]:
    """Make a class known as `method.name=NAME`; to be called before the configuration is read.

    Args:
        name: a new one.
        options: keys of the section `method` that it reads; others are refused.
        every: what `method.every` is where nobody says.
    """
    if name in KINDS:
        raise ValueError(f"there is a method {name} already")

    def add(kind: MethodClass) -> MethodClass:
        KINDS[name] = Kind(tuple(options), every)
        _REGISTERED[name] = kind
        return kind

    return add


def method_names() -> list[str]:
    """Names that `require_methods` and `make_method` know."""
    return list(KINDS)


def require_methods(config: Config) -> None:
    """Refuse a name that is no method.

    Raises:
        ConfigError: naming those there are.
    """
    for number, method in enumerate(config.methods):
        if method.name not in KINDS:
            raise refuse_unknown(f"{section_of(number)}.name", method.name, method_names())


def each_method(config: Config, num_steps: int) -> list[Config]:
    """The configuration once for each of its methods, with that one as its only method, and a number for its p."""
    alone = [replace(config, method=replace(config.method, **vars(method) | {"then": []})) for method in config.methods]
    return [with_chosen_p(one, num_steps) for one in alone]


def make_method(context: Context) -> Method:
    """The method of a configuration, and those of `method.then`, for this rank's member. Collective over the world."""
    made = []
    for number, one in enumerate(each_method(context.config, context.num_steps)):
        method = class_of_method(one.method.name)(replace(context, config=one, number=number))
        if context.config.methods[number].p is None:
            method.notes = (describe_chosen_p(one, context.num_steps), *method.notes)
        made.append(method)
    made[0].notes = (*_lack_of_others(context), *made[0].notes)
    if len(made) == 1:
        return made[0]
    from wash_hpc.methods.chain import Chain

    return Chain(context, made)


def _lack_of_others(context: Context) -> tuple[str, ...]:
    """A note where a method for several members has one rank, and nobody has said that one member is meant."""
    exchanging = [one.name for one in context.config.methods if kind_of(one.name).options]
    if context.world.layout.size > 1 or context.config.ensemble.members is not None or not exchanging:
        return ()
    return (
        f"one rank, so one member: method.name={exchanging[0]} has nobody to exchange with; for four members "
        "start the same command by mpirun -n 4",
    )


def class_of_method(name: str) -> type[Method]:
    """The class of a method that there is."""
    if name in _REGISTERED:
        return _REGISTERED[name]
    kind: type[Method] = getattr(import_module(f"wash_hpc.methods.{name}"), _MODULES[name])
    return kind
