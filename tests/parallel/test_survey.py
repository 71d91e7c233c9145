"""Loss and curvature at points of weight space: equal on any number of ranks, and to a plain loop in one process."""

from __future__ import annotations

from dataclasses import asdict

import pytest
import torch
from mpi4py import MPI
from torch import nn
from torch.nn import functional as F

from tests.support import tiny_config
from wash_hpc.basin import Basin
from wash_hpc.data import open_source
from wash_hpc.data.source import Shard, Source
from wash_hpc.ensemble.flat import Flat, get_statistics
from wash_hpc.ensemble.soup import Weights
from wash_hpc.evaluate import Evaluator
from wash_hpc.models import build_model
from wash_hpc.parallel.mpi_reducer import MPIReducer
from wash_hpc.parallel.reducer import reducer_class
from wash_hpc.parallel.world import Comm, World, start_mpi
from wash_hpc.survey import Survey, SurveySplit

CPU = torch.device("cpu")


def images(num_images: int = 200) -> Source:
    return open_source(tiny_config(f"data.num_images={num_images}"), CPU)


def model_of(source: Source, seed: int, name: str = "resnet_small") -> nn.Module:
    torch.manual_seed(seed)
    return build_model(name, source.image_shape, source.num_classes, 2)


def member_of(source: Source, seed: int, name: str = "resnet_small") -> Weights:
    """Random weights, with statistics that fit them."""
    model = model_of(source, seed, name)
    values = Flat(model).values.detach()
    for batch in source.statistics(64, Shard(), 32):
        model(batch.images)
    return Weights(values.clone(), get_statistics(model))


def survey_of(
    source: Source,
    comm: Comm,
    num_images: int = 1000,
    split: SurveySplit = "test",
    model: nn.Module | None = None,
    reducer: str = "mpi",
) -> Survey:
    config = tiny_config("evaluate.batch_size=16", "evaluate.statistics_images=50")
    world = World.open(comm, None)
    shard = Shard(comm.rank, comm.size)
    reducing = reducer_class(reducer)(world) if reducer == "horovod" else MPIReducer(world)
    evaluator = Evaluator(config, source, model or model_of(source, 9), 3, shard, reducing)
    return Survey(config, source, evaluator, shard, reducing, split, num_images)


def alone() -> Comm:
    return MPI.COMM_SELF.Dup()


@pytest.mark.mpi(ranks=[2, 3], timeout=120)
def test_a_whole_basin_is_the_same_on_one_rank_and_on_several(mpi_ranks, comm):
    source = images()
    members = [member_of(source, seed) for seed in range(3)]
    found = []
    for ranks in (start_mpi(), alone()):
        basin = Basin(members.__getitem__, [0, 1, 2], survey_of(source, ranks, num_images=30))
        found.append(
            {
                "lines": [asdict(line) for line in basin.lines(2)],
                "plane": asdict(basin.plane(2)),
                "curvature": [asdict(next(basin.curvature()))],
                "eigenvalues": [asdict(next(basin.eigenvalues(1)))],
            }
        )
    numbers = [list(numbers_in(tables)) for tables in found]
    assert numbers[0] == pytest.approx(numbers[1], rel=1e-3, abs=1e-4)
    assert len(set(comm.allgather(tuple(numbers[0])))) == 1
    assert len(found[0]["lines"]) == 3 + 3


def numbers_in(tables: object) -> list[float]:
    if isinstance(tables, dict):
        return [number for item in tables.values() for number in numbers_in(item)]
    if isinstance(tables, list | tuple):
        return [number for item in tables for number in numbers_in(item)]
    return [float(tables)] if isinstance(tables, int | float) else []


@pytest.mark.mpi(ranks=[2], timeout=120)
def test_a_point_is_judged_as_a_plain_loop_does_and_by_the_same_choice_of_images_on_any_ranks(mpi_ranks, comm):
    source = images()
    weights = member_of(source, 0)
    model = model_of(source, 9)
    everything = survey_of(source, alone(), model=model).judge(weights)  # leaves the weights in the model
    batch = next(source.evaluate("test", Shard(), 1000))
    with torch.no_grad():
        logits = model.eval()(batch.images)
    assert everything.loss == pytest.approx(float(F.cross_entropy(logits, batch.labels)), rel=1e-6)
    assert everything.accuracy == float((logits.argmax(dim=1) == batch.labels).double().mean())
    for split in ("test", "held_out", "train"):
        for num_images in (1, 11, 1000):  # with one image a rank has none
            shared, single = (survey_of(source, ranks, num_images, split) for ranks in (start_mpi(), alone()))
            loss = shared.judge(weights).loss
            assert shared.num_images == single.num_images <= num_images
            assert loss == pytest.approx(single.judge(weights).loss, rel=1e-6)
            assert (loss == pytest.approx(everything.loss, rel=1e-6)) == ((split, num_images) == ("test", 1000))


@pytest.mark.mpi(ranks=[2], timeout=120)
def test_the_loss_of_a_linear_network_has_no_barrier_and_never_bends_down(mpi_ranks, comm):
    """Cross-entropy is convex in the logits, and these are linear in the weights."""
    source = images()
    channels, height, width = source.image_shape

    def linear(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(channels * height * width, source.num_classes))

    members = [Weights(Flat(linear(seed)).values.detach(), torch.zeros(0)) for seed in range(2)]
    survey = survey_of(source, start_mpi(), model=linear(9), reducer="horovod")
    assert not survey.recomputes
    basin = Basin(members.__getitem__, [0, 1], survey)
    for line in basin.lines(5):
        assert line.raw == line.recomputed
        assert line.raw.loss_barrier == pytest.approx(0, abs=1e-6)
    assert all(min(line.second_derivative) > 0 for line in basin.curvature())
    assert basin.plane(3) is None
    weights, direction = members[0], F.normalize(members[1].values - members[0].values, dim=0)
    batch = next(source.evaluate("test", Shard(), 1000))
    moves = batch.images.flatten(1) @ direction[: -source.num_classes].view(source.num_classes, -1).T
    moves = moves + direction[-source.num_classes :]
    split = [source.num_classes * channels * height * width, source.num_classes]
    matrix, bias = torch.split(weights.values, split)
    p = torch.softmax(batch.images.flatten(1) @ matrix.view(source.num_classes, -1).T + bias, dim=1)
    variance = (p * moves.square()).sum(dim=1) - (p * moves).sum(dim=1).square()  # of the logits' moves under p
    assert survey.curvature(weights, direction) == pytest.approx(float(variance.mean()), rel=1e-4)


@pytest.mark.mpi(ranks=[2], timeout=120)
def test_attention_has_a_curvature_weights_that_are_not_finite_have_none_and_no_rank_waits(mpi_ranks, comm):
    source = images()
    weights = member_of(source, 0)
    sick = Weights(torch.full_like(weights.values, torch.nan), weights.statistics)
    survey = survey_of(source, start_mpi(), num_images=1)  # one rank has none, and helps all the same
    assert survey.top_eigenvalues(sick, 2) == []
    assert len(survey.top_eigenvalues(weights, 1)) == 1

    class Attentive(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.head = nn.Linear(8, source.num_classes)

        def forward(self, pictures: torch.Tensor) -> torch.Tensor:
            tokens = pictures.mean(dim=1)
            attended, _ = self.attention(tokens, tokens, tokens, need_weights=False)
            logits: torch.Tensor = self.head(attended.mean(dim=1))
            return logits

    torch.manual_seed(0)
    values = Flat(Attentive()).values.detach()
    survey = survey_of(source, start_mpi(), model=Attentive())
    direction = F.normalize(torch.randn(values.shape), dim=0)

    def loss_at(step: float) -> float:
        return survey.judge(Weights(values + step * direction, torch.zeros(0))).loss

    bend = survey.curvature(Weights(values, torch.zeros(0)), direction)
    assert bend == pytest.approx((loss_at(0.1) - 2 * loss_at(0) + loss_at(-0.1)) / 0.1**2, rel=0.02, abs=1e-5)
