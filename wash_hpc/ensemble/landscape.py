"""The weight space between members: lines, barriers, distances. Plain geometry on flat vectors.

Owns the tables that a basin analysis comes to and the arithmetic behind them. What the loss is at a point is
`wash_hpc.survey`'s business; it knows the images.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from wash_hpc.ensemble.flat import Layer
from wash_hpc.ensemble.soup import Weights


@dataclass(frozen=True)
class Judgement:
    """How good one point of weight space is.

    Attributes:
        loss: cross-entropy, mean over images.
        accuracy: a fraction.
    """

    loss: float
    accuracy: float


@dataclass(frozen=True)
class Profile:
    """What is met along a line, with one kind of normalisation statistics.

    Attributes:
        loss: [T] at each point.
        accuracy: [T], fractions.
        loss_barrier: by how much the loss rises above the straight line between the end points' losses, at most.
        error_barrier: likewise of the error, 1 - accuracy.
    """

    loss: list[float]
    accuracy: list[float]
    loss_barrier: float
    error_barrier: float


@dataclass(frozen=True)
class Line:
    """A straight line from one point of weight space to another.

    Attributes:
        start: its name, as `member 0`.
        end: likewise, or `soup`.
        length: Euclidean, of the parameters.
        at: [T] in [0, 1], 0 at the start.
        raw: with the end points' own statistics, interpolated as the parameters are.
        recomputed: with statistics measured anew at each point, end points included.
    """

    start: str
    end: str
    length: float
    at: list[float]
    raw: Profile
    recomputed: Profile


@dataclass(frozen=True)
class PlaneTable:
    """The plane through three members, with statistics measured anew at each point.

    Attributes:
        members: the three.
        corners: their coordinates in the plane: the first is the origin, the second lies on the first axis.
        soup: the coordinates of the soup's projection.
        soup_height: the soup's distance from the plane; 0 where it is the soup of these three.
        x: [X] first coordinate of the grid.
        y: [Y] second coordinate.
        loss: [Y, X].
        accuracy: [Y, X].
    """

    members: list[int]
    corners: list[tuple[float, float]]
    soup: tuple[float, float]
    soup_height: float
    x: list[float]
    y: list[float]
    loss: list[list[float]]
    accuracy: list[list[float]]


@dataclass(frozen=True)
class LineCurvature:
    """How the loss bends along a line.

    The two differ where statistics change along the line: the loss may rise to a barrier though at each point, with
    the statistics of that point, it bends upwards.

    Attributes:
        start: as in `Line`.
        end: likewise.
        at: [3] start, middle and end.
        second_derivative: [3] of the loss along the unit direction of the line, by Hessian-vector products: statistics
            recomputed at the point and then held.
        second_difference: [3] the same by central differences over a twentieth of the line to both sides: statistics
            recomputed at each of the three points.
    """

    start: str
    end: str
    at: list[float]
    second_derivative: list[float]
    second_difference: list[float]


@dataclass(frozen=True)
class Spectrum:
    """The upper end of the Hessian's spectrum at one point.

    Attributes:
        point: its name.
        eigenvalues: the largest, in descending order, statistics recomputed and then held; fewer where the iteration
            has not converged, none where the loss is not finite.
    """

    point: str
    eigenvalues: list[float]


@dataclass(frozen=True)
class LayerDistance:
    """How far members are from their mean in one layer.

    Attributes:
        name: of the parameter tensor.
        size: its parameters.
        distance: root mean square over members of the distance to the mean.
        relative: the same over the root mean square norm of the members; sqrt(1 - 1/M) for M unrelated members.
    """

    name: str
    size: int
    distance: float
    relative: float


@dataclass(frozen=True)
class Averaging:
    """What averaging predictions comes to and what averaging weights does, statistics measured anew at each point.

    Attributes:
        members: each of those looked at, in order.
        ensemble: the mean of their logits.
        soup: the mean of their weights.
    """

    members: list[Judgement]
    ensemble: Judgement
    soup: Judgement


@dataclass(frozen=True)
class Landscape:
    """All that a basin analysis found; a part that was not asked for is None.

    Attributes:
        name: of the run.
        method: by which it was trained.
        seed: the run's.
        step: updates done when members were as they are looked at.
        members: those looked at.
        split: whose images.
        num_images: by which loss, accuracy and curvature were measured.
        num_statistics_images: by which normalisation statistics were recomputed; 0 for a network that has none.
        num_parameters: P.
        soup_norm: Euclidean, of the soup's parameters.
        averaging: members, ensemble and soup.
        lines: between every two members, then, where asked for, from each to the soup.
        plane: also None where there are fewer than three members, or they lie on a line.
        curvature: along the same lines; without those of no length.
        eigenvalues: at each member and the soup.
        layers: in storage order.
    """

    name: str
    method: str
    seed: int
    step: int
    members: list[int]
    split: str
    num_images: int
    num_statistics_images: int
    num_parameters: int
    soup_norm: float
    averaging: Averaging | None
    lines: list[Line] | None
    plane: PlaneTable | None
    curvature: list[LineCurvature] | None
    eigenvalues: list[Spectrum] | None
    layers: list[LayerDistance] | None


def between(start: Weights, end: Weights, at: float) -> Weights:
    """The point at `at` of the line from `start` (0) to `end` (1); statistics are interpolated too."""
    return Weights(
        torch.lerp(start.values, end.values, at),
        torch.lerp(start.statistics, end.statistics, at),
    )


def profile(at: Sequence[float], judgements: Sequence[Judgement]) -> Profile:
    """A line's profile from what was found at its points."""
    loss = [judgement.loss for judgement in judgements]
    accuracy = [judgement.accuracy for judgement in judgements]
    return Profile(loss, accuracy, barrier(at, loss), barrier(at, [1.0 - value for value in accuracy]))


def barrier(at: Sequence[float], values: Sequence[float]) -> float:
    """How far `values` rise above the straight line between the first and the last, at most; 0 where they never do.

    Args:
        at: [T] in [0, 1], from 0 to 1.
        values: [T] losses or errors there; NaN if one of them is.
    """
    first, last = values[0], values[-1]
    rises = [value - ((1.0 - place) * first + place * last) for place, value in zip(at, values, strict=True)]
    rises[0] = rises[-1] = 0.0 * (first + last)  # exactly: not what rounding leaves
    return float(torch.tensor(rises, dtype=torch.float64).max())


def spread(low: float, high: float, num_points: int) -> list[float]:
    """So many numbers evenly spread from `low` to `high`, both among them."""
    numbers: list[float] = torch.linspace(low, high, num_points, dtype=torch.float64).tolist()
    return numbers


def distances_per_layer(members: Iterable[Tensor], consensus: Tensor, layers: Sequence[Layer]) -> list[LayerDistance]:
    """How far members are from their mean, layer by layer; one member in memory at a time.

    Args:
        members: the [P] parameters of each, made one by one as they are asked for.
        consensus: [P] their mean.
        layers: parts of the vector, in order and without gaps.
    """
    sizes = [layer.size for layer in layers]
    apart = torch.zeros(len(layers), dtype=torch.float64)
    norms = torch.zeros(len(layers), dtype=torch.float64)
    num_members = 0
    for values in members:
        apart += _squares_per_layer(values - consensus, sizes)
        norms += _squares_per_layer(values, sizes)
        num_members += 1
    distances, norms = (apart / num_members).sqrt(), (norms / num_members).sqrt()
    return [
        LayerDistance(layer.name, layer.size, float(distance), float(distance / norm) if norm > 0 else 0.0)
        for layer, distance, norm in zip(layers, distances, norms, strict=True)
    ]


def dot(first: Tensor, second: Tensor) -> float:
    """The scalar product, summed in float64."""
    return float(torch.dot(first.double(), second.double()))


def length(vector: Tensor) -> float:
    """The Euclidean norm, summed in float64."""
    return float(torch.linalg.vector_norm(vector, dtype=torch.float64))


def _squares_per_layer(vector: Tensor, sizes: list[int]) -> Tensor:
    squares = vector.double().square_()
    return torch.stack([part.sum() for part in torch.split(squares, sizes)]).cpu()
