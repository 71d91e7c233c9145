"""Which points of weight space a basin analysis looks at: lines, a plane, members and their soup, from point to point.

Holds two members at a time beside the soup, three vectors for the plane. Owns the order of the points; what a point is
like is `survey`'s, which makes most calls here collective over the world.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import combinations

from torch import Tensor

from wash_hpc.ensemble.flat import Layer
from wash_hpc.ensemble.landscape import (
    Averaging,
    Judgement,
    LayerDistance,
    Line,
    LineCurvature,
    PlaneTable,
    Spectrum,
    between,
    distances_per_layer,
    length,
    profile,
    spread,
)
from wash_hpc.ensemble.plane import Plane
from wash_hpc.ensemble.soup import RunningSoup, Weights
from wash_hpc.errors import WashError
from wash_hpc.evaluate import Fetch
from wash_hpc.survey import Survey

_STEP = 0.05  # of a line, for differences: rounding needs it long, kinks and higher derivatives short


class Basin:
    """What lies between some members. Every method is collective over the world, but for `distances`.

    Args:
        fetch: gives a member's weights, which stay valid when others are fetched.
        members: at least two.
        survey: says what a point is like.
        tick: called after each point.
        to_soup: whether lines from each member to the soup are looked at, besides those between members.

    Raises:
        WashError: a member whose weights are not finite.
    """

    def __init__(
        self,
        fetch: Fetch,
        members: Sequence[int],
        survey: Survey,
        tick: Callable[[], object] = lambda: None,
        to_soup: bool = True,
    ) -> None:
        self._fetch = fetch
        self._members = members
        self._survey = survey
        self._tick = tick
        self._to_soup = to_soup
        soup = RunningSoup()
        for member in members:
            weights = fetch(member)
            if not weights.are_finite:
                raise WashError(f"the weights of member {member} are not finite: choose others by --members")
            soup = soup.with_one_more(weights)
        self._soup = soup.weights()

    @property
    def soup_norm(self) -> float:
        """Euclidean, of the soup's parameters; local."""
        return length(self._soup.values)

    def averaging(self) -> Averaging:
        """Members, the ensemble of their mean logits, and their soup."""
        members = (self._survey.recomputed(self._fetch(member)) for member in self._members)
        alone, together = self._survey.judge_together(members)
        return Averaging(alone, together, self._judge(self._survey.recomputed(self._soup)))

    def lines(self, num_points: int) -> Iterator[Line]:
        """Loss and accuracy along every line between two members, and from each member to the soup where asked for."""
        at = spread(0.0, 1.0, num_points)
        for start, end, first, last in self._ends():
            raw, recomputed = [], []
            for place in at:
                point = between(first, last, place)
                raw.append(self._judge(point))
                recomputed.append(self._judge(self._survey.recomputed(point)) if self._survey.recomputes else raw[-1])
            apart = length(last.values - first.values)
            yield Line(start, end, apart, at, profile(at, raw), profile(at, recomputed))

    def plane(self, num_grid: int) -> PlaneTable | None:
        """Loss and accuracy on a grid around the first three members; None where they span no plane."""
        three = list(self._members[:3])
        plane = Plane.through(*(self._fetch(member).values for member in three)) if len(three) == 3 else None
        if plane is None:
            return None
        xs, ys = plane.grid(num_grid)
        table = [[self._judge_at(plane, x, y) for x in xs] for y in ys]
        soup_x, soup_y, height = plane.project(self._soup.values)
        return PlaneTable(
            members=three,
            corners=list(plane.corners),
            soup=(soup_x, soup_y),
            soup_height=height,
            x=xs,
            y=ys,
            loss=[[judgement.loss for judgement in row] for row in table],
            accuracy=[[judgement.accuracy for judgement in row] for row in table],
        )

    def curvature(self) -> Iterator[LineCurvature]:
        """The second derivative of the loss along the same lines, at both ends and in the middle."""
        at = [0.0, 0.5, 1.0]
        for start, end, first, last in self._ends():
            apart = length(last.values - first.values)
            if apart > 0:
                direction = (last.values - first.values) / apart
                bends = [self._bend(between(first, last, place), direction, apart) for place in at]
                by_product, by_difference = ([bend[kind] for bend in bends] for kind in (0, 1))
                yield LineCurvature(start, end, at, by_product, by_difference)

    def eigenvalues(self, count: int) -> Iterator[Spectrum]:
        """The largest eigenvalues of the loss's Hessian at each member and at the soup."""
        points: list[tuple[str, Callable[[], Weights]]] = [
            (_name(member), partial(self._fetch, member)) for member in self._members
        ]
        for name, fetch in [*points, ("soup", lambda: self._soup)]:
            values = self._survey.top_eigenvalues(self._survey.recomputed(fetch()), count)
            self._tick()
            yield Spectrum(name, values)

    def distances(self, layers: Sequence[Layer]) -> list[LayerDistance]:
        """How far the members are from the soup, layer by layer; local."""
        return distances_per_layer((self._fetch(member).values for member in self._members), self._soup.values, layers)

    def _ends(self) -> Iterator[tuple[str, str, Weights, Weights]]:
        """Names and weights of the end points of every line."""
        for first, second in combinations(self._members, 2):
            yield _name(first), _name(second), self._fetch(first), self._fetch(second)
        for member in self._members if self._to_soup else ():
            yield _name(member), "soup", self._fetch(member), self._soup

    def _judge(self, weights: Weights) -> Judgement:
        self._tick()
        return self._survey.judge(weights)

    def _judge_at(self, plane: Plane, x: float, y: float) -> Judgement:
        # Statistics are not interpolated here: outside the triangle a variance might become negative.
        return self._judge(self._survey.recomputed(Weights(plane.point(x, y), self._soup.statistics)))

    def _bend(self, weights: Weights, direction: Tensor, apart: float) -> tuple[float, float]:
        """The loss's second derivative with statistics held, and its second difference with statistics recomputed."""
        step = _STEP * apart
        here = self._survey.recomputed(weights)
        beside = [Weights(weights.values + way * step * direction, here.statistics) for way in (-1, 1)]
        before, after = (self._judge(self._survey.recomputed(point)).loss for point in beside)
        middle = self._judge(here).loss
        return self._survey.curvature(here, direction), (before - 2 * middle + after) / step**2


def _name(member: int) -> str:
    return f"member {member}"
