"""What a configuration has to know of each method: the options of the section `method` that mean something to it.

A method itself is one file in `methods/`, imported when it is used. One of your own is added by `methods.register`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from wash_hpc.errors import ConfigError

if TYPE_CHECKING:
    from wash_hpc.config import SingleMethodConfig

SHUFFLES = (100, 200)
"""Of a parameter over a run, p x exchanges: what has made soups as good as ensembles (docs/results.md)."""

WINDOW = ("every", "start", "stop")
"""The options by which `due.is_due` says when a method acts."""


@dataclass(frozen=True)
class Kind:
    """One method, as a configuration sees it.

    Attributes:
        options: keys of `method` that it knows, besides `name` and `then`.
        every: what `method.every` is where nobody says.
        in_epochs: `method.every` counts passes over the training set, and the end of the run is left out.
    """

    options: tuple[str, ...] = ()
    every: int = 1
    in_epochs: bool = False


DEFAULT = "wash"

KINDS: dict[str, Kind] = {
    "independent": Kind(),
    "wash": Kind(
        (
            *WINDOW,
            *("p", "p_schedule", "schedule", "layer", "permutation", "optimizer_state", "overlap"),
            *("topology", "node_size", "node_ratio", "quarantine"),
        )
    ),
    "papa": Kind((*WINDOW, "alpha"), every=10),
    "papa_all": Kind((*WINDOW, "repair"), every=5, in_epochs=True),
    "sparta": Kind((*WINDOW, "p", "p_schedule", "draw")),
    "local_sgd": Kind(WINDOW, every=100),
    "diloco": Kind((*WINDOW, "outer_lr", "outer_momentum"), every=100),
    "data_parallel": Kind(),
}


def kind_of(name: str) -> Kind:
    """The kind of a method; one that knows no option for a name that is no method, which is refused elsewhere."""
    return KINDS.get(name, Kind())


def section_of(number: int) -> str:
    """The section of a run's method number so many, from 0, in front of its keys."""
    return "method" if number == 0 else f"method.then[{number - 1}]"


def is_foreign(option: str, name: str) -> bool:
    """Whether a key of the section `method` means nothing to the method of this name."""
    return name in KINDS and option not in {"name", "then", *KINDS[name].options}


def without_foreign_options(section: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A section `method` without the options that the method of this name does not know."""
    return {key: value for key, value in section.items() if not is_foreign(key, name)}


def common_options(section: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What a section `method` that was written for another method says of the one of this name, too.

    When a method acts, and what comes after it, is never meant for another: `every`, `start`, `stop` and `then` go.
    """
    common = without_foreign_options(section, name)
    return {key: value for key, value in common.items() if key not in {"then", *WINDOW}}


def check_options(method: SingleMethodConfig, where: str) -> None:
    """Refuse an option that the method does not know; one that has its default counts as not given.

    Args:
        method: its `every` filled in.
        where: the section, in front of the key.

    Raises:
        ConfigError: naming the key, and those that the method knows.
    """
    for key in fields(method):
        value = getattr(method, key.name)
        is_default = value == key.default or (key.name == "every" and value == kind_of(method.name).every)
        if is_foreign(key.name, method.name) and not is_default:
            options = ", ".join(kind_of(method.name).options) or "none"
            raise ConfigError(
                f"{where}.{key.name}={value}: {where}.name={method.name} does not know this option; it knows {options}"
            )
