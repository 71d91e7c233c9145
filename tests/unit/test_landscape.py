"""The geometry of a basin analysis and the Hessian's products, against what is known in closed form."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wash_hpc.ensemble.consensus import consensus_distance_per_layer
from wash_hpc.ensemble.curvature import hessian_times, top_eigenvalues
from wash_hpc.ensemble.flat import Flat, Layer
from wash_hpc.ensemble.landscape import (
    Averaging,
    Judgement,
    Landscape,
    LayerDistance,
    Line,
    LineCurvature,
    PlaneTable,
    Spectrum,
    barrier,
    between,
    distances_per_layer,
    length,
    profile,
    spread,
)
from wash_hpc.ensemble.plane import Plane
from wash_hpc.ensemble.soup import Weights
from wash_hpc.report.basin_figures import write_figures
from wash_hpc.report.basin_table import in_lines

F64 = torch.float64


def weights(values: Tensor) -> Weights:
    return Weights(values, torch.zeros(0))


def test_the_barrier_of_a_quadratic_is_an_eighth_of_its_second_difference_or_nothing():
    """L = x'Ax / 2 rises above the chord by -t(1 - t) d'Ad / 2, d the line: most in the middle."""
    torch.manual_seed(0)
    root = torch.randn(6, 6, dtype=F64)
    bowl = root @ root.T
    first, last = torch.randn(2, 6, dtype=F64)
    at = spread(0.0, 1.0, 11)
    points = [between(weights(first), weights(last), place).values for place in at]
    direction = last - first
    bowls, domes = ([float(0.5 * sign * point @ bowl @ point) for point in points] for sign in (1, -1))
    assert barrier(at, bowls) == 0.0
    assert barrier(at, domes) == pytest.approx(float(direction @ bowl @ direction) / 8, rel=1e-9)


def test_the_error_barrier_is_of_errors_and_the_end_points_have_none():
    found = profile([0.0, 0.5, 1.0], [Judgement(1.0, 0.9), Judgement(1.0, 0.6), Judgement(3.0, 0.7)])
    assert found.loss_barrier == 0.0  # 1.0 lies below the chord, whose middle is 2.0
    assert found.error_barrier == pytest.approx(0.2)
    assert math.isnan(barrier([0.0, 0.5, 1.0], [1.0, math.nan, 1.0]))
    assert math.isinf(barrier([0.0, 0.5, 1.0], [1.0, math.inf, 1.0]))


def test_a_line_goes_from_one_point_to_the_other_statistics_and_all():
    first, last = (Weights(torch.randn(5), torch.rand(2)) for _ in range(2))
    for place, end in ((0.0, first), (1.0, last)):
        point = between(first, last, place)
        assert torch.equal(point.values, end.values)
        assert torch.equal(point.statistics, end.statistics)
    assert torch.allclose(between(first, last, 0.25).values, 0.75 * first.values + 0.25 * last.values)


def test_the_plane_holds_its_three_points_and_their_mean():
    points = torch.randn(3, 50)
    plane = Plane.through(*points)
    assert plane is not None
    x, y = (axis.double() for axis in plane.axes)
    assert float(x @ x) == pytest.approx(1, abs=1e-6)
    assert float(x @ y) == pytest.approx(0, abs=1e-6)
    for point, corner in zip(points, plane.corners, strict=True):
        assert torch.allclose(plane.point(*corner), point, atol=1e-5)
    *foot, height = plane.project(points.mean(dim=0))
    assert foot == pytest.approx(np.mean(plane.corners, axis=0).tolist(), abs=1e-5)
    assert height == pytest.approx(0, abs=1e-5)
    above = torch.randn(50)
    for axis in plane.axes:
        above -= (above @ axis) * axis
    assert plane.project(points.mean(dim=0) + above)[2] == pytest.approx(length(above), rel=1e-5)
    xs, ys = plane.grid(9)
    assert min(xs) < min(corner[0] for corner in plane.corners)
    assert max(ys) > max(corner[1] for corner in plane.corners)


def test_three_points_on_a_line_span_no_plane():
    first, second = torch.randn(2, 50)
    assert Plane.through(first, second, first + 0.3 * (second - first)) is None
    assert Plane.through(first, first, second) is None


def test_distances_of_layers_are_the_consensus_distances_of_training():
    members = torch.randn(3, 12)
    layers = [Layer("a", 0, 5), Layer("b", 5, 7)]
    distances = distances_per_layer(iter(members), members.mean(dim=0), layers)

    def mean_over_members(tensor: Tensor) -> Tensor:
        if tensor.numel() == 12:
            return members.mean(dim=0)
        if tensor.numel() == 1:
            return tensor
        squares = (members - members.mean(dim=0)).double().square()
        return torch.stack([squares[:, :5].sum(dim=1).mean(), squares[:, 5:].sum(dim=1).mean()])

    training = consensus_distance_per_layer(members[0], layers, mean_over_members)
    assert [layer.distance for layer in distances] == pytest.approx(training.tolist(), rel=1e-6)
    norm = float(members[:, :5].square().sum(dim=1).mean().sqrt())
    assert distances[0].relative == pytest.approx(distances[0].distance / norm, rel=1e-6)


def test_members_that_have_nothing_in_common_are_at_the_relative_distance_the_docs_say():
    members = torch.randn(4, 100_000)
    (layer,) = distances_per_layer(members, members.mean(dim=0), [Layer("all", 0, 100_000)])
    assert layer.relative == pytest.approx(math.sqrt(1 - 1 / 4), rel=0.01)


def tiny_problem() -> tuple[nn.Module, Flat, Tensor, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    return model, Flat(model), torch.randn(20, 4, dtype=F64), torch.randint(2, (20,))


def whole_hessian(model: nn.Module, flat: Flat, images: Tensor, labels: Tensor) -> Tensor:
    """[P, P] by torch, of the loss as a function of one vector."""
    shapes = [(name, parameter.shape) for name, parameter in model.named_parameters()]

    def loss(vector: Tensor) -> Tensor:
        parts = torch.split(vector, [shape.numel() for _, shape in shapes])
        parameters = {name: part.view(shape) for (name, shape), part in zip(shapes, parts, strict=True)}
        return F.cross_entropy(torch.func.functional_call(model, parameters, (images,)), labels)

    hessian: Tensor = torch.autograd.functional.hessian(loss, flat.values.detach().clone())
    return hessian


def product_with(model: nn.Module, images: Tensor, labels: Tensor, vector: Tensor) -> Tensor:
    """By `hessian_times`, in two batches."""
    losses = (
        F.cross_entropy(model(images[part]), labels[part], reduction="sum") / len(labels)
        for part in (slice(0, 7), slice(7, None))
    )
    return hessian_times(list(model.parameters()), losses, vector)


def test_hessian_products_are_those_of_the_whole_matrix_and_gradients_stay_untouched():
    model, flat, images, labels = tiny_problem()
    hessian = whole_hessian(model, flat, images, labels)
    vector = torch.randn(len(hessian), dtype=F64)
    assert torch.allclose(product_with(model, images, labels, vector), hessian @ vector, atol=1e-12)
    assert all(parameter.grad is None for parameter in flat.parameters)


def test_curvature_along_a_line_is_the_finite_difference_of_the_loss():
    model, flat, images, labels = tiny_problem()
    direction = torch.randn_like(flat.values)
    direction /= direction.norm()
    bend = float(direction @ product_with(model, images, labels, direction))
    middle = flat.values.detach().clone()

    def loss_at(step: float) -> float:
        with torch.no_grad():
            flat.values.copy_(middle + step * direction)
            return float(F.cross_entropy(model(images), labels))

    step = 1e-4
    assert bend == pytest.approx((loss_at(step) - 2 * loss_at(0) + loss_at(-step)) / step**2, rel=1e-5)


def test_a_loss_that_is_linear_or_does_not_use_a_parameter_bends_nowhere():
    used, unused = nn.Parameter(torch.randn(3)), nn.Parameter(torch.randn(2))
    vector = torch.randn(5)
    assert not hessian_times([used, unused], [used.sum()], vector).any()
    assert not hessian_times([used, unused], [], vector).any()
    product = hessian_times([used, unused], [used.square().sum()], vector)
    assert torch.allclose(product, torch.cat([2 * vector[:3], torch.zeros(2)]))


def test_top_eigenvalues_are_those_of_the_whole_hessian():
    model, flat, images, labels = tiny_problem()
    exact = torch.linalg.eigvalsh(whole_hessian(model, flat, images, labels)).flip(0)

    def multiply(vector: np.ndarray) -> np.ndarray:
        return product_with(model, images, labels, torch.from_numpy(vector.reshape(-1))).numpy()

    found = top_eigenvalues(multiply, len(exact), 3, F64)
    assert found == pytest.approx(exact[:3].tolist(), rel=1e-3)


def test_eigenvalues_of_a_small_or_sick_matrix_are_fewer_or_none():
    diagonal = np.array([3.0, -5.0, 1.0])
    assert top_eigenvalues(lambda vector: diagonal * vector.reshape(-1), 3, 9, F64) == pytest.approx([3.0, 1.0])
    assert top_eigenvalues(lambda vector: vector * math.nan, 50, 3, torch.float32) == []


def whole_landscape() -> Landscape:
    at = [0.0, 0.5, 1.0]
    raw = profile(at, [Judgement(0.1, 0.9), Judgement(2.0, 0.5), Judgement(0.2, 0.8)])
    recomputed = profile(at, [Judgement(0.1, 0.9), Judgement(0.3, 0.8), Judgement(0.2, 0.8)])
    ends = [("member 0", "member 1"), ("member 0", "soup"), ("member 1", "soup")]
    table = [[0.1, 0.2], [math.nan, 3.0]]
    return Landscape(
        name="a $run$ <b>",
        method="wash",
        seed=0,
        step=7,
        members=[0, 1, 2],
        split="test",
        num_images=10,
        num_statistics_images=20,
        num_parameters=5,
        soup_norm=1.0,
        averaging=Averaging([Judgement(1.0, 0.5), Judgement(3.0, 0.7)], Judgement(0.5, 0.9), Judgement(0.75, 0.8)),
        lines=[Line(start, end, 1.0, at, raw, recomputed) for start, end in ends],
        plane=PlaneTable(
            [0, 1, 2], [(0.0, 0.0), (1.0, 0.0), (0.5, 1.0)], (0.5, 0.3), 0.0, [0.0, 1.0], [0.0, 1.0], table, table
        ),
        curvature=[LineCurvature(start, end, at, [1.0, -2.0, 3.0], [0.5, 1.0, 2.0]) for start, end in ends],
        eigenvalues=[Spectrum("member 0", [5.0, 4.0]), Spectrum("soup", [])],
        layers=[LayerDistance("stem", 3, 1.0, 0.5), LayerDistance("head", 2, 2.0, 0.1)],
    )


def test_every_part_has_a_figure_as_png_and_svg_the_same_each_time(tmp_path):
    files = write_figures(tmp_path, whole_landscape())
    names = ["lines", "plane", "curvature", "eigenvalues", "distance"]
    assert [file.name for file in files] == [f"{name}.{kind}" for name in names for kind in ("png", "svg")]
    before = {file: file.read_bytes() for file in files}
    assert all(content[:8] == b"\x89PNG\r\n\x1a\n" for file, content in before.items() if file.suffix == ".png")
    assert all(b"<svg" in content for file, content in before.items() if file.suffix == ".svg")
    write_figures(tmp_path, whole_landscape())
    assert before == {file: file.read_bytes() for file in files}


def test_figures_of_parts_that_were_not_looked_at_are_removed(tmp_path):
    write_figures(tmp_path, whole_landscape())
    files = write_figures(tmp_path, replace(whole_landscape(), lines=None, plane=None, curvature=None, eigenvalues=[]))
    assert sorted(tmp_path.iterdir()) == sorted(files)
    assert {file.stem for file in files} == {"distance"}


def test_the_lines_for_a_terminal_say_the_highest_barriers():
    text = in_lines(whole_landscape())
    assert text.startswith("a $run$ <b>, step 7: members 0, 1, 2; ")
    assert "members, mean                              loss   2.0000   accuracy  60.00 %" in text
    assert "soup                                       loss   0.7500   accuracy  80.00 %" in text
    assert "highest barrier between members            loss   0.1500   error   5.00 points" in text
    assert "highest barrier between members, raw       loss   1.8500   error  35.00 points" in text
    assert "largest eigenvalue at member 0             5" in text
    assert "consensus distance                         2.236; relatively the farthest: stem, 0.50" in text
    assert (
        len(in_lines(replace(whole_landscape(), averaging=None, lines=None, curvature=None, layers=None)).splitlines())
        == 2
    )
