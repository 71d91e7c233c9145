"""What `tools/landscape.py` has found in several runs and steps, a row each: did averaging fail, and what could tell?

Reads `RUN/landscape/landscape.json` and those of checkpoints beside it; computes no loss.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wash_hpc.ensemble.condition import Case, rise_from_minima, rise_in_one_quadratic
from wash_hpc.errors import RunFolderError
from wash_hpc.report.barriers import read_landscape
from wash_hpc.report.runs import run_folders

PREDICTORS = {
    "distance": "consensus distance d",
    "relative_distance": "d / norm of the soup",
    "estimate_members": "curvature at members x d^2/2",
    "estimate_middle": "minus curvature in the middle x d^2/2",
    "estimate_members_recomputed": "curvature at members x d^2/2, by differences",
    "estimate_middle_recomputed": "minus curvature in the middle x d^2/2, by differences",
    "barrier": "highest barrier between members",
}
"""What may tell when averaging fails, by the attribute of a row."""

_PARTS = {"averaging": "averaging", "lines": "lines", "curvature": "curvature", "layers": "distance"}  # key: --parts
_AGAIN = f"run tools/landscape.py again, with at least --parts {','.join(_PARTS.values())}"


@dataclass(frozen=True)
class Row:
    """One look at a run's members; what is not a number in the file is NaN.

    Attributes:
        run: its folder's name, or the folder where several have that name.
        step: updates done.
        seed: the run's.
        method: by which it was trained.
        distance: root mean square distance of the members to the soup.
        relative_distance: over the norm of the soup's parameters.
        curvature_members: second derivative along the lines between members, at both ends, mean: by Hessian products,
            statistics held.
        curvature_middle: likewise in the middle.
        difference_members: the second difference there, statistics recomputed.
        difference_middle: likewise in the middle.
        barrier: of the loss, the highest between two members, statistics recomputed.
        ensemble_rise: the soup's loss less the ensemble's.
        member_rise: the soup's loss less that of the mean member.
        gap: by how many points of accuracy the soup is below the ensemble.
        images: how many, and whose, loss and accuracy are of.
    """

    run: str
    step: int
    seed: int
    method: str
    distance: float
    relative_distance: float
    curvature_members: float
    curvature_middle: float
    difference_members: float
    difference_middle: float
    barrier: float
    ensemble_rise: float
    member_rise: float
    gap: float
    images: str

    @property
    def name(self) -> str:
        """`RUN@STEP`."""
        return f"{self.run}@{self.step}"

    @property
    def estimate_members(self) -> float:
        """The soup's rise above members at minima, by `rise_from_minima`."""
        return rise_from_minima(self.curvature_members, self.distance)

    @property
    def estimate_middle(self) -> float:
        """The soup's rise above the mean member, by `rise_in_one_quadratic`."""
        return rise_in_one_quadratic(self.curvature_middle, self.distance)

    @property
    def estimate_members_recomputed(self) -> float:
        """As `estimate_members`, of the second difference."""
        return rise_from_minima(self.difference_members, self.distance)

    @property
    def estimate_middle_recomputed(self) -> float:
        """As `estimate_middle`, of the second difference."""
        return rise_in_one_quadratic(self.difference_middle, self.distance)

    def failed(self, points: float) -> bool:
        """Whether averaging did: the soup is over so many points of accuracy under the ensemble."""
        return self.gap > points

    def case(self, points: float) -> Case:
        """What conditions are fitted on and judged by."""
        return Case(self.name, self.failed(points), {name: getattr(self, name) for name in PREDICTORS})


def read_rows(paths: Sequence[Path], steps: Collection[int] | None) -> tuple[list[Row], list[str]]:
    """All looks at some runs, in the order of runs, then of steps; and a sentence for each that cannot be shown.

    Args:
        paths: runs, or folders that hold some.
        steps: which looks; None: all.
    """
    folders = run_folders(paths)
    names = Counter(folder.name for folder in folders)
    rows: list[Row] = []
    problems = []
    for folder in folders:
        of_run: dict[int, Row] = {}
        name = folder.name if names[folder.name] == 1 else str(folder)
        files = _files(folder)
        if not files:
            problems.append(f"{folder}: holds no landscape/landscape.json, nor of a step: run tools/landscape.py")
        unreadable = 0
        for file in files:
            try:
                row = _read_row(name, file)
                of_run[row.step] = row
            except RunFolderError as error:
                problems.append(str(error))
                unreadable += 1
        missing = sorted(set(steps or ()) - of_run.keys())
        if files and missing and not unreadable:
            there = ", ".join(map(str, sorted(of_run)))
            problems.append(f"{folder}: no look at step {', '.join(map(str, missing))}; there are {there}")
        rows += [row for step, row in sorted(of_run.items()) if steps is None or step in steps]
    return rows, problems


def _files(folder: Path) -> list[Path]:
    """Of checkpoints first: a look at the final weights takes the place of one at the last checkpoint."""
    final = folder / "landscape" / "landscape.json"
    return [*sorted(folder.glob("landscape/step-*/landscape.json")), *([final] if final.is_file() else [])]


def _read_row(name: str, file: Path) -> Row:
    """The row of a landscape file.

    Raises:
        RunFolderError: it is unreadable, of an earlier version, or lacks parts.
    """
    content = read_landscape(file)
    lacking = [part for key, part in _PARTS.items() if content.get(key) is None]
    lacking += [key for key in ("seed", "step", "soup_norm") if key not in content]
    if lacking:
        raise RunFolderError(f"{file}: has no {', '.join(lacking)}: {_AGAIN}")
    try:
        return _row(name, content)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, ZeroDivisionError, OverflowError) as error:
        raise RunFolderError(f"{file}: is not as tools/landscape.py writes it: {_AGAIN}") from error


def _row(name: str, content: dict[str, Any]) -> Row:
    distance = math.sqrt(math.fsum(_number(layer["distance"]) ** 2 for layer in content["layers"]))
    curvatures = [line for line in content["curvature"] if line["end"] != "soup"]
    ends, middle = ([0, 2], [1])
    averaging = content["averaging"]
    ensemble, soup = averaging["ensemble"], averaging["soup"]
    member_loss = _mean([_number(member["loss"]) for member in averaging["members"]])
    barriers = [line["recomputed"]["loss_barrier"] for line in content["lines"] if line["end"] != "soup"]
    norm = _number(content["soup_norm"])
    return Row(
        run=name,
        step=int(content["step"]),
        seed=int(content["seed"]),
        method=str(content["method"]),
        distance=distance,
        relative_distance=distance / norm if norm > 0 else math.nan,
        curvature_members=_mean_at(curvatures, "second_derivative", ends),
        curvature_middle=_mean_at(curvatures, "second_derivative", middle),
        difference_members=_mean_at(curvatures, "second_difference", ends),
        difference_middle=_mean_at(curvatures, "second_difference", middle),
        barrier=_highest([_number(value) for value in barriers]),
        ensemble_rise=_number(soup["loss"]) - _number(ensemble["loss"]),
        member_rise=_number(soup["loss"]) - member_loss,
        gap=round(100 * (_number(ensemble["accuracy"]) - _number(soup["accuracy"])), 6),
        images=f"{int(content['num_images'])} {content['split']} images",
    )


def _mean_at(lines: Sequence[dict[str, Any]], key: str, places: Sequence[int]) -> float:
    return _mean([_number(line[key][place]) for line in lines for place in places])


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


def _highest(values: Sequence[float]) -> float:
    return math.nan if not values or any(map(math.isnan, values)) else max(values)


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
