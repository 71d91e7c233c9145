"""Finished runs as the reports take them: summary, configuration and, where wanted, metrics.

Owns what is said of a folder that holds no finished run.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from wash_hpc.config_text import plain_sections
from wash_hpc.errors import ConfigError, MissingDependencyError, RunFolderError, WashError
from wash_hpc.report.watch import describe_unfinished
from wash_hpc.storage.metrics import Metrics, read_metrics
from wash_hpc.storage.summary import Summary, read_summary

NUM_LAYERED = 4
"""Runs, the first ones, whose distances are kept by layer."""

_NO_OTHER_METHOD = re.compile(r"^  then: \[\]$", re.MULTILINE)  # as runs write it; reading YAML takes milliseconds


@dataclass(frozen=True)
class Run:
    """One finished run.

    Attributes:
        folder: where it is.
        label: its name, or its folder where another run shown beside it has the same name.
        summary: its `summary.json`.
        config: the text of its `config.yaml`.
        metrics: None where they were not asked for or are unreadable.
    """

    folder: Path
    label: str
    summary: Summary
    config: str
    metrics: Metrics | None = None

    @cached_property
    def sections(self) -> Mapping[str, Any]:
        """Its configuration as plain values; empty where it is unreadable."""
        try:
            return plain_sections(self.config, str(self.folder / "config.yaml"))
        except ConfigError:
            return {}

    @property
    def methods(self) -> str:
        """All its methods: `wash`, or `wash + papa` where `method.then` names another one."""
        if _NO_OTHER_METHOD.search(self.config) or "then:" not in self.config:
            return self.summary.method
        section = self.sections.get("method")
        then = section.get("then") if isinstance(section, Mapping) else None
        others = [str(one.get("name")) for one in then if isinstance(one, Mapping)] if isinstance(then, list) else []
        return " + ".join([self.summary.method, *others])

    @property
    def shown(self) -> Summary:
        """The summary as tables show it: under its label, with all its methods."""
        return replace(self.summary, name=self.label, method=self.methods)


def run_folders(paths: Sequence[Path]) -> list[Path]:
    """The runs among what a shell's `runs/*` stands for, each once, as it was named first.

    Of a folder that is no run and holds some, such as `runs` or a sweep's, those are taken; files that lie beside
    folders, such as reports, are passed over. What is neither stays, so that it can be named.
    """
    folders = [path for path in paths if not path.is_file()] or paths
    runs: dict[str, Path] = {}
    for folder in folders:
        for run in _runs_below(folder) or [folder]:
            runs.setdefault(os.path.realpath(run), run)  # as links may go in a circle
    return list(runs.values())


def _runs_below(folder: Path, depth: int = 2) -> list[Path]:
    """The runs in a folder that is none itself, also in folders of it that are none."""
    if not folder.is_dir() or (folder / "config.yaml").is_file():
        return []
    try:
        folders = sorted(path for path in folder.iterdir() if path.is_dir())
    except OSError:  # not ours to look into: it will be named as no run
        return []
    runs = []
    for below in folders:
        runs += [below] if (below / "config.yaml").is_file() else _runs_below(below, depth - 1) if depth > 1 else []
    return runs


def read_runs(folders: Sequence[Path]) -> tuple[list[Run], list[str]]:
    """The finished runs among some folders, without metrics, and a sentence for each of the others."""
    runs, problems = [], []
    for folder in folders:
        try:
            if unfinished := describe_unfinished(folder):
                problems.append(unfinished)
                continue
            summary = read_summary(folder)
            runs.append(Run(folder, summary.name, summary, _read_text(folder / "config.yaml")))
        except RunFolderError as error:
            problems.append(str(error))
    names = Counter(run.label for run in runs)
    return [replace(run, label=str(run.folder)) if names[run.label] > 1 else run for run in runs], problems


def with_metrics(runs: Sequence[Run], last: int | None = None) -> tuple[list[Run], list[str]]:
    """The same runs with their metrics, and a sentence for each whose metrics cannot be read.

    Distances by layer are kept for the first four that have any.

    Args:
        runs: finished ones.
        last: so many records of each at most; None: all.

    Raises:
        MissingDependencyError: h5py is not installed.
    """
    complete, problems = [], []
    num_layered = 0
    for run in runs:
        try:
            metrics = read_metrics(run.folder, last)
            if num_layered == NUM_LAYERED:  # by layer, hundreds of runs would not fit into memory
                none = metrics.consensus_distance_per_layer[:0].copy()
                metrics = replace(metrics, consensus_distance_per_layer=none)
            num_layered += has_distances_by_layer(metrics)
            complete.append(replace(run, metrics=metrics))
        except MissingDependencyError:
            raise
        except WashError as error:
            complete.append(run)
            problems.append(str(error))
    return complete, problems


def has_distances_by_layer(metrics: Metrics) -> bool:
    """Whether there is something to show of each layer, or was, where it has been dropped."""
    has_layers = metrics.consensus_distance_per_layer.shape[1] > 0
    return metrics.num_members > 1 and has_layers and bool(np.isfinite(metrics.consensus_distance).any())


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RunFolderError(f"{file}: cannot be read: {error}") from error
