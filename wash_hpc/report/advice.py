"""What to try against an alarm: keys and values that the run's own configuration would accept, in words.

Pure: a configuration as plain sections, which anybody may have written, in; sentences without their stop out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from wash_hpc.method_kinds import SHUFFLES, kind_of

ALL_EQUAL = {"papa_all", "local_sgd", "diloco", "data_parallel"}  # whose members are equal by design now and then
_AIM = 150
_KNOWN = f"what counts is shuffles of a position over the run, p x exchanges, {SHUFFLES[0]} to {SHUFFLES[1]}"
_SAME_INIT = "ensemble.same_init=true"
_FOLLOWING = ", or method.p_schedule=lr"
_LEAST_ALPHA = 0.5  # of PAPA, below which pulling harder is the mean of all
_MOST_NUMBER = 2.0**63  # that a configuration of ours can hold


def healthier(config: Mapping[str, Any]) -> str:
    """Against values that are not finite."""
    method, lr = section(config, "method"), number(section(config, "optimizer"), "lr")
    lower = f"optimizer.lr={short(lr / 3)} (now {short(lr)})" if lr else "a lower optimizer.lr"
    can_go_on = _takes(method, "quarantine") and method.get("topology", "global") == "global"
    goes_on = f"; method.quarantine=true lets {str(method['name']).upper()} go on without it" if can_go_on else ""
    return f"Try {lower}, or optimizer.warmup_steps{goes_on}"


def closer(config: Mapping[str, Any], name: str, steps: float | None) -> str:
    """What keeps members together.

    Args:
        config: the run's.
        name: of its method.
        steps: of the whole run; None where nobody knows.
    """
    method = section(config, "method")
    every = _every(method, name)
    if name in {"wash", "sparta"}:
        return _more_shuffles(config, steps)
    if name == "papa":
        alpha = number(method, "alpha")
        alpha = 0.99 if alpha is None else alpha
        if alpha > _LEAST_ALPHA:
            stronger = max(_LEAST_ALPHA, 1 - 10 * (1 - alpha))
            return f"Try method.alpha={stronger:.3g} (now {alpha:g}), or {_SAME_INIT}"
    if (name in ALL_EQUAL or name == "papa") and every > 1:
        return f"Try method.every={max(1, every // 2):.0f} (now {every:.0f}), or {_SAME_INIT}"
    return f"Try {_SAME_INIT}, or a method that acts more often"


def further(method: Mapping[str, Any]) -> str:
    """What keeps members from becoming one."""
    if method.get("name") == "papa":
        return "Try method.alpha=0.99, a larger method.every, or ensemble.same_init=false"
    p = number(method, "p")
    weaker = f"method.p={short(p / 10)} (now {short(p)})" if p else "exchanging less"
    return f"Try {weaker}, ensemble.same_init=false, or lists of train.mixup and train.cutmix, from which members draw"


def rarer(config: Mapping[str, Any]) -> str:
    """What makes exchanges cost less of a step."""
    method = section(config, "method")
    name, p = str(method.get("name")), number(method, "p")
    every = _every(method, name)
    plan = (
        "wash-hpc plan on the run's config.yaml says what else would; ranks that share cores wait for each other in it"
    )
    if name in {"wash", "sparta"} and p:
        size = "as many bytes" if p <= 0.5 else "fewer bytes"
        twice = f"method.every={2 * every:.0f} with method.p={short(min(1, 2 * p))} ({size}, half the messages)"
        is_adam = section(config, "optimizer").get("name") != "sgd"
        can_overlap = _takes(method, "overlap") and not (method.get("optimizer_state") and is_adam)
        return f"Try {'method.overlap=true, or ' if can_overlap else ''}{twice}; {plan}"
    return f"Try method.every={2 * every:.0f} (now {every:.0f}); {plan}"


def _more_shuffles(config: Mapping[str, Any], steps: float | None) -> str:
    """The p at which positions are shuffled often enough over the run; where none is, what stands in its way."""
    method = section(config, "method")
    p, start, stop = number(method, "p"), number(method, "start") or 0, number(method, "stop")
    end = min(math.inf if stop is None else stop, steps or math.inf)
    if p is None or not math.isfinite(end) or end <= start:
        return "Try a larger method.p"
    whole = steps or end
    most = _most_shuffles(config, start, end, whole)  # with p = 1
    here = p * most
    if here >= SHUFFLES[1]:
        varies = method.get("p_schedule", "constant") != "constant" or method.get("draw", "random") != "random"
        follows = section(config, "optimizer").get("schedule") != "constant" and not varies
        return f"Try {_SAME_INIT}, {'' if follows else 'or '}a lower optimizer.lr{_FOLLOWING if follows else ''}"
    least, aim = (SHUFFLES[0], _AIM) if here < SHUFFLES[0] else (SHUFFLES[1], SHUFFLES[1])
    if most >= least or (most >= SHUFFLES[0] and p < 1):
        return f"Try method.p={short(min(1, aim / most))} (now {short(p)}): {_KNOWN}; here {short(here)}"
    without = _most_shuffles(config, 0, whole, whole)
    if without >= least:  # the window is too narrow
        keys = [f"method.start=0 (now {start:.0f})"] * (start > 0) + [f"method.stop=null (now {end:.0f})"] * (
            end < whole
        )
        return f"Try {' and '.join(keys)} with method.p={short(min(1, aim / without))}: {_KNOWN}; here {short(here)}"
    needed = whole * least / without
    return f"Try more than {needed:.0f} steps, or {_SAME_INIT}: {_KNOWN}; here {short(here)}"


def _most_shuffles(config: Mapping[str, Any], start: float, end: float, steps: float) -> float:
    """How often a position is shuffled in a window of the run where p is 1 at its largest, by `method.p_schedule`.

    A learning rate is taken for a plain cosine, or as constant: its warm-up is short.
    """
    method = section(config, "method")
    kind = method.get("p_schedule", "constant")
    if kind == "lr":
        kind = section(config, "optimizer").get("schedule", "cosine")
    done = np.linspace(start, end, 101) / steps
    factor = {"linear": 1 - done, "cosine": (1 + np.cos(np.pi * done)) / 2}.get(str(kind), np.ones(1)).mean()
    return max(1.0, (end - start) / _every(method, str(method.get("name")))) * float(factor)


def _takes(method: Mapping[str, Any], option: str) -> bool:
    """Whether a switch that only a method alone can have may be turned on."""
    is_alone = not method.get("then")
    return option in kind_of(str(method.get("name"))).options and is_alone and not method.get(option)


def _every(method: Mapping[str, Any], name: str) -> float:
    return number(method, "every") or kind_of(name).every


def section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A section of a configuration that anybody may have written; empty where it is none."""
    found = config.get(name)
    return found if isinstance(found, Mapping) else {}


def number(section: Mapping[str, Any], key: str) -> float | None:
    """A number of a section; None where it is none."""
    value = section.get(key)
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _MOST_NUMBER
    return float(value) if is_number and value is not None else None


def short(value: float) -> str:
    """Two digits, or, from 100 up, all before the point."""
    return f"{value:.2g}" if abs(value) < 99.5 else f"{value:.0f}"
