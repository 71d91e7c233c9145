"""A sweep: which runs one YAML file describes. Reads and expands; starts nothing, and looks into no run's folder.

    config: configs/digits_wash.yaml               what all runs have in common
    ranks: 4                                       of each run
    common: {train.steps: 200}                     keys over the configuration, for all runs
    variants:                                      named rows, each with keys of its own, ranks or a further grid
      wash: {method.name: wash, grid: {method.p: [0.05, 0.2]}}
      long: {ranks: 1, method.name: independent, train.steps: 800}
    grid: {run.seed: [0, 1, 2]}                    every combination of the lists' values, for each variant

Here that makes nine runs: wash-p_0.05-seed_0 to long-seed_2. Keys are those of a configuration, as on the command line.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from itertools import product
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from wash_hpc.config import Config, load_config
from wash_hpc.config_text import read_yaml
from wash_hpc.data import require_source
from wash_hpc.errors import ConfigError
from wash_hpc.methods import require_methods
from wash_hpc.models import require_model
from wash_hpc.sweep.override import as_override

MOST_RUNS = 1000  # Slurm takes no more tasks in an array, unless a site says otherwise
SEED = "run.seed"
_OF_RANKS = ("num_members", "num_replicas")
_KEYS = ("config", "name", "ranks", "common", "variants", "grid")
_OURS = {"run.name": "runs get names of their own", "checkpoint.resume": "what has not finished goes on anyway"}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,99}")
_LONGEST_NAME = 200

Values = Mapping[str, Any]
Grid = Mapping[str, list[Any]]


@dataclass(frozen=True)
class Run:
    """One run of a sweep.

    Attributes:
        name: of its folder; made of what varies.
        overrides: what makes it this run, as `key=value`.
        ranks: with which it is launched.
    """

    name: str
    overrides: tuple[str, ...]
    ranks: int


@dataclass(frozen=True)
class Sweep:
    """Runs that have one configuration in common.

    Attributes:
        config: the configuration's file.
        common: `key=value` for all runs, under each run's own.
        folder: where the runs' folders are.
        runs: all of them; their numbers are those of the tasks of a job array.
        varying: keys that differ between runs, of the configuration or of the summary.
        given: of `common`, what was given beside the file.
    """

    config: Path
    common: tuple[str, ...]
    folder: Path
    runs: tuple[Run, ...]
    varying: tuple[str, ...] = ()
    given: tuple[str, ...] = ()

    def arguments(self, run: Run) -> list[str]:
        """What `wash-hpc train` is given besides the configuration's file."""
        return [*self.common, *run.overrides, f"run.dir={self.folder}", f"run.name={run.name}"]

    def load(self, run: Run) -> Config:
        """The configuration of a run.

        Raises:
            ConfigError: it cannot be used, or has a value of its own for a key that was given for all; the run is
                named.
        """
        own = {override.partition("=")[0] for override in run.overrides}
        for override in self.given:
            if override.partition("=")[0] in own:
                raise ConfigError(
                    f"{override}: {run.name} has a value of its own; change the file, or leave it out by --only"
                )
        try:
            return load_config(self.config, self.arguments(run))
        except ConfigError as error:
            raise ConfigError(f"{run.name}: {error}") from error

    def select(self, only: str | None) -> list[tuple[int, Run]]:
        """Runs with their numbers, those whose names fit one of some patterns.

        Args:
            only: patterns as a shell's, with commas between them; None: all.

        Raises:
            ConfigError: a pattern that fits no name.
        """
        names = [run.name for run in self.runs]
        patterns = ["*"] if only is None else only.split(",")
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise ConfigError(f"--only {pattern}: there is no such run{_nearest(pattern, names)}")
        chosen = [any(fnmatchcase(name, pattern) for pattern in patterns) for name in names]
        return [(number, run) for number, run in enumerate(self.runs) if chosen[number]]


def read_sweep(file: Path, overrides: Sequence[str] = ()) -> Sweep:
    """The runs that a file describes. Their own configurations are not looked at: `require_runs` does that.

    Args:
        file: YAML.
        overrides: `key=value` for all runs; `run.dir` and `run.name` say where the runs' folders are.

    Raises:
        ConfigError: what is wrong with the file, the configuration that it names, or an override.
    """
    given: Any = OmegaConf.to_container(read_yaml(file))
    try:
        _require_known(given, _KEYS)
        return _expand(file, given, overrides)
    except ConfigError as error:
        raise error if str(error).startswith(str(file)) else ConfigError(f"{file}: {error}") from error


def require_runs(sweep: Sweep, runs: Sequence[Run]) -> None:
    """See that the runs can be trained, as far as a configuration says it, and that no two of them are one.

    Raises:
        ConfigError: naming the run.
    """
    seen: dict[str, str] = {}
    for run in runs:
        config = sweep.load(run)
        _require_names(run, config)
        members = config.ensemble.members or run.ranks
        if run.ranks % members:
            raise ConfigError(f"{run.name}: ranks: {run.ranks} cannot be shared out evenly, ensemble.members={members}")
        content = repr((replace(config, run=replace(config.run, name="")), run.ranks))
        if content in seen:
            raise ConfigError(f"{run.name}: the same run as {seen[content]}, by another name")
        seen[content] = run.name


def _require_names(run: Run, config: Config) -> None:
    """Refuse methods, data sets and networks that there are not, those of the user's own counted."""
    try:
        require_methods(config)
        require_source(config.data.name)
        require_model(config.model.name)
    except ConfigError as error:
        raise ConfigError(f"{run.name}: {error}") from error


def _expand(file: Path, given: dict[str, Any], overrides: Sequence[str]) -> Sweep:
    """The file's content as runs."""
    config, name, ranks = Path(_text(given, "config")), _text(given, "name", file.stem), _ranks(given)
    common = _keys("common", given.get("common"))
    grid = _grid("grid", given.get("grid"))
    variants = _variants(given.get("variants"))
    if not grid and not variants:
        raise ConfigError("expected a grid or variants: nothing varies")
    runs = list(_runs(variants or {"": {}}, grid, ranks))
    for override in overrides:
        if override.startswith("checkpoint.resume="):
            raise ConfigError(f"{override}: {_OURS['checkpoint.resume']}")
    everyone = [as_override(key, value) for key, value in common.items()]
    base = load_config(config, [*everyone, *overrides])
    if any(override.startswith("run.name=") for override in overrides):
        name = base.run.name
    if not _NAME.fullmatch(name):
        raise ConfigError(f"name: {name}: expected a name of a folder, of letters, digits and _.+-")
    names = [run.name for run in runs]
    if twice := sorted({one for one in names if names.count(one) > 1}):
        raise ConfigError(f"two runs would have the name {twice[0]}; make them variants, which have names of their own")
    own = tuple(word for word in overrides if word.partition("=")[0] not in {"run.name", "run.dir"})
    return Sweep(config, (*everyone, *own), Path(base.run.dir) / name, tuple(runs), _varying(variants, grid, runs), own)


def _runs(variants: Mapping[str, dict[str, Any]], grid: Grid, ranks: int) -> Iterator[Run]:
    """All runs in order: variant by variant, the grid's last key fastest."""
    spent = 0
    for name, values in variants.items():
        own = {**values.get("grid", {})}
        own |= {key: grid[key] for key in grid if key not in own}  # the variant's keys stand first in names
        spent += math.prod(map(len, own.values()))
        if spent > MOST_RUNS:
            raise ConfigError(f"more than {MOST_RUNS} runs; make several files of it")
        keys = {key: value for key, value in values.items() if key not in {"grid", "ranks"}}
        for both in sorted(keys.keys() & own.keys()):
            raise ConfigError(f"variants: {name}: {both}: the grid gives this key its values")
        for point in product(*own.values()):
            values_here = dict(zip(own, point, strict=True))
            overrides = [as_override(key, value) for key, value in {**keys, **values_here}.items()]
            yield Run(_name_of(name, values_here), tuple(overrides), values.get("ranks", ranks))


def _name_of(variant: str, point: Values) -> str:
    """A folder's name from what varies; it stays the same when values are added to the grid."""
    last = [key.rpartition(".")[2] for key in point]
    parts = [variant] if variant else []
    for key, short, value in zip(point, last, point.values(), strict=True):
        title = short if last.count(short) == 1 else key
        text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
        parts.append(re.sub(r"[^A-Za-z0-9.+-]+", "_", f"{title}_{text}").strip("_"))
    name = "-".join(parts)
    if len(name) > _LONGEST_NAME:
        raise ConfigError(f"{name[:60]}...: too long for the name of a run's folder; make variants of it")
    return name


def _varying(variants: Mapping[str, dict[str, Any]], grid: Grid, runs: Sequence[Run]) -> tuple[str, ...]:
    """Keys of the configuration, and what the ranks come to in a run's summary where these differ."""
    keys = [key for values in variants.values() for key in (*values, *values.get("grid", {}))]
    keys += [*grid, *(_OF_RANKS if len({run.ranks for run in runs}) > 1 else ())]
    return tuple(dict.fromkeys(key for key in keys if key not in {"grid", "ranks"}))


def _variants(given: Any) -> dict[str, dict[str, Any]]:
    """Each variant's keys, its `ranks` and `grid` among them where it has some."""
    variants = {}
    for name, values in _mapping("variants", given).items():
        where = f"variants: {name}"
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ConfigError(f"{where}: expected a name of a folder, of letters, digits and _.+-")
        values = _mapping(where, values)
        own: dict[str, Any] = _keys(where, {key: values[key] for key in values if key not in {"ranks", "grid"}})
        if "ranks" in values:
            own["ranks"] = _ranks(values, f"{where}: ")
        if "grid" in values:
            own["grid"] = _grid(f"{where}: grid", values["grid"])
        variants[name] = own
    return variants


def _grid(where: str, given: Any) -> dict[str, list[Any]]:
    grid = _keys(where, given)
    for key, values in grid.items():
        if not isinstance(values, list) or not values:
            raise ConfigError(f"{where}: {key}: expected a list of values, as in [0, 1, 2]")
    return grid


def _keys(where: str, given: Any) -> dict[str, Any]:
    """Keys of a configuration as on the command line, with their values."""
    values = _mapping(where, given)
    for key in values:
        if not isinstance(key, str) or not re.fullmatch(r"[a-z_]+(\.[a-z0-9_]+)+", key):
            raise ConfigError(f"{where}: {key}: expected keys as on the command line, such as method.p")
        if key in _OURS or (key == "run.dir" and where != "common"):
            raise ConfigError(f"{where}: {key}: {_OURS.get(key, 'expected under common, one for all runs')}")
    return values


def _mapping(where: str, given: Any) -> dict[Any, Any]:
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise ConfigError(f"{where}: {given}: expected keys with values")
    return given


def _text(given: Values, key: str, default: str | None = None) -> str:
    value = given.get(key, default)
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{key}: {value}: expected {'a file, as in configs/' if key == 'config' else 'a name'}")
    return value


def _ranks(given: Values, where: str = "") -> int:
    ranks = given.get("ranks")
    if not isinstance(ranks, int) or isinstance(ranks, bool) or not 1 <= ranks <= 2**20:
        raise ConfigError(f"{where}ranks: {ranks}: expected with how many ranks each run is launched, as in ranks: 4")
    return ranks


def _require_known(given: Mapping[Any, Any], known: Sequence[str]) -> None:
    for key in given:
        if key not in known:
            raise ConfigError(f"{key}: there is no such key in a sweep{_nearest(str(key), known)}")


def _nearest(name: str, known: Sequence[str]) -> str:
    near = get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]}?" if near else f"; there are {', '.join(known[:20])}{', ...' * (len(known) > 20)}"
