"""What a record of metrics holds, and the HDF5 datasets it goes to. No file is touched here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Attribute = str | int | float
Integers = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class TrainRecord:
    """One row of `train/`, `shuffle/`, `data/` and `ensemble/`; M members, L layers.

    Attributes:
        step: optimizer updates done.
        epoch: passes over the training set done, with its fraction.
        lr: learning rate of the step.
        loss: [M] float, what is minimised; this and the next six are means over the steps since the last record.
        accuracy: [M] float, fraction of the training images; of a mixed image the class with the larger share counts.
        images_per_second: [M] float, training images.
        data_seconds: [M] float, waiting for images, per step.
        compute_seconds: [M] float, forward, backward and optimizer, per step.
        reduce_seconds: [M] float, waiting for the mean of gradients over replicas, per step.
        exchange_seconds: [M] float, what the method does between members, waiting for them included, per step.
        values_moved: [M] int64, scalars sent to other members since the run began.
        bytes_sent: [M] int64, payload sent to other members since the run began.
        skipped_files: [M] int64, image files that a member's ranks left out so far in this start, each once a rank.
        consensus_distance: root mean square distance of the members to their mean; NaN where it was not computed.
        consensus_distance_per_layer: [L] float, the same for each layer.
    """

    step: int
    epoch: float
    lr: float
    loss: Floats
    accuracy: Floats
    images_per_second: Floats
    data_seconds: Floats
    compute_seconds: Floats
    reduce_seconds: Floats
    exchange_seconds: Floats
    values_moved: Integers
    bytes_sent: Integers
    skipped_files: Integers
    consensus_distance: float
    consensus_distance_per_layer: Floats


@dataclass(frozen=True)
class EvaluationRecord:
    """One row of `evaluate/`; accuracies are fractions of the split that was evaluated.

    Attributes:
        step: optimizer updates done.
        member_accuracy: [M] float, of each member alone.
        ensemble_accuracy: of the members' mean output.
        soup_accuracy: of the members' mean weights.
        member_nll: [M] float, mean negative log-likelihood of the right class, in nats; so are the next two.
        ensemble_nll: of the members' mean output.
        soup_nll: of the members' mean weights.
        disagreement: share of predictions on which two members name different classes, mean over pairs; NaN for one.
    """

    step: int
    member_accuracy: Floats
    ensemble_accuracy: float
    soup_accuracy: float
    member_nll: Floats
    ensemble_nll: float
    soup_nll: float
    disagreement: float = math.nan


@dataclass(frozen=True)
class Metrics:
    """All records of a run; the fields are the datasets, T training records and E evaluations.

    Attributes:
        step: [T] int64; the other fields down to `consensus_distance_per_layer` are [T], [T, M] or [T, L] and mean
            what `TrainRecord` says.
        evaluate_step: [E] int64; the other fields down to `disagreement` are [E] or [E, M], as in `EvaluationRecord`.
        layer_names: L names.
        attributes: of the last file: configuration, versions, hosts, shape of the world.
        starts: the steps from which starts went on, 0 for the first, of those that have records among those read.
    """

    step: Integers
    epoch: Floats
    lr: Floats
    loss: Floats
    accuracy: Floats
    images_per_second: Floats
    data_seconds: Floats
    compute_seconds: Floats
    reduce_seconds: Floats
    exchange_seconds: Floats
    values_moved: Integers
    bytes_sent: Integers
    skipped_files: Integers
    consensus_distance: Floats
    consensus_distance_per_layer: Floats
    evaluate_step: Integers
    member_accuracy: Floats
    ensemble_accuracy: Floats
    soup_accuracy: Floats
    member_nll: Floats
    ensemble_nll: Floats
    soup_nll: Floats
    disagreement: Floats
    layer_names: tuple[str, ...]
    attributes: Mapping[str, Attribute]
    starts: tuple[int, ...] = (0,)

    @property
    def num_members(self) -> int:
        """M."""
        return int(self.loss.shape[1])


@dataclass(frozen=True)
class Dataset:
    """One dataset of a file.

    Attributes:
        path: in the file.
        axis: what the second axis counts.
        dtype: of its numbers.
        like: early files lack it: it is read as NaN, or integers as 0, in the shape of this dataset, which all have.
    """

    path: str
    axis: Literal["", "member", "layer"] = ""
    dtype: type[np.int64] | type[np.float64] = np.float64
    like: str | None = None

    @property
    def field(self) -> str:
        """The name in a record."""
        return self.path.rsplit("/")[-1]


TRAIN = (
    Dataset("train/step", dtype=np.int64),  # first of its table: a reader must take the step before the rest
    Dataset("train/epoch"),
    Dataset("train/lr"),
    Dataset("train/loss", "member"),
    Dataset("train/accuracy", "member"),
    Dataset("train/images_per_second", "member"),
    Dataset("train/data_seconds", "member"),
    Dataset("train/compute_seconds", "member"),
    Dataset("train/reduce_seconds", "member", like="train/compute_seconds"),
    Dataset("train/exchange_seconds", "member"),
    Dataset("shuffle/values_moved", "member", np.int64),
    Dataset("shuffle/bytes_sent", "member", np.int64),
    Dataset("data/skipped_files", "member", np.int64, like="train/loss"),
    Dataset("ensemble/consensus_distance"),
    Dataset("ensemble/consensus_distance_per_layer", "layer"),
)
EVALUATE = (
    Dataset("evaluate/step", dtype=np.int64),
    Dataset("evaluate/member_accuracy", "member"),
    Dataset("evaluate/ensemble_accuracy"),
    Dataset("evaluate/soup_accuracy"),
    Dataset("evaluate/member_nll", "member", like="evaluate/member_accuracy"),
    Dataset("evaluate/ensemble_nll", like="evaluate/ensemble_accuracy"),
    Dataset("evaluate/soup_nll", like="evaluate/soup_accuracy"),
    Dataset("evaluate/disagreement", like="evaluate/soup_accuracy"),
)
