"""How good predictions are: from a tally, a vector of sums, so that batches of a data set and ranks just add up.

A prediction is one row of class log-probabilities: an image's, or those of the next token at one place of a text. Owns
what is counted and what the sums mean. Pure: no communication and no network.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Metric = Literal["accuracy", "perplexity"]
"""What a run is judged by first: images by accuracy, text by perplexity."""

NUM_BINS = 15  # of confidence, as in Guo et al. (arXiv 1706.04599)
TALLY_SIZE = 4 + NUM_BINS
_TOP = 5


@dataclass(frozen=True)
class Scores:
    """What a tally comes to; NaN where there were no predictions.

    Attributes:
        accuracy: share of predictions whose most probable class is right.
        top5: share of those in which the right class is among the five most probable; with five classes or fewer, all.
        nll: mean negative log-likelihood of the right class, in nats.
        calibration_error: expected calibration error: the mean over predictions of the distance between confidence
            and accuracy in their bin, over 15 bins of confidence of equal width.
    """

    accuracy: float
    top5: float
    nll: float
    calibration_error: float

    @property
    def perplexity(self) -> float:
        """exp(nll)."""
        return perplexity(self.nll)

    def by(self, metric: Metric) -> float:
        """The metric's value."""
        return self.accuracy if metric == "accuracy" else self.perplexity

    def merit(self, metric: Metric) -> float:
        """What is compared to find the best; higher is better, and what could not be judged is the worst."""
        merit = self.accuracy if metric == "accuracy" else -self.nll
        return -math.inf if math.isnan(merit) or math.isnan(self.nll) else merit


class RunningEnsemble:
    """What members say together, added one by one: sums over members are held and predicted classes, not all logits.

    The ensemble is made in both usual ways: from the mean of the members' logits, and from that of their probabilities.

    Attributes:
        num_members: how many have been added, the one in work included.
    """

    def __init__(self) -> None:
        self.num_members = 0
        self._num_differing: list[Tensor] = []  # int64 scalars, one a batch and pair of members
        self._logits: list[Tensor] = []  # [N, C] float32 a batch, summed over members
        self._log_probs: list[Tensor] = []  # [N, C] float32 a batch, the logarithm of the members' summed probabilities
        self._labels: list[Tensor] = []  # [N] int64 a batch
        self._classes: list[list[Tensor]] = []  # a batch, of each member [N] int32

    def add(self, batch: int, logits: Tensor, log_probs: Tensor, labels: Tensor) -> None:
        """Add what one member says to a batch; its batches come in order, 0, 1 ..., and after them the next member's.

        Args:
            batch: its number.
            logits: [N, C].
            log_probs: [N, C].
            labels: [N] int64.
        """
        self.num_members += batch == 0
        classes = log_probs.argmax(dim=1).int()
        if batch == len(self._logits):
            self._logits.append(logits.float())
            self._log_probs.append(log_probs.float())
            self._labels.append(labels)
            self._classes.append([])
        else:
            self._logits[batch] = self._logits[batch] + logits
            self._log_probs[batch] = torch.logaddexp(self._log_probs[batch], log_probs.float())
        self._num_differing += [(other != classes).sum() for other in self._classes[batch]]
        self._classes[batch].append(classes)

    @property
    def num_differing(self) -> int:
        """Over all pairs of members, predictions on which the two name different classes. Waits for the device."""
        return int(torch.stack(self._num_differing).sum()) if self._num_differing else 0

    def tallies(self) -> tuple[Tensor, Tensor]:
        """The tallies of the ensemble by mean logits and by mean probabilities, as of `add_up`."""
        batches = list(zip(self._logits, self._log_probs, self._labels, strict=True))
        by_logits = [tally(log_probabilities(logits / self.num_members), labels) for logits, _, labels in batches]
        log_members = math.log(max(self.num_members, 1))  # where no batch came, no member was counted
        by_probabilities = [tally(log_probs.double() - log_members, labels) for _, log_probs, labels in batches]
        return add_up(by_logits), add_up(by_probabilities)


def log_probabilities(logits: Tensor) -> Tensor:
    """[N, C] float64 of logits [N, C]."""
    return F.log_softmax(logits.double(), dim=1)


def tally(log_probs: Tensor, labels: Tensor) -> Tensor:
    """The sums over some predictions; those of several batches, or ranks, add up to those of all.

    Args:
        log_probs: [N, C] float64, N perhaps 0.
        labels: [N] int64, the right classes.

    Returns:
        [TALLY_SIZE] float64 on the same device: predictions, hits, hits among the top five, negative log-likelihood,
        and for each bin of confidence, (0, 1/15] ... (14/15, 1], its hits less its confidences.
    """
    log_confidence, best = log_probs.max(dim=1)
    confidence = log_confidence.exp()
    hits = (best == labels).double()
    top = log_probs.topk(min(_TOP, log_probs.shape[1]), dim=1).indices
    top_hits = (top == labels[:, None]).any(dim=1)
    nll = -log_probs.gather(1, labels[:, None])
    edges = torch.arange(1, NUM_BINS, dtype=torch.float64, device=labels.device) / NUM_BINS
    gaps = torch.zeros(NUM_BINS, dtype=torch.float64, device=labels.device)
    gaps.index_add_(0, torch.bucketize(confidence, edges), hits - confidence)
    count = gaps.new_tensor(float(labels.numel()))
    return torch.cat([torch.stack([count, hits.sum(), top_hits.double().sum(), nll.sum()]), gaps])


def add_up(tallies: Sequence[Tensor]) -> Tensor:
    """[TALLY_SIZE] float64 on the CPU, the tally of all batches, perhaps none. Waits for the device."""
    if not tallies:
        return torch.zeros(TALLY_SIZE, dtype=torch.float64)
    return torch.stack(list(tallies)).sum(dim=0).cpu()


def scores_of(sums: Tensor) -> Scores:
    """What a tally [TALLY_SIZE] comes to."""
    count, hits, top_hits, nll, *gaps = sums.tolist()
    if count == 0:
        return NO_SCORES
    return Scores(hits / count, top_hits / count, nll / count, sum(map(abs, gaps)) / count)


def mean_scores(many: Sequence[Scores]) -> Scores:
    """The mean of each score over some judged, at least one."""
    return Scores(*(sum(values) / len(many) for values in zip(*map(astuple, many), strict=True)))


def perplexity(nll: float) -> float:
    """exp(nll): among how many equally probable classes predictions are in doubt; infinite beyond a float's range."""
    return math.inf if nll > 709.0 else math.exp(nll)


NO_SCORES = Scores(math.nan, math.nan, math.nan, math.nan)
"""Of what could not be judged."""
