"""Finished runs as the reports take them: summary, configuration and, where wanted, metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from wash_hpc.errors import MissingDependencyError, RunFolderError, WashError
from wash_hpc.storage.metrics import Metrics, read_metrics
from wash_hpc.storage.summary import Summary, read_summary


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


def read_runs(folders: Sequence[Path]) -> tuple[list[Run], list[str]]:
    """The finished runs among some folders, without metrics, and a sentence for each of the others."""
    runs, problems = [], []
    for folder in folders:
        try:
            summary = read_summary(folder)
            runs.append(Run(folder, summary.name, summary, _read_text(folder / "config.yaml")))
        except RunFolderError as error:
            problems.append(str(error))
    names = Counter(run.label for run in runs)
    return [replace(run, label=str(run.folder)) if names[run.label] > 1 else run for run in runs], problems


def with_metrics(runs: Sequence[Run]) -> tuple[list[Run], list[str]]:
    """The same runs with their metrics, and a sentence for each whose metrics cannot be read.

    Raises:
        MissingDependencyError: h5py is not installed.
    """
    complete, problems = [], []
    for run in runs:
        try:
            complete.append(replace(run, metrics=read_metrics(run.folder)))
        except MissingDependencyError:
            raise
        except WashError as error:
            complete.append(run)
            problems.append(str(error))
    return complete, problems


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RunFolderError(f"{file}: cannot be read: {error}") from error
