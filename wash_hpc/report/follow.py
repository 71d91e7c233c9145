"""A live view of runs that are still going: one line a run, from their metrics files alone.

Owns when the view ends and what a line says. Changes nothing and talks to no process: it can run on any machine that
sees the folders.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from wash_hpc.errors import MissingDependencyError, WashError, printable
from wash_hpc.report.table import format_bytes, format_percent, format_seconds
from wash_hpc.storage.metrics import Metrics, metrics_files, read_metrics

_QUIET_SECONDS = 30.0  # after which a line says how long nothing has been written


def follow(folders: Sequence[Path], console: Console, interval: float = 1.0) -> None:
    """Show the runs until each has a summary.

    In a terminal the lines stay in place; elsewhere a run's line is printed when it has changed.

    Args:
        folders: the runs' folders.
        console: where to show them.
        interval: seconds between two looks.

    Raises:
        MissingDependencyError: h5py is not installed.
    """
    shown: dict[Path, str] = {}
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while True:
            finished = all((folder / "summary.json").is_file() for folder in folders)  # before the last look
            lines = {folder: status_line(folder) for folder in folders}
            if console.is_terminal:
                live.update(_lines_table(lines), refresh=True)
            else:
                for folder in folders:
                    if lines[folder] != shown.get(folder):
                        console.print(Text(printable(f"{folder}: {lines[folder]}")), soft_wrap=True)
                shown = lines
            if finished:
                return
            time.sleep(interval)


def status_line(folder: Path) -> str:
    """How far a run is, in one line.

    Raises:
        MissingDependencyError: h5py is not installed.
    """
    if (folder / "summary.json").is_file():
        state = "finished"
    elif not metrics_files(folder):
        return "waiting for the first metrics"
    else:
        state = _quiet(folder)
    try:
        return ", ".join(part for part in (*_progress(read_metrics(folder)), state) if part)
    except MissingDependencyError:
        raise
    except WashError as error:
        return f"{state}; {error}" if state else str(error)


def _progress(metrics: Metrics) -> list[str]:
    parts = []
    if len(metrics.step):
        parts = [
            f"step {metrics.step[-1]}",
            f"epoch {metrics.epoch[-1]:.2f}",
            f"loss {metrics.loss[-1].mean():.4g}",
            f"accuracy {format_percent(float(metrics.accuracy[-1].mean()))} %",
            f"{metrics.images_per_second[-1].mean():.0f} images/s a member",
            f"{format_bytes(float(metrics.bytes_sent[-1].mean()))} sent",
        ]
    computed = metrics.consensus_distance[np.isfinite(metrics.consensus_distance)]
    if len(computed):
        parts.append(f"distance {computed[-1]:.4g}")
    if len(metrics.evaluate_step):
        soup, ensemble = float(metrics.soup_accuracy[-1]), float(metrics.ensemble_accuracy[-1])
        parts.append(f"soup {format_percent(soup)} %, ensemble {format_percent(ensemble)} %")
    return parts or ["no records yet"]


def _quiet(folder: Path) -> str:
    """For how long nothing was written, where that is long: the run may have died."""
    seconds = time.time() - metrics_files(folder)[-1].stat().st_mtime
    return f"nothing written for {format_seconds(seconds)}" if seconds > _QUIET_SECONDS else ""


def _lines_table(lines: dict[Path, str]) -> Table:
    table = Table.grid(padding=(0, 2))
    for folder, line in lines.items():
        table.add_row(Text(printable(folder.name), style="bold"), Text(line))
    return table
