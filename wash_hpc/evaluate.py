"""Judging members, their ensemble and their soups on the same images, each image once.

What is counted are predictions: one an image, or, where a model says a class for every token of a text, one a token.

Every rank judges all members on its own part of the images, fetching one member's weights at a time; so the ensemble
needs no communication per batch, and the same code serves a running job (weights come from the other ranks) and a
finished one (weights come from files). Owns no communication but sums of counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wash_hpc.config import Config
from wash_hpc.data.source import Shard, Source, Split
from wash_hpc.ensemble.batchnorm import recompute_statistics
from wash_hpc.ensemble.flat import Flat, get_statistics, set_statistics
from wash_hpc.ensemble.repair import mean_of_channels, measure_channels, repair
from wash_hpc.ensemble.soup import RunningSoup, Weights, greedy_soup
from wash_hpc.errors import ConfigError, HealthError
from wash_hpc.parallel.reducer import Reducer, Scope

Fetch = Callable[[int], Weights]


@dataclass(frozen=True)
class Evaluation:
    """Accuracies, as fractions of the predictions on one split; equal on all ranks.

    Attributes:
        member_accuracy: one a member; NaN for those left out.
        ensemble_accuracy: of the mean of the members' logits.
        soup_accuracy: of the mean of the members' weights, statistics recomputed on training images.
        soup_accuracy_raw: the same with the mean of the members' statistics.
        soup: the weights of that soup, statistics recomputed.
        num_images: images in the split.
        left_out: members that were to be, or whose weights are not all finite; in neither the ensemble nor the soup.
    """

    member_accuracy: list[float]
    ensemble_accuracy: float
    soup_accuracy: float
    soup_accuracy_raw: float
    soup: Weights
    num_images: int
    left_out: list[int]


@dataclass(frozen=True)
class JudgedSoup:
    """A soup made in some other way than by averaging all there is.

    Attributes:
        members: those in it, in the order in which they were added.
        accuracy: on the test images, statistics recomputed.
        weights: of the soup.
    """

    members: list[int]
    accuracy: float
    weights: Weights


class Evaluator:
    """Judges weights with a model of its own, so that a model in training is never touched.

    Args:
        config: the run's configuration.
        source: the images.
        model: a network of the run's architecture on the source's device; its weights are overwritten.
        num_members: M.
        shard: this rank's part of the images.
        reducer: sums over all ranks.
    """

    def __init__(
        self, config: Config, source: Source, model: nn.Module, num_members: int, shard: Shard, reducer: Reducer
    ) -> None:
        self.model = model
        self._flat = Flat(model)
        self._config = config
        self._source = source
        self._num_members = num_members
        self._shard = shard
        self._reducer = reducer

    @property
    def can_be_greedy(self) -> bool:
        """Whether there are held-out images to choose a greedy soup by."""
        return self._source.num_images("held_out") > 0

    def evaluate(self, fetch: Fetch, split: Split = "test", without: Collection[int] = ()) -> Evaluation:
        """Judge members, ensemble and uniform soup. Collective over the world.

        Args:
            fetch: gives a member's weights; called once a member, in order, on all ranks.
            split: which images.
            without: members to leave out, besides those whose weights are not finite.

        Raises:
            HealthError: no member has finite weights; on all ranks.
        """
        ensemble_logits: Tensor | None = None
        counts: list[Tensor] = []
        left_out: list[int] = []
        soup = RunningSoup()
        for member in range(self._num_members):
            weights = fetch(member)
            if member in without or not weights.are_finite:
                left_out.append(member)
                continue
            soup = soup.with_one_more(weights)
            self.load(weights)
            logits, labels = self._predict(split)
            counts.append(_num_correct(logits, labels))
            ensemble_logits = logits if ensemble_logits is None else ensemble_logits + logits
        if ensemble_logits is None:
            raise HealthError("no member has finite weights: there is nothing to judge; try a lower optimizer.lr")
        counts.append(_num_correct(ensemble_logits, labels))
        self.load(soup.weights())
        counts.append(_num_correct(*self._predict(split)))
        self._recompute_statistics()
        counts.append(_num_correct(*self._predict(split)))
        *judged, ensemble, raw, recomputed = self._as_fractions(counts, len(labels))
        of_judged = iter(judged)
        members = [math.nan if member in left_out else next(of_judged) for member in range(self._num_members)]
        num_images = self._source.num_images(split)
        return Evaluation(members, ensemble, recomputed, raw, self._weights(), num_images, left_out)

    def greedy(self, fetch: Fetch, without: Collection[int] = ()) -> JudgedSoup:
        """Make a greedy soup on the held-out images and judge it on the test images. Collective over the world.

        Args:
            fetch: gives a member's weights; called with the same members in the same order on all ranks.
            without: members to leave out, besides those whose weights are not finite.

        Raises:
            ConfigError: there are no held-out images.
        """
        self.require_held_out()
        scores: dict[int, float] = {}
        for member in range(self._num_members):
            weights = fetch(member)
            if member not in without and weights.are_finite:
                scores[member] = self._accuracy_of(weights, "held_out", recompute=False)
        order = sorted(scores, key=lambda member: (-scores[member], member))
        members, weights = greedy_soup(order, fetch, lambda soup: self._accuracy_of(soup, "held_out", recompute=True))
        accuracy = self._accuracy_of(weights, "test", recompute=True)
        return JudgedSoup(members, accuracy, self._weights())

    def repaired(self, fetch: Fetch) -> JudgedSoup:
        """Average the members, REPAIR the soup on training images and judge it on the test images.

        Collective over the world. Holds one member at a time beside the soup; leaves out those that are not finite.

        Args:
            fetch: gives a member's weights; called once a member, in order, on all ranks.

        Raises:
            HealthError: no member has finite weights; on all ranks.
        """
        soup, channels = RunningSoup(), {}
        for member in range(self._num_members):
            weights = fetch(member)
            if weights.are_finite:
                soup = soup.with_one_more(weights)
                self.load(weights)
                channels[member] = measure_channels(self.model, self._statistics_images(), self._sum)
        if not channels:
            raise HealthError("no member has finite weights: there is nothing to average; try a lower optimizer.lr")
        self.load(soup.weights())
        repair(self.model, mean_of_channels(list(channels.values())), self._statistics_images, self._sum)
        accuracy = self._accuracy("test")
        return JudgedSoup(list(channels), accuracy, self._weights())

    def require_held_out(self) -> None:
        """Refuse where there are no held-out images.

        Raises:
            ConfigError: naming the key.
        """
        if not self.can_be_greedy:
            raise ConfigError("data.held_out=0: a greedy soup needs held-out images to choose its members by")

    def load(self, weights: Weights) -> None:
        """Put weights into the evaluator's model."""
        with torch.no_grad():
            self._flat.values.copy_(weights.values)
            set_statistics(self.model, weights.statistics)
            for buffer in self.model.buffers():
                if buffer.dtype == torch.int64 and buffer.dim() == 0:
                    buffer.zero_()  # batches seen by a normalisation layer: of a soup, none
        self.model.eval()

    def _accuracy_of(self, weights: Weights, split: Split, recompute: bool) -> float:
        self.load(weights)
        if recompute:
            self._recompute_statistics()
        return self._accuracy(split)

    def _accuracy(self, split: Split) -> float:
        """Of the loaded weights."""
        logits, labels = self._predict(split)
        return self._as_fractions([_num_correct(logits, labels)], len(labels))[0]

    def _recompute_statistics(self) -> None:
        recompute_statistics(self.model, self._statistics_images(), self._sum)

    def _statistics_images(self) -> Iterator[Tensor]:
        """This rank's part of the training images by which statistics are measured, batch by batch."""
        evaluate = self._config.evaluate
        for batch in self._source.statistics(evaluate.statistics_images, self._shard, evaluate.batch_size):
            yield batch.images

    def _sum(self, sums: Tensor) -> Tensor:
        return self._reducer.sum_(sums, Scope.WORLD)

    @torch.no_grad()
    def _predict(self, split: Split) -> tuple[Tensor, Tensor]:
        """Logits [N, num_classes] float32 and labels [N] int64 of this rank's N predictions, perhaps none."""
        logits = [torch.zeros(0, self._source.num_classes, device=self._flat.values.device)]
        labels = [torch.zeros(0, dtype=torch.int64, device=self._flat.values.device)]
        for batch in self._source.evaluate(split, self._shard, self._config.evaluate.batch_size):
            logits.append(self.model(batch.images).float().flatten(end_dim=-2))
            labels.append(batch.labels.flatten())
        return torch.cat(logits), torch.cat(labels)

    def _as_fractions(self, counts: list[Tensor], num_predictions: int) -> list[float]:
        """Counts of this rank as fractions of all ranks' predictions; this rank has made `num_predictions`."""
        here = torch.cat([torch.stack(counts).cpu(), torch.tensor([num_predictions])])
        *summed, total = self._reducer.sum_(here, Scope.WORLD).tolist()
        return [count / total for count in summed]

    def _weights(self) -> Weights:
        return Weights(self._flat.values.detach().clone(), get_statistics(self.model))


def _num_correct(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits.argmax(dim=1) == labels).sum()
