"""The figures of what lies between members, from what `tools/landscape.py` left in a run's folder. Draws nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wash_hpc.errors import RunFolderError
from wash_hpc.report.figure import COLOURS, Axis, Curve, Figure, Key, Series, rounded
from wash_hpc.report.runs import Run

_BETWEEN = Key("line-members", "between members", COLOURS[0])
_TO_SOUP = Key("line-soup", "member to soup", COLOURS[1])
_RECOMPUTED = Key("statistics-recomputed", "statistics recomputed", "", "solid")
_RAW = Key("statistics-raw", "statistics interpolated", "", "dot")
_MOST_RUNS = 6
_MOST_BYTES = 2**26


def barrier_figures(runs: Sequence[Run]) -> tuple[list[Figure], list[str]]:
    """A figure for each of the first runs that have landscape data, and a sentence for each unreadable file."""
    figures: list[Figure] = []
    problems = []
    for run in runs:
        file = run.folder / "landscape" / "landscape.json"
        if len(figures) == _MOST_RUNS or not file.is_file():
            continue
        try:
            figure = _figure(f"barriers-{len(figures)}", run.label, read_landscape(file))
        except RunFolderError as error:
            problems.append(str(error))
            continue
        figures += [figure] if figure is not None else []
    return figures, problems


def read_landscape(file: Path) -> dict[str, Any]:
    """The object in a landscape file.

    Raises:
        RunFolderError: it is unreadable, not JSON, or larger than any that was written by the tool.
    """
    try:
        if file.stat().st_size > _MOST_BYTES:
            raise ValueError(f"larger than {_MOST_BYTES} bytes")
        content = json.loads(file.read_text(encoding="utf-8"))
        json.dumps(content, ensure_ascii=False).encode()
        if not isinstance(content, dict):
            raise TypeError("expected one JSON object")
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise RunFolderError(
            f"{file}: not readable as landscape data: {error}: run tools/landscape.py again"
        ) from error
    return content


def _figure(key: str, label: str, content: dict[str, Any]) -> Figure | None:
    """Loss along the lines; None where no lines were asked for."""
    lines = content.get("lines")
    if not lines:
        return None
    try:
        both = content["num_statistics_images"] > 0
        kinds = (("recomputed", _RECOMPUTED), ("raw", _RAW)) if both else (("recomputed", _RECOMPUTED),)
        series = [
            Series(who, curves, what if both else None)
            for who in (_BETWEEN, _TO_SOUP)
            for kind, what in kinds
            if (curves := [_curve(line, kind) for line in lines if (line["end"] == "soup") == (who is _TO_SOUP)])
        ]
        about = _about(lines, content)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        message = f"{label}: its landscape/landscape.json is not as tools/landscape.py writes it: run that again"
        raise RunFolderError(message) from error
    values = [value for one in series for curve in one.curves for value in curve.y if value is not None]
    log = bool(values) and min(values) > 0 and max(values) > 10 * min(values)
    x = Axis("place on the line")
    return Figure(key, f"Loss between members: {label}", about, x, Axis("loss", log=log), series)


def _curve(line: dict[str, Any], kind: str) -> Curve:
    places, losses = rounded(line["at"]), rounded(line[kind]["loss"])
    if len(places) != len(losses):
        raise ValueError("as many losses as places")
    return Curve(f"{line['start']} to {line['end']}", places, losses)


def _about(lines: Sequence[dict[str, Any]], content: dict[str, Any]) -> str:
    words = ["From a member (0) to another or to their soup (1)."]
    words += [f"On {int(content['num_images'])} {content['split']} images."]
    for key, to_soup in ((_BETWEEN, False), (_TO_SOUP, True)):
        barriers = [line["recomputed"] for line in lines if (line["end"] == "soup") == to_soup]
        losses = [value for one in barriers if (value := one["loss_barrier"]) is not None]
        errors = [value for one in barriers if (value := one["error_barrier"]) is not None]
        if losses and errors:
            words.append(
                f"Highest barrier {key.label}: {max(losses):.3g} in loss, {100 * max(errors):.2f} points of error."
            )
    return " ".join(words)
