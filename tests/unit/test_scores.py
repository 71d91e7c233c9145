"""Scores against slow loops, torch and scikit-learn; tallies add up however predictions are divided."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, log_loss, top_k_accuracy_score
from torch import Tensor
from torch.nn import functional as F

from wash_hpc.ensemble.scores import (
    NO_SCORES,
    NUM_BINS,
    RunningEnsemble,
    Scores,
    add_up,
    log_probabilities,
    mean_scores,
    perplexity,
    scores_of,
    tally,
)


def predictions(seed: int, count: int = 200, num_classes: int = 7, sharpness: float = 2.0) -> tuple[Tensor, Tensor]:
    """Logits [count, num_classes] that know something of the labels [count]."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(num_classes, (count,), generator=generator)
    logits = sharpness * torch.randn(count, num_classes, generator=generator)
    return logits + sharpness * F.one_hot(labels, num_classes), labels


def scores(logits: Tensor, labels: Tensor) -> Scores:
    return scores_of(tally(log_probabilities(logits), labels))


def slow_calibration_error(probabilities: Tensor, labels: Tensor) -> float:
    """Guo et al., equation 3, bin by bin."""
    error = 0.0
    for number in range(NUM_BINS):
        inside = [
            (float(row.max()), int(row.argmax()) == int(label))
            for row, label in zip(probabilities, labels, strict=True)
            if number / NUM_BINS < float(row.max()) <= (number + 1) / NUM_BINS
        ]
        if inside:
            confidence = sum(confidence for confidence, _ in inside) / len(inside)
            accuracy = sum(hit for _, hit in inside) / len(inside)
            error += len(inside) / len(labels) * abs(accuracy - confidence)
    return error


@given(st.integers(0, 1000), st.integers(1, 60), st.integers(2, 12), st.floats(0.01, 30))
def test_scores_equal_those_of_scikit_learn_of_torch_and_of_a_slow_loop(seed, count, num_classes, sharpness):
    logits, labels = predictions(seed, count, num_classes, sharpness)
    found = scores(logits, labels)
    probabilities = logits.double().softmax(dim=1)
    classes = list(range(num_classes))
    assert found.accuracy == pytest.approx(accuracy_score(labels, logits.argmax(dim=1)))
    assert found.nll == pytest.approx(float(F.cross_entropy(logits.double(), labels)), abs=1e-12)
    if sharpness < 5:  # scikit-learn keeps probabilities away from 0
        assert found.nll == pytest.approx(log_loss(labels, probabilities, labels=classes))
    if num_classes > 5:
        assert found.top5 == pytest.approx(top_k_accuracy_score(labels, logits.double(), k=5, labels=classes))
    else:
        assert found.top5 == 1.0
    assert found.calibration_error == pytest.approx(slow_calibration_error(probabilities, labels), abs=1e-12)
    assert found.perplexity == pytest.approx(math.exp(found.nll))


def test_confidences_on_an_edge_belong_to_the_bin_below_it():
    """Half right at full confidence, and all right at exactly 1/3: no bin may mix the two."""
    sure = torch.tensor([[0.0, -math.inf, -math.inf]], dtype=torch.float64).repeat(4, 1)
    third = torch.full((2, 3), 1 / 3, dtype=torch.float64).log()
    found = scores_of(tally(torch.cat([sure, third]), torch.tensor([0, 0, 0, 0, 0, 0])))
    assert found.calibration_error == pytest.approx((4 * 0 + 2 * (1 - 1 / 3)) / 6)
    wrong = tally(sure, torch.tensor([0, 0, 1, 1]))
    assert scores_of(wrong).calibration_error == pytest.approx(0.5)
    assert math.isinf(scores_of(wrong).nll)


@given(st.integers(0, 1000), st.lists(st.integers(0, 30), min_size=1, max_size=5))
def test_tallies_of_parts_add_up_to_that_of_the_whole(seed, sizes):
    logits, labels = predictions(seed, sum(sizes) + 1)
    parts = zip(torch.split(logits, [*sizes, 1]), torch.split(labels, [*sizes, 1]), strict=True)
    summed = add_up([tally(log_probabilities(part), of_part) for part, of_part in parts])
    whole = tally(log_probabilities(logits), labels)
    assert torch.equal(summed[:3], whole[:3])  # counts, to the last one
    assert torch.allclose(summed, whole, rtol=1e-13, atol=1e-12)


def test_nothing_that_was_predicted_has_no_scores():
    assert all(
        math.isnan(value) for value in vars(scores(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))).values()
    )
    assert all(math.isnan(value) for value in vars(scores_of(add_up([]))).values())
    assert all(math.isnan(value) for value in vars(scores_of(RunningEnsemble().tallies()[0])).values())
    assert math.isnan(perplexity(math.nan))
    assert math.isinf(perplexity(1e4))


def test_the_metric_of_images_is_accuracy_and_of_text_perplexity_and_better_has_more_merit():
    good, bad = Scores(0.9, 1.0, 0.2, 0.0), Scores(0.8, 1.0, 0.1, 0.0)
    assert (good.by("accuracy"), good.by("perplexity")) == (0.9, math.exp(0.2))
    assert good.merit("accuracy") > bad.merit("accuracy")
    assert good.merit("perplexity") < bad.merit("perplexity")
    assert max([NO_SCORES, bad, good], key=lambda it: it.merit("perplexity")) == bad
    assert max([NO_SCORES, bad, good], key=lambda it: it.merit("accuracy")) == good
    overflows = Scores(0.95, 1.0, math.nan, 0.0)  # on one image
    assert max([overflows, bad, good], key=lambda it: it.merit("accuracy")) == good
    assert mean_scores([good, bad]) == Scores(*np.mean([[0.9, 1.0, 0.2, 0.0], [0.8, 1.0, 0.1, 0.0]], axis=0))


@pytest.mark.parametrize("num_members", [1, 2, 4])
@pytest.mark.parametrize("batch_size", [1, 64, 200])
def test_a_running_ensemble_is_that_of_all_predictions_at_once(num_members, batch_size):
    said = [predictions(seed)[0] for seed in range(num_members)]
    labels = predictions(0)[1]
    ensemble = RunningEnsemble()
    for logits in said:
        parts = zip(torch.split(logits, batch_size), torch.split(labels, batch_size), strict=True)
        for batch, (part, of_part) in enumerate(parts):
            ensemble.add(batch, part, log_probabilities(part), of_part)
    by_logits, by_probabilities = map(scores_of, ensemble.tallies())
    together = torch.stack(said).double()
    expected = scores(together.mean(dim=0), labels)
    assert vars(by_logits) == pytest.approx(vars(expected), abs=1e-6)
    expected = scores(together.softmax(dim=2).mean(dim=0).log(), labels)
    assert vars(by_probabilities) == pytest.approx(vars(expected), abs=1e-6)
    differing = sum(
        int(said[one][row].argmax() != said[other][row].argmax())
        for one in range(num_members)
        for other in range(one)
        for row in range(len(labels))
    )
    assert (ensemble.num_differing, ensemble.num_members) == (differing, num_members)
