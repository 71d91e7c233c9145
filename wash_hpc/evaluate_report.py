"""What `wash-hpc evaluate` prints: a table for people, one JSON object for programs. Judges nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from wash_hpc.ensemble.judged import Evaluation, JudgedSoup
from wash_hpc.ensemble.landscape import LayerDistance
from wash_hpc.ensemble.scores import Metric, Scores

_NAMES = {
    "member": ("member, mean", ""),
    "ensemble": ("ensemble", "mean of logits"),
    "ensemble_probabilities": ("ensemble", "mean of probabilities"),
    "soup": ("soup", "statistics recomputed on training images"),
    "soup_raw": ("soup, raw", "statistics averaged"),
}


@dataclass(frozen=True)
class JudgedRun:
    """What was found out about a finished run.

    Attributes:
        name: of its folder.
        split: whose images it was judged by.
        metric: what it is judged by first.
        evaluation: members, ensemble and uniform soups.
        greedy: the greedy soup, if it was asked for.
        distances: of the members to their mean, layer by layer.
    """

    name: str
    split: str
    metric: Metric
    evaluation: Evaluation
    greedy: JudgedSoup | None
    distances: Sequence[LayerDistance]

    @property
    def consensus_distance(self) -> float:
        """Root mean square distance of the members to their mean."""
        return math.hypot(*(layer.distance for layer in self.distances))

    def as_table(self) -> str:
        """One line for each that was judged; scores in percent, but for NLL (nats) and perplexity."""
        evaluation = self.evaluation
        rows = [
            (f"member {member}", scores, "left out: its weights are not finite" * (member in evaluation.left_out))
            for member, scores in enumerate(evaluation.members)
        ]
        rows += [(name, evaluation.scores[key], note) for key, (name, note) in _NAMES.items()]
        if self.greedy is not None:
            members = ", ".join(map(str, self.greedy.members))
            rows.append(("greedy soup", self.greedy.scores, f"of members {members}, statistics recomputed"))
        columns = _columns(self.metric)
        width = max(len(name) for name, _, _ in rows)
        images = "images" if self.metric == "accuracy" else "windows of text"
        lines = [f"{self.name}: {evaluation.num_images} {self.split} {images}"]
        lines.append(f"  {'':<{width}}" + "".join(f"{title:>{size}}" for title, size, _ in columns))
        for name, scores, note in rows:
            cells = "".join(f"{_or_dash(show, scores):>{size}}" for _, size, show in columns)
            lines.append(f"  {name:<{width}}{cells}   {note}".rstrip())
        if not math.isnan(evaluation.disagreement):
            lines.append(f"  pairs of members disagree on {evaluation.disagreement:.2%} of predictions")
        lines.append(f"  consensus distance {self.consensus_distance:.4g}")
        return "\n".join(lines)

    def as_json(self) -> str:
        """Everything; null for what is not a number."""
        evaluation = self.evaluation
        scores = dict(evaluation.scores) | ({"greedy_soup": self.greedy.scores} if self.greedy else {})
        found: dict[str, Any] = {
            "name": self.name,
            "split": self.split,
            "num_images": evaluation.num_images,
            "metric": self.metric,
            "member_accuracy": [_number(accuracy) for accuracy in evaluation.member_accuracy],
            "ensemble_accuracy": _number(evaluation.ensemble_accuracy),
            "soup_accuracy": _number(evaluation.soup_accuracy),
            "soup_accuracy_raw": _number(evaluation.soup_accuracy_raw),
            "members": [_object(scores) for scores in evaluation.members],
            "scores": {judged: _object(one) for judged, one in scores.items()},
            "disagreement": _number(evaluation.disagreement),
            "left_out_members": evaluation.left_out,
            "consensus_distance": self.consensus_distance,
            "consensus_distance_per_layer": {layer.name: layer.distance for layer in self.distances},
        }
        if self.greedy is not None:
            found["greedy_soup_members"] = self.greedy.members
        return json.dumps(found, allow_nan=False)


def _columns(metric: Metric) -> list[tuple[str, int, Callable[[Scores], str]]]:
    """Title, width and text of each column."""
    columns: list[tuple[str, int, Callable[[Scores], str]]] = [
        ("accuracy", 10, lambda scores: f"{scores.accuracy:.2%}"),
        ("top-5", 9, lambda scores: f"{scores.top5:.2%}"),
        ("NLL", 9, lambda scores: f"{scores.nll:.4f}"),
        ("calibration error", 19, lambda scores: f"{scores.calibration_error:.2%}"),
    ]
    if metric == "perplexity":
        columns.insert(0, ("perplexity", 12, lambda scores: f"{scores.perplexity:.2f}"))
    return columns


def _or_dash(show: Callable[[Scores], str], scores: Scores) -> str:
    return "-" if math.isnan(scores.accuracy) else show(scores)


def _object(scores: Scores) -> dict[str, float | None] | None:
    """The JSON object of scores; None of a member that was left out."""
    if math.isnan(scores.accuracy):
        return None
    return {name: _number(value) for name, value in asdict(scores).items()}


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
