"""Judging: every image once on any number of ranks, equal to a plain loop in one process."""

from __future__ import annotations

import math
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from dataclasses import astuple
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from mpi4py import MPI

from tests.support import tiny_config
from wash_hpc.data import open_source
from wash_hpc.data.source import Batch, Shard, Source
from wash_hpc.ensemble.flat import Flat, get_statistics, set_statistics
from wash_hpc.ensemble.soup import Weights
from wash_hpc.evaluate import Evaluator
from wash_hpc.models import build_model
from wash_hpc.parallel.mpi_reducer import MPIReducer
from wash_hpc.parallel.reducer import Scope, reducer_class
from wash_hpc.parallel.world import World, start_mpi

CPU = torch.device("cpu")
NUM_MEMBERS = 3


def model_of(source: Source, seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    return build_model("resnet_small", source.image_shape, source.num_classes, 4)


def members_of(source: Source) -> list[Weights]:
    """Members with parameters of their own and statistics that fit them."""
    members = []
    for seed in range(NUM_MEMBERS):
        model = model_of(source, seed)
        flat = Flat(model)
        for batch in source.statistics(32, Shard(), 16):
            model(batch.images)
        members.append(Weights(flat.values.detach().clone(), get_statistics(model)))
    return members


def logits_of(source: Source, weights: Weights) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and labels of all test images, the plain way."""
    model = model_of(source, 0)
    with torch.no_grad():
        Flat(model).values.copy_(weights.values)
        set_statistics(model, weights.statistics)
        model.eval()
        batches = list(source.evaluate("test", Shard(), 7))
        return torch.cat([model(batch.images) for batch in batches]), torch.cat([batch.labels for batch in batches])


def mean_of(members: list[Weights]) -> Weights:
    values = torch.stack([weights.values.double() for weights in members]).mean(dim=0)
    return Weights(values.float(), torch.stack([weights.statistics for weights in members]).mean(dim=0))


def scores_of_logits(logits: torch.Tensor, labels: torch.Tensor) -> list[float]:
    """Accuracy, top-5 accuracy, likelihood and calibration error, image by image, the plain way."""
    num_hits = num_top_hits = nll = 0.0
    bins: dict[int, list[float]] = {}
    for row, label in zip(logits.double().softmax(dim=1).tolist(), labels.tolist(), strict=True):
        best = sorted(range(len(row)), key=lambda label: -row[label])
        num_hits += best[0] == label
        num_top_hits += label in best[:5]
        nll -= math.log(row[label])
        bins.setdefault(math.ceil(15 * max(row)), []).append((best[0] == label) - max(row))
    count = len(labels)
    error = sum(abs(sum(gaps)) for gaps in bins.values())
    return [num_hits / count, num_top_hits / count, nll / count, error / count]


def check_against_the_plain_way(source: Source, batch_size: int, comm) -> None:
    world = World.open(start_mpi(), None)
    reducer = reducer_class("mpi")(world)
    members = members_of(source)
    config = tiny_config(f"evaluate.batch_size={batch_size}")
    evaluator = Evaluator(config, source, model_of(source, 9), NUM_MEMBERS, Shard(comm.rank, comm.size), reducer)
    evaluation = evaluator.evaluate(lambda member: members[member])

    logits, labels = zip(*(logits_of(source, weights) for weights in members), strict=True)
    together = torch.stack(logits).double()
    expected = {
        "member": np.mean([scores_of_logits(each, labels[0]) for each in logits], axis=0),
        "ensemble": scores_of_logits(together.mean(dim=0), labels[0]),
        "ensemble_probabilities": scores_of_logits(together.softmax(dim=2).mean(dim=0).log(), labels[0]),
        "soup_raw": scores_of_logits(*logits_of(source, mean_of(members))),
        "soup": scores_of_logits(*logits_of(source, evaluation.soup)),
    }
    for name, values in expected.items():
        assert astuple(evaluation.scores[name]) == pytest.approx(values, abs=1e-5), name
        assert evaluation.scores[name].accuracy == pytest.approx(values[0], abs=1e-12), name
    by_hand = [astuple(evaluation.members[member]) for member in range(NUM_MEMBERS)]
    assert by_hand == [pytest.approx(scores_of_logits(each, labels[0]), abs=1e-5) for each in logits]
    assert evaluation.scores["best_member"].accuracy == max(evaluation.member_accuracy)
    classes = [each.argmax(dim=1).tolist() for each in logits]
    differing = [np.mean([a != b for a, b in zip(*pair, strict=True)]) for pair in combinations(classes, 2)]
    assert evaluation.disagreement == pytest.approx(np.mean(differing), abs=1e-12)
    assert evaluation.num_images == len(labels[0]) == source.num_images("test")
    everywhere = comm.allgather((evaluation.scores, evaluation.soup.statistics.numpy().tobytes()))
    assert everywhere == [everywhere[0]] * comm.size
    seen = torch.zeros(1, dtype=torch.int64)
    for batch in source.evaluate("test", Shard(comm.rank, comm.size), batch_size):
        seen += len(batch.labels)
    assert int(reducer.sum_(seen, Scope.WORLD)) == source.num_images("test")


@pytest.mark.mpi(ranks=[1, 2, 3, 4], timeout=120)
def test_evaluation_equals_a_plain_loop_for_images_in_memory(mpi_ranks, comm):
    source = open_source(tiny_config("data.num_images=203"), CPU)
    for batch_size in (1, 16, 1000):
        check_against_the_plain_way(source, batch_size, comm)


@pytest.mark.mpi(ranks=[1, 3], timeout=180)
def test_evaluation_equals_a_plain_loop_for_files_read_by_dali(mpi_ranks, comm, tmp_path):
    folder = Path(comm.bcast(str(tmp_path))) / "digits"
    if comm.rank == 0:
        subprocess.run([sys.executable, "tools/make_dataset.py", "digits", str(folder)], check=True)
    comm.Barrier()
    shape = ["data.name=image_folder", f"data.path={folder}", "data.image_size=16", "data.resize=16", "data.workers=1"]
    check_against_the_plain_way(open_source(tiny_config(*shape), CPU), 64, comm)


class Texts:
    """Windows of five tokens, each token followed by the next; as much of a source as judging looks at."""

    num_classes = 6
    image_shape = (5,)

    def __init__(self, num_windows: int) -> None:
        self.tokens = torch.randint(6, (num_windows, 6), generator=torch.Generator().manual_seed(3))

    def num_images(self, split: str) -> int:
        return len(self.tokens)

    def evaluate(self, split: str, shard: Shard, batch_size: int) -> Iterator[Batch]:
        mine = shard.of(len(self.tokens))
        for rows in torch.split(self.tokens[mine.start : mine.stop], batch_size):
            if len(rows):
                yield Batch(rows[:, :-1], rows[:, 1:])

    def statistics(self, num_images: int, shard: Shard, batch_size: int) -> Iterator[Batch]:
        return self.evaluate("test", shard, batch_size)


@pytest.mark.mpi(ranks=[1, 2, 3, 4], timeout=120)
def test_a_network_that_says_the_next_token_is_judged_by_every_token(mpi_ranks, comm):
    for num_windows in (7, 2):  # of two, some ranks have none
        judge_every_token(comm, num_windows)


def judge_every_token(comm, num_windows: int) -> None:
    texts = Texts(num_windows)
    networks = [torch.nn.Embedding.from_pretrained(torch.randn(6, 6), freeze=False) for _ in range(NUM_MEMBERS)]
    members = [Weights(comm.bcast(Flat(network).values.detach()), torch.zeros(0)) for network in networks]
    reducer = reducer_class("mpi")(World.open(start_mpi(), None))
    shard = Shard(comm.rank, comm.size)
    evaluator = Evaluator(tiny_config(), texts, networks[0], NUM_MEMBERS, shard, reducer)
    evaluation = evaluator.evaluate(members.__getitem__)
    batch = next(texts.evaluate("test", Shard(), num_windows))
    labels = batch.labels.flatten()
    for scores, member in zip(evaluation.members, members, strict=True):
        expected = scores_of_logits(member.values.view(6, 6)[batch.images.flatten()], labels)
        assert astuple(scores) == pytest.approx(expected, abs=1e-6)
        assert scores.perplexity == pytest.approx(math.exp(expected[2]), abs=1e-5)
    assert evaluator.metric == "perplexity"
    assert evaluation.scores["best_member"].nll == min(scores.nll for scores in evaluation.members)


@pytest.mark.mpi(ranks=[1, 2], timeout=120)
def test_a_greedy_soup_of_texts_is_chosen_by_likelihood_not_by_accuracy(mpi_ranks, comm):
    """Two members that are always right, one of them hardly sure: together less likely than the sure one alone."""
    texts = Texts(7)
    texts.tokens = torch.arange(7)[:, None].add(torch.arange(6)).remainder(6)
    right = torch.eye(6).roll(1, dims=1).flatten()
    members = [Weights(sharpness * right, torch.zeros(0)) for sharpness in (0.1, 9.0, 3.0)]
    model = torch.nn.Embedding.from_pretrained(torch.zeros(6, 6), freeze=False)
    reducer = reducer_class("mpi")(World.open(start_mpi(), None))
    evaluator = Evaluator(tiny_config(), texts, model, NUM_MEMBERS, Shard(comm.rank, comm.size), reducer)
    assert evaluator.evaluate(members.__getitem__).member_accuracy == [1.0, 1.0, 1.0]
    assert evaluator.greedy(members.__getitem__).members == [1]


class LentOnce:
    """Gives members' weights, each new, and counts how many that it gave are alive; as one more is asked for."""

    def __init__(self, members: list[Weights]) -> None:
        self._members = members
        self._given: list[weakref.ref[torch.Tensor]] = []
        self.most_alive = 0
        self.num_given = 0

    def __call__(self, member: int) -> Weights:
        self.most_alive = max(self.most_alive, sum(ref() is not None for ref in self._given))
        weights = Weights(self._members[member].values.clone(), self._members[member].statistics.clone())
        self._given = [weakref.ref(weights.values)]
        self.num_given += 1
        return weights


@pytest.mark.mpi(ranks=[1, 2], timeout=120)
def test_no_member_is_fetched_while_another_is_in_memory(mpi_ranks, comm):
    source = open_source(tiny_config("data.num_images=64"), CPU)
    members = members_of(source)
    shard = Shard(comm.rank, comm.size)
    reducer = reducer_class("mpi")(World.open(start_mpi(), None))
    evaluator = Evaluator(tiny_config(), source, model_of(source, 9), NUM_MEMBERS, shard, reducer)
    ways: list[Callable[[LentOnce], object]] = [
        evaluator.evaluate,
        evaluator.greedy,
        evaluator.averages,
        evaluator.repaired,
    ]
    for way in ways:
        fetch = LentOnce(members)
        way(fetch)
        assert fetch.num_given >= NUM_MEMBERS
        assert fetch.most_alive == 0, way


@pytest.mark.mpi(ranks=[1, 3], timeout=120)
def test_averages_are_judged_with_recomputed_statistics_and_so_is_their_soup(mpi_ranks, comm):
    source = open_source(tiny_config("data.num_images=200"), CPU)
    members = members_of(source)
    shard = Shard(comm.rank, comm.size)
    reducer = reducer_class("mpi")(World.open(start_mpi(), None))
    evaluator = Evaluator(tiny_config(), source, model_of(source, 9), NUM_MEMBERS, shard, reducer)
    strangers = [Weights(weights.values, torch.ones_like(weights.statistics)) for weights in members]
    judged = evaluator.averages(strangers.__getitem__)
    assert judged is not None
    one_by_one = [evaluator.averages(lambda _, weights=weights: weights) for weights in members]
    alone = [scores[0].accuracy for scores in one_by_one if scores is not None]
    assert judged[0].accuracy == pytest.approx(np.mean(alone), abs=1e-12)
    assert judged[1] == evaluator.evaluate(members.__getitem__).scores["soup"]
    assert evaluator.averages(members.__getitem__, without=range(NUM_MEMBERS)) is None


@pytest.mark.mpi(ranks=[1, 2], timeout=120)
def test_greedy_soup_is_chosen_on_held_out_images_and_equal_on_all_ranks(mpi_ranks, comm):
    source = open_source(tiny_config("data.num_images=200"), CPU)
    members = members_of(source)
    world = World.open(start_mpi(), None)
    config = tiny_config()
    shard = Shard(comm.rank, comm.size)
    evaluator = Evaluator(config, source, model_of(source, 9), NUM_MEMBERS, shard, reducer_class("mpi")(world))
    held_out = evaluator.evaluate(lambda member: members[member], "held_out").member_accuracy
    greedy = evaluator.greedy(lambda member: members[member])
    assert greedy.members[0] == held_out.index(max(held_out))
    assert len(set(greedy.members)) == len(greedy.members)
    assert len(set(comm.allgather((tuple(greedy.members), greedy.scores.accuracy)))) == 1


@pytest.mark.mpi(ranks=[1, 2, 3], timeout=120)
def test_a_repaired_soup_is_equal_on_all_ranks_and_as_good_as_on_one(mpi_ranks, comm):
    for name in ("mlp", "resnet_small"):
        repair_on_all_ranks_and_on_one(comm, name)


def repair_on_all_ranks_and_on_one(comm, name: str) -> None:
    source = open_source(tiny_config("data.num_images=200"), CPU)

    def make(seed: int) -> torch.nn.Module:
        torch.manual_seed(seed)
        return build_model(name, source.image_shape, source.num_classes, 4)

    def fetch(member: int) -> Weights:
        model = make(member)
        flat = Flat(model)
        return Weights(flat.values.detach(), get_statistics(model))

    world = World.open(start_mpi(), None)
    alone = World.open(MPI.COMM_SELF, None)
    batch = ["evaluate.batch_size=128", "evaluate.statistics_images=128"]
    soups = [
        Evaluator(
            tiny_config(*batch), source, make(9), NUM_MEMBERS, Shard(where.comm.rank, where.comm.size), reducer
        ).repaired(fetch)
        for where, reducer in ((world, MPIReducer(world)), (alone, MPIReducer(alone)))
    ]
    assert len(set(comm.allgather((soups[0].scores.accuracy, soups[0].weights.values.numpy().tobytes())))) == 1
    assert soups[0].members == list(range(NUM_MEMBERS))
    sick = Weights(torch.full_like(fetch(0).values, torch.nan), fetch(0).statistics)
    evaluator = Evaluator(tiny_config(*batch), source, make(9), 2, Shard(comm.rank, comm.size), MPIReducer(world))
    assert evaluator.repaired([fetch(0), sick].__getitem__).members == [0]
    # On several ranks each corrects by batches of its own, which differ a little from the one batch of all images.
    apart = (soups[0].weights.values - soups[1].weights.values).norm() / soups[1].weights.values.norm()
    assert float(apart) < (1e-12 if comm.size == 1 else 0.1)
