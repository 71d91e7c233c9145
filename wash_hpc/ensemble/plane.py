"""A plane in weight space, and what lies where in it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from wash_hpc.ensemble.landscape import dot, length, spread


@dataclass(frozen=True)
class Plane:
    """The plane through three points of weight space, with orthonormal axes.

    Attributes:
        origin: [P] the first point.
        axes: two [P] unit vectors: towards the second point, and at a right angle towards the third.
        corners: coordinates of the three points.
    """

    origin: Tensor
    axes: tuple[Tensor, Tensor]
    corners: tuple[tuple[float, float], tuple[float, float], tuple[float, float]]

    @classmethod
    def through(cls, first: Tensor, second: Tensor, third: Tensor) -> Plane | None:
        """The plane through three vectors [P], or None where they lie on a line."""
        across, up = second - first, third - first
        width = length(across)
        if width == 0:
            return None
        across = across / width
        foot = dot(up, across)
        away = up - foot * across
        height = length(away)
        if height <= 1e-5 * max(width, length(up)):  # what rounding leaves of parallel vectors in float32
            return None
        return cls(first, (across, away / height), ((0.0, 0.0), (width, 0.0), (foot, height)))

    def point(self, x: float, y: float) -> Tensor:
        """[P] the point with these coordinates."""
        return self.origin + x * self.axes[0] + y * self.axes[1]

    def project(self, values: Tensor) -> tuple[float, float, float]:
        """The coordinates of a vector's foot on the plane, and its distance from there."""
        offset = values - self.origin
        x, y = (dot(offset, axis) for axis in self.axes)
        return x, y, length(values - self.point(x, y))

    def grid(self, num_points: int) -> tuple[list[float], list[float]]:
        """Coordinates of a grid around the corners, with a fifth of their extent on every side."""
        sides = []
        for numbers in zip(*self.corners, strict=True):
            low, high = min(numbers), max(numbers)
            margin = 0.2 * (high - low)
            sides.append(spread(low - margin, high + margin, num_points))
        return sides[0], sides[1]
