"""Judging members, their ensemble and their soups on the same images, each image once.

What is counted are predictions: one an image, or, where a model says a class for every token of a text, one a token.

Every rank judges all members on its own part of the images, fetching one member's weights at a time; so the ensemble
needs no communication per batch, and the same code serves a running job (weights come from the other ranks) and a
finished one (weights come from files). Owns no communication but sums of counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator

import torch
from torch import Tensor, nn

from wash_hpc.config import Config
from wash_hpc.data.source import Shard, Source, Split
from wash_hpc.ensemble.batchnorm import recompute_statistics
from wash_hpc.ensemble.flat import Flat, get_statistics, set_statistics
from wash_hpc.ensemble.judged import Evaluation, JudgedSoup, Merit
from wash_hpc.ensemble.repair import mean_of_channels, measure_channels, repair
from wash_hpc.ensemble.scores import (
    NO_SCORES,
    TALLY_SIZE,
    Metric,
    RunningEnsemble,
    Scores,
    add_up,
    log_probabilities,
    mean_scores,
    scores_of,
    tally,
)
from wash_hpc.ensemble.soup import RunningSoup, Weights, greedy_soup
from wash_hpc.errors import ConfigError, HealthError
from wash_hpc.parallel.reducer import Reducer, Scope

Fetch = Callable[[int], Weights]


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

    @property
    def metric(self) -> Metric:
        """What is looked at first: perplexity for text, accuracy for images."""
        return "perplexity" if len(self._source.image_shape) == 1 else "accuracy"

    def evaluate(self, fetch: Fetch, split: Split = "test", without: Collection[int] = ()) -> Evaluation:
        """Judge members, ensemble and uniform soup. Collective over the world. One member is in memory at a time.

        Args:
            fetch: gives a member's weights; called once a member, in order, on all ranks.
            split: which images.
            without: members to leave out, besides those whose weights are not finite.

        Raises:
            HealthError: no member has finite weights; on all ranks.
        """
        ensemble, soup = RunningEnsemble(), RunningSoup()
        tallies: list[Tensor] = []
        left_out: list[int] = []
        for member in range(self._num_members):
            weights = fetch(member)
            if member in without or not weights.are_finite:
                left_out.append(member)
            else:
                soup = soup.with_one_more(weights)
                self.load(weights)
                tallies.append(self._tally(split, ensemble))
            del weights  # the next is fetched beside none
        if not tallies:
            raise HealthError("no member has finite weights: there is nothing to judge; try a lower optimizer.lr")
        tallies += ensemble.tallies()
        self.load(soup.weights())
        tallies.append(self._tally(split))
        self._recompute_statistics()
        tallies.append(self._tally(split))
        num_differing = torch.tensor([float(ensemble.num_differing)], dtype=torch.float64)
        sums = self._sum(torch.cat([*tallies, num_differing]))
        *judged, by_logits, by_probabilities, raw, recomputed = map(scores_of, sums[:-1].view(-1, TALLY_SIZE))
        num_pairs = math.comb(len(judged), 2)
        of_judged = iter(judged)
        return Evaluation(
            members=[NO_SCORES if member in left_out else next(of_judged) for member in range(self._num_members)],
            scores={
                "member": mean_scores(judged),
                "best_member": max(judged, key=lambda scores: scores.merit(self.metric)),
                "ensemble": by_logits,
                "ensemble_probabilities": by_probabilities,
                "soup": recomputed,
                "soup_raw": raw,
            },
            disagreement=float(sums[-1] / (num_pairs * sums[0])) if num_pairs else math.nan,
            soup=self._weights(),
            # Images that could not be decoded are not in the tally (data.on_bad_file=skip).
            num_images=int(sums[0]) if self.metric == "accuracy" else self._source.num_images(split),
            left_out=left_out,
        )

    def merit(self, evaluation: Evaluation) -> Merit:
        """How good the uniform soup of an evaluation of the test images is: by held-out images where there are some.

        Collective over the world.
        """
        scores, split = evaluation.scores["soup"], "test"
        if self.can_be_greedy:
            scores, split = self._scores_of(evaluation.soup, "held_out", recompute=False), "held_out"
        by = "accuracy" if self.metric == "accuracy" else "likelihood"
        return Merit(scores.merit(self.metric), f"{by} on {split}")

    def greedy(self, fetch: Fetch, without: Collection[int] = (), split: Split = "test") -> JudgedSoup:
        """Choose a greedy soup on the held-out images and judge it. Collective over the world.

        Members are compared by held-out accuracy, or, for text, by held-out likelihood. One is in memory at a time.

        Args:
            fetch: gives a member's weights; called with the same members in the same order on all ranks.
            without: members to leave out, besides those whose weights are not finite.
            split: by which images the soup is judged once it has been chosen.

        Raises:
            ConfigError: there are no held-out images.
            HealthError: no member has finite weights; on all ranks.
        """
        self.require_held_out()
        merits: dict[int, float] = {}
        for member in range(self._num_members):
            weights = fetch(member)
            if member not in without and weights.are_finite:
                merits[member] = self._scores_of(weights, "held_out", recompute=False).merit(self.metric)
            del weights  # the next is fetched beside none
        if not merits:
            raise _nothing_to_average()
        order = sorted(merits, key=lambda member: (-merits[member], member))
        members, weights = greedy_soup(
            order, fetch, lambda soup: self._scores_of(soup, "held_out", recompute=True).merit(self.metric)
        )
        scores = self._scores_of(weights, split, recompute=True)
        return JudgedSoup(members, scores, self._weights())

    def averages(self, fetch: Fetch, without: Collection[int] = ()) -> tuple[Scores, Scores] | None:
        """Judge each member's average over steps on the test images, and the soup of all of them.

        Collective over the world. Statistics are recomputed on training images for each; one is in memory at a time.

        Args:
            fetch: gives the weights of a member's average; called once a member, in order, on all ranks.
            without: members to leave out, besides those whose average is not finite.

        Returns:
            The mean over members, and the soup's; None if there is no average to judge.
        """
        soup, judged = RunningSoup(), []
        for member in range(self._num_members):
            weights = fetch(member)
            if member not in without and weights.are_finite:
                soup = soup.with_one_more(weights)
                judged.append(self._scores_of(weights, "test", recompute=True))
            del weights  # the next is fetched beside none
        return (mean_scores(judged), self._scores_of(soup.weights(), "test", recompute=True)) if judged else None

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
            del weights  # the next is fetched beside none
        if not channels:
            raise _nothing_to_average()
        self.load(soup.weights())
        repair(self.model, mean_of_channels(list(channels.values())), self._statistics_images, self._sum)
        scores = scores_of(self._sum(self._tally("test")))
        return JudgedSoup(list(channels), scores, self._weights())

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

    def _scores_of(self, weights: Weights, split: Split, recompute: bool) -> Scores:
        self.load(weights)
        if recompute:
            self._recompute_statistics()
        return scores_of(self._sum(self._tally(split)))

    def _tally(self, split: Split, ensemble: RunningEnsemble | None = None) -> Tensor:
        """[TALLY_SIZE] float64 of the loaded weights on this rank's images, which are also added to an ensemble."""
        tallies = []
        for number, (logits, labels) in enumerate(self._predict(split)):
            log_probs = log_probabilities(logits)
            tallies.append(tally(log_probs, labels))
            if ensemble is not None:
                ensemble.add(number, logits, log_probs, labels)
        return add_up(tallies)

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
    def _predict(self, split: Split) -> Iterator[tuple[Tensor, Tensor]]:
        """Logits [N, num_classes] float32 and labels [N] int64 of this rank's images, batch by batch."""
        for batch in self._source.evaluate(split, self._shard, self._config.evaluate.batch_size):
            yield self.model(batch.images).float().flatten(end_dim=-2), batch.labels.flatten()

    def _weights(self) -> Weights:
        return Weights(self._flat.values.detach().clone(), get_statistics(self.model))


def _nothing_to_average() -> HealthError:
    return HealthError("no member has finite weights: there is nothing to average; try a lower optimizer.lr")
