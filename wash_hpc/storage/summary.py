"""`summary.json`: what a finished run came to. Its existence means that the run finished.

Owns the keys, their types and the reading and writing of the file. Does not compute anything in it.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NoReturn

from wash_hpc.errors import RunFolderError
from wash_hpc.storage.files import write_atomically


@dataclass(frozen=True)
class Summary:
    """A finished run; the fields are the keys of `summary.json`. None stands for what could not be said: not a number.

    Attributes:
        name: `run.name`.
        method: `method.name`.
        num_members: M, that were trained.
        num_replicas: ranks of one member.
        seed: `run.seed`.
        steps: optimizer updates of one member.
        epochs: passes of one member over the training set, with their fraction.
        samples_seen: training images that one member has seen.
        num_parameters: trainable parameters of one member.
        mean_member_accuracy: mean over members; accuracies are fractions of the test images.
        best_member_accuracy: of the member that is best on the test images.
        ensemble_accuracy: of the members' mean output.
        soup_accuracy: of the members' mean weights, statistics recomputed on training images.
        soup_accuracy_raw: of the members' mean weights, statistics averaged.
        greedy_soup_accuracy: of the mean weights of the members that help on held-out images; None also where it
            was not made.
        consensus_distance: root mean square distance of the members to their mean, at the end.
        bytes_sent_per_member: payload sent by one member to others over the whole run, mean over members.
        wall_seconds: of the whole run, evaluations included, over all starts.
        images_per_second_per_member: training images.
        seconds: of the training steps of this start, by part of a step, of one rank, mean over ranks: `data` waiting
            for images, `compute`, `reduce` waiting for the mean of gradients over replicas, `exchange` with members;
            and `checkpoint`, by which writing checkpoints has held up the steps.
        left_out_members: those whose weights are not finite, or became so during the run; in no mean, ensemble or soup.
        metric: what the run is judged by first, `accuracy` or, for text, `perplexity`.
        disagreement: share of test predictions on which two members name different classes, mean over pairs; None for
            one member.
        scores: by what was judged on the test images, as far as it was made: `member` (mean over members),
            `best_member` (by the metric), `ensemble`, `ensemble_probabilities`, `soup`, `soup_raw`, `greedy_soup`, and
            of averages over steps `ema`, `ema_soup`, `last`, `last_soup`; each with `accuracy`, `top5`, `nll` and
            `calibration_error`.
        skipped_files: image files that could not be read or decoded and were left out by any rank, in the last start.
        member_accuracies: of each member on the test images; None for those left out. Empty where it was not written.
        member_nlls: likewise, mean negative log-likelihood in nats.
        greedy_soup_members: those that the greedy soup is the mean of; one where no other helped it. Empty where there
            is no such soup, or the list was not written.
    """

    name: str
    method: str
    num_members: int
    num_replicas: int
    seed: int
    steps: int
    epochs: float
    samples_seen: int
    num_parameters: int
    mean_member_accuracy: float | None
    best_member_accuracy: float | None
    ensemble_accuracy: float | None
    soup_accuracy: float | None
    soup_accuracy_raw: float | None
    greedy_soup_accuracy: float | None
    consensus_distance: float | None
    bytes_sent_per_member: int
    wall_seconds: float
    images_per_second_per_member: float | None
    left_out_members: list[int] = field(default_factory=list)
    metric: str = "accuracy"
    disagreement: float | None = None
    scores: dict[str, dict[str, float | None]] = field(default_factory=dict)
    seconds: dict[str, float | None] = field(default_factory=dict)
    skipped_files: int = 0
    member_accuracies: list[float | None] = field(default_factory=list)
    member_nlls: list[float | None] = field(default_factory=list)
    greedy_soup_members: list[int] = field(default_factory=list)

    def score(self, judged: str, name: str) -> float | None:
        """One of `scores`; None where it was not made or is not a number."""
        return self.scores.get(judged, {}).get(name)


# The annotations are strings here, and this is the whole of their vocabulary.
_KINDS: dict[Any, tuple[str, tuple[type, ...]]] = {
    "str": ("text", (str,)),
    "int": ("a whole number", (int,)),
    "float": ("a number", (int, float)),
    "float | None": ("a number or null", (int, float, type(None))),
    "list[int]": ("a list", (list,)),
    "list[float | None]": ("a list of numbers or nulls", (list,)),
    "dict[str, dict[str, float | None]]": ("an object", (dict,)),
    "dict[str, float | None]": ("an object", (dict,)),
}

_LATER_KEYS: dict[str, Any] = {
    "left_out_members": [],
    "metric": "accuracy",
    "disagreement": None,
    "scores": {},
    "seconds": {},
    "skipped_files": 0,
    "member_accuracies": [],
    "member_nlls": [],
    "greedy_soup_members": [],
}
"""What is read where a summary is of an early version, which did not write them."""


def write_summary(folder: Path, summary: Summary) -> None:
    """Write `summary.json`, complete or not at all; what is not a finite number becomes null.

    Args:
        folder: the run's folder, which exists.
        summary: numbers of Python or numpy.

    Raises:
        RunFolderError: the file cannot be written.
    """
    write_atomically(folder / "summary.json", json.dumps(summary_object(summary), indent=2, allow_nan=False) + "\n")


def summary_object(summary: Summary) -> dict[str, Any]:
    """The JSON object of a summary: plain numbers, null for what is not finite."""
    return {name: _strict(value) for name, value in asdict(summary).items()}


def read_summary(folder: Path) -> Summary:
    """The summary of a finished run.

    Args:
        folder: the run's folder.

    Raises:
        RunFolderError: not a run's folder, a run that has not finished, or a file that is not as it should be.
    """
    if folder.is_file():
        raise RunFolderError(f"{folder}: not a run's folder: it is a file")
    if not folder.is_dir():
        raise RunFolderError(f"{folder}: there is no such folder")
    if not (folder / "config.yaml").is_file():
        raise RunFolderError(f"{folder}: not a run's folder: it holds no config.yaml")
    file = folder / "summary.json"
    if not file.is_file():
        raise RunFolderError(f"{folder}: the run has not finished: it holds no summary.json")
    try:
        content = json.loads(file.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
        json.dumps(content, ensure_ascii=False).encode()  # half a character, as in "\\ud800", could be written nowhere
    except (OSError, ValueError, RecursionError) as error:
        raise RunFolderError(f"{file}: not readable as JSON: {error}") from error
    return _checked(file, content)


def _checked(file: Path, content: Any) -> Summary:
    """The summary in a JSON value; keys that are not a summary's are ignored."""
    if not isinstance(content, dict):
        raise RunFolderError(f"{file}: expected one JSON object")
    content = {**_LATER_KEYS, **content}
    missing = [key.name for key in fields(Summary) if key.name not in content]
    if missing:
        raise RunFolderError(f"{file}: lacks {', '.join(missing)}")
    for key in fields(Summary):
        expected, types = _KINDS[key.type]
        value = content[key.name]
        allowed = _is_number_or_null if key.type == "list[float | None]" else _is_whole
        is_wrong = isinstance(value, list) and not all(allowed(item) for item in value)
        if not isinstance(value, types) or isinstance(value, bool) or _is_beyond_use(value) or is_wrong:
            raise RunFolderError(f"{file}: {key.name}={json.dumps(value)}: expected {expected}")
    for judged, scores in content["scores"].items():
        if not isinstance(scores, dict) or any(not _is_number_or_null(value) for value in scores.values()):
            raise RunFolderError(
                f"{file}: scores.{judged}={json.dumps(scores)}: expected an object of numbers or nulls"
            )
    if not all(_is_number_or_null(value) for value in content["seconds"].values()):
        raise RunFolderError(
            f"{file}: seconds={json.dumps(content['seconds'])}: expected an object of numbers or nulls"
        )
    return Summary(**{key.name: content[key.name] for key in fields(Summary)})


def _is_number_or_null(value: Any) -> bool:
    return isinstance(value, (int, float, type(None))) and not isinstance(value, bool) and not _is_beyond_use(value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not _is_beyond_use(value)


def _is_beyond_use(value: Any) -> bool:
    """Whether it is a number that no run comes to, or one that is none; JSON has them, tables have no room for them."""
    return isinstance(value, (int, float)) and not -(2**63) < value < 2**63


def _strict(value: Any) -> Any:
    """A value as strict JSON can hold it."""
    if isinstance(value, dict):
        return {key: _strict(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_strict(inner) for inner in value]
    value = value.item() if hasattr(value, "item") else value  # a numpy scalar
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not strict JSON")
