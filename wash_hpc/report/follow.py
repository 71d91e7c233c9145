"""A live view of runs: one screen for one run, a line each for several, plain lines outside of a terminal.

Owns when the view ends and what a line says. It reads files alone, so it can run on any machine that sees the folders.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from wash_hpc.durations import format_seconds
from wash_hpc.errors import printable
from wash_hpc.report.columns import format_bytes, format_percent
from wash_hpc.report.live import evaluation_words, screen
from wash_hpc.report.watch import Look, RunWatch, how_to_go_on
from wash_hpc.storage.metrics import Metrics

_QUIET_SECONDS = 30.0  # after which a line says how long nothing has been written
_BETWEEN_LINES = 10.0  # seconds, of one run, in a log


def follow(folders: Sequence[Path], console: Console, interval: float = 1.0) -> bool:
    """Show the runs until each has ended; one that has not begun is waited for.

    In a terminal the view stays in place; elsewhere a run's line is printed when it has changed, ten seconds apart, but
    for evaluations, alarms and the end, which are said at once.

    Args:
        folders: the runs' folders.
        console: where to show them.
        interval: seconds between two looks.

    Returns:
        Whether all have finished; of one that was stopped or killed before it is said where, and how to go on.

    Raises:
        RunFolderError: a folder is no run's.
        MissingDependencyError: h5py is not installed.
    """
    watches = [RunWatch(folder) for folder in folders]
    if console.is_terminal and not console.is_dumb_terminal:
        with Live(console=console, auto_refresh=False, transient=True) as live:
            looks = _show_until_the_end(
                watches, lambda looks: live.update(_view(looks, console), refresh=True), interval
            )
    else:
        printers = [_Printer(console) for _ in watches]
        looks = _show_until_the_end(watches, lambda looks: _print_due(printers, looks), interval)
    early = [look for look in looks if look.state != "finished"]
    for look in early:
        _print(console, f"{look.folder}: {ending(look)}; {how_to_go_on(look.folder, look.metrics)}")
    return not early


def status_line(look: Look) -> str:
    """How far a run is, in one line."""
    if look.state == "waiting":
        return f"waiting for {look.folder} to begin"
    parts = _progress(look.metrics, look) if look.metrics is not None else []
    parts = parts or (["no records yet"] if look.metrics is not None else ["waiting for the first metrics"])
    if look.has_ended:
        parts.append("finished" if look.state == "finished" else ending(look))
    elif look.quiet_seconds > _QUIET_SECONDS:
        parts.append(f"nothing written for {format_seconds(look.quiet_seconds)}")
    return ", ".join(parts) + (f"; {look.problem}" if look.problem else "")


def ending(look: Look) -> str:
    """How and where a run has ended before its end."""
    return f"{'was killed' if look.state == 'killed' else 'has stopped'} after {look.progress}"


class _Printer:
    """Prints one run's lines into a log."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._shown = ""
        self._urgent: tuple[object, ...] = ()
        self._said: set[tuple[str, str]] = set()
        self._said_at = -_BETWEEN_LINES

    def show(self, look: Look) -> None:
        """Print the run's line where it is due, and each kind of alarm once, of members one for each that it names."""
        line = status_line(look)
        evaluations = () if look.metrics is None else tuple(look.metrics.evaluate_step[-1:].tolist())
        urgent, now = (look.state, evaluations), time.monotonic()
        if line != self._shown and (urgent != self._urgent or now - self._said_at >= _BETWEEN_LINES):
            _print(self._console, f"{look.folder}: {line}" if look.state != "waiting" else line)
            self._shown, self._urgent, self._said_at = line, urgent, now
        for alarm in look.alarms:
            said = (alarm.kind, alarm.what if alarm.kind == "member" else "")  # other sentences hold changing numbers
            if said not in self._said:
                self._said.add(said)
                _print(self._console, f"{look.folder}: alarm: {alarm}")


def _show_until_the_end(
    watches: Sequence[RunWatch], show: Callable[[Sequence[Look]], None], interval: float
) -> list[Look]:
    """Look and show until all runs have ended; the last looks."""
    looks = [watch.look() for watch in watches]
    show(looks)
    while not all(look.has_ended for look in looks):
        time.sleep(interval)
        looks = [look if look.has_ended else watch.look() for watch, look in zip(watches, looks, strict=True)]
        show(looks)
    return looks


def _print_due(printers: Sequence[_Printer], looks: Sequence[Look]) -> None:
    for printer, look in zip(printers, looks, strict=True):
        printer.show(look)


def _view(looks: Sequence[Look], console: Console) -> RenderableType:
    if len(looks) == 1 and looks[0].metrics is not None:
        return screen(looks[0], status_line(looks[0]), console)
    table = Table.grid(padding=(0, 2))
    for look in looks:
        table.add_row(Text(printable(look.folder.name), style="bold"), Text(printable(status_line(look))))
        for alarm in look.alarms:
            table.add_row("", Text(printable(str(alarm)), style="yellow"))
    return table


def _progress(metrics: Metrics, look: Look) -> list[str]:
    parts = []
    if len(metrics.step):
        parts = [
            look.progress,
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
        found = evaluation_words(metrics, look.is_text)
        parts.append(f"soup {found['soup']}, ensemble {found['ensemble']}")
    return parts


def _print(console: Console, text: str) -> None:
    console.print(Text(printable(text)), soft_wrap=True)
