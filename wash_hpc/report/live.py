"""The one screen that `--follow` shows of one run: what is on it, and what goes first where the terminal is small."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from rich.console import Console, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from wash_hpc.durations import format_seconds
from wash_hpc.ensemble.scores import perplexity
from wash_hpc.errors import printable
from wash_hpc.rates import PARTS
from wash_hpc.report.alarms import step_shares
from wash_hpc.report.columns import format_bytes, format_percent
from wash_hpc.report.watch import Look
from wash_hpc.storage.metrics import Metrics

_MOST_MEMBERS = 8  # that have a line each
_BARS, _PLAIN_BARS = "▁▂▃▄▅▆▇█", "_.-=+*%#"
_SPARK_WIDTH = 40
_NUM_RECENT = 20  # records by which the time that is left is told


def screen(look: Look, line: str, console: Console) -> RenderableType:
    """A run's state, fitted to the terminal's height.

    Args:
        look: with records.
        line: the run in one line, shown where there are no records yet.
        console: the terminal.
    """
    metrics = look.metrics
    if metrics is None or not len(metrics.step):
        return Text(printable(f"{look.folder}: {line}"))
    blocks: list[tuple[int, RenderableType]] = [
        (9, _title(look, line)),
        (8, _bar(look)),
        (7, Text(_times(metrics, look.num_steps))),
        (3, _members(metrics, look.is_text)),
        (5, _numbers(metrics, console)),
        (6, Text(_evaluation(metrics, look.is_text))),
    ]
    if look.alarms:
        blocks.append((4, Text("\n".join(printable(f"! {alarm}") for alarm in look.alarms), style="bold yellow")))
    return Group(*_fitting(blocks, console))


def evaluation_words(metrics: Metrics, is_text: bool) -> dict[str, str]:
    """The last evaluation: the members' mean, the best, ensemble and soup, in percent or as perplexities."""
    judged = metrics.member_nll[-1] if is_text else metrics.member_accuracy[-1]
    finite = judged[np.isfinite(judged)]
    mean = float(finite.mean()) if len(finite) else np.nan
    best = float((finite.min if is_text else finite.max)()) if len(finite) else np.nan
    kind = "nll" if is_text else "accuracy"
    values = {"members": mean, "best": best}
    values |= {name: float(getattr(metrics, f"{name}_{kind}")[-1]) for name in ("ensemble", "soup")}
    if is_text:
        return {name: f"perplexity {perplexity(value):.2f}" for name, value in values.items()}
    return {name: f"{format_percent(value)} %" for name, value in values.items()}


def sparkline(values: Sequence[float] | NDArray[np.float64], width: int, is_ascii: bool = False) -> str:
    """A curve in one line of text, from the least of its values to the largest; thinned evenly to a width."""
    finite = np.asarray([value for value in values if np.isfinite(value)])
    if not len(finite):
        return ""
    shown = finite[np.linspace(0, len(finite) - 1, min(width, len(finite))).round().astype(int)]
    bars = _PLAIN_BARS if is_ascii else _BARS
    low, high = shown.min(), shown.max()
    scale = (len(bars) - 1) / (high - low) if high > low else 0.0
    return "".join(bars[round((value - low) * scale)] for value in shown)


def _fitting(blocks: Sequence[tuple[int, RenderableType]], console: Console) -> list[RenderableType]:
    """The blocks that the terminal has room for; those of the lowest number go first."""
    sized = [(keep, block, len(console.render_lines(block, pad=False))) for keep, block in blocks]
    while sum(size for _, _, size in sized) > console.height - 1 and len(sized) > 1:
        sized.remove(min(sized, key=lambda one: one[0]))
    return [block for _, block, _ in sized]


def _title(look: Look, line: str) -> Text:
    state = f", {line.rsplit(', ', 1)[-1]}" if look.has_ended or "nothing written" in line else ""
    return Text(
        printable(f"{look.folder}{state}{'; ' + look.problem if look.problem else ''}"),
        "bold",
        no_wrap=True,
        overflow="ellipsis",
    )


def _bar(look: Look) -> RenderableType:
    if look.num_steps is None:
        return Text(look.progress)
    row = Table.grid(padding=(0, 2), expand=True)
    row.add_column(no_wrap=True)
    row.add_column(ratio=1)
    epoch = 0.0 if look.metrics is None else float(look.metrics.epoch[-1])
    words = f"step {look.step}/{look.num_steps}  {look.step / look.num_steps:.0%}  epoch {epoch:.2f}"
    row.add_row(words, ProgressBar(total=look.num_steps, completed=look.step))
    return row


def _times(metrics: Metrics, num_steps: int | None) -> str:
    """How long the steps took so far and will take, by the seconds in the records; evaluations are not in it."""
    per_step = _seconds_per_step(metrics)
    recent = per_step[-_NUM_RECENT:]
    if not len(recent):
        return ""
    words = f"trained for about {format_seconds(float(per_step.mean()) * int(metrics.step[-1]))}"
    if num_steps is not None:
        left = float(recent.mean()) * max(0, num_steps - int(metrics.step[-1]))
        words += f", about {format_seconds(left)} left without evaluations"
    return f"{words}; {float(metrics.images_per_second[-1].mean()):.0f} images/s a member"


def _seconds_per_step(metrics: Metrics) -> NDArray[np.float64]:
    parts = [getattr(metrics, f"{part}_seconds") for part in PARTS]
    total = np.asarray(np.nansum(parts, axis=0).max(axis=1), dtype=np.float64)  # of the slowest member
    return total[np.isfinite(total)]


def _members(metrics: Metrics, is_text: bool) -> Table:
    """Loss and accuracy, and the last evaluation, one line a member, or of many the least, the median and the most."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    judged = ("perplexity" if is_text else "accuracy %") if len(metrics.evaluate_step) else ""
    for title in ("member", "loss", "accuracy %", f"test {judged}" if judged else ""):
        table.add_column(title, justify="right")
    values = [metrics.loss[-1], 100 * metrics.accuracy[-1]]
    if judged:
        test = np.exp(metrics.member_nll[-1]) if is_text else 100 * metrics.member_accuracy[-1]
        values.append(test)
    if metrics.num_members <= _MOST_MEMBERS:
        rows = [(str(member), [value[member] for value in values]) for member in range(metrics.num_members)]
    else:
        quantiles = {"least": 0.0, "median": 0.5, "most": 1.0}
        rows = [(name, [_quantile(value, share) for value in values]) for name, share in quantiles.items()]
    for name, row in rows:
        forms = (".4f", ".2f", ".2f")
        table.add_row(name, *(f"{value:{form}}" for value, form in zip(row, forms, strict=False)))
    return table


def _quantile(values: NDArray[np.float64], share: float) -> float:
    finite = values[np.isfinite(values)]
    return float(np.quantile(finite, share)) if len(finite) else np.nan


def _numbers(metrics: Metrics, console: Console) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_row("learning rate", f"{metrics.lr[-1]:.4g}")
    distances = metrics.consensus_distance[np.isfinite(metrics.consensus_distance)]
    if len(distances):
        width = min(_SPARK_WIDTH, max(8, console.width - 32))
        curve = sparkline(distances, width, console.options.ascii_only)
        table.add_row("distance", f"{distances[-1]:.4g}  {curve}")
    table.add_row("sent", f"{format_bytes(float(metrics.bytes_sent[-1].mean()))} by a member")
    shares = step_shares(metrics)
    if shares is not None:
        table.add_row("of a step", ", ".join(f"{part} {value:.1%}" for part, value in shares.items()))
    return table


def _evaluation(metrics: Metrics, is_text: bool) -> str:
    if not len(metrics.evaluate_step):
        return "no evaluation yet"
    found = evaluation_words(metrics, is_text)
    return f"evaluated at step {metrics.evaluate_step[-1]}: " + ", ".join(
        f"{name} {is_}" for name, is_ in found.items()
    )
