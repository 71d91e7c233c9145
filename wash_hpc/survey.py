"""What any point of weight space is like: loss, accuracy, curvature, on the same images each time, on all ranks.

Every rank holds its part of the images in memory, because they are looked at again at each of some hundred points.
Owns which images those are; which points are looked at is `landscape`'s. Communicates by sums, and by the broadcast of
one vector at a time while the root looks for eigenvalues.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from wash_hpc.config import Config
from wash_hpc.data.source import Batch, Shard, Source
from wash_hpc.ensemble.batchnorm import has_batch_statistics, recompute_statistics
from wash_hpc.ensemble.curvature import Vector, hessian_times, top_eigenvalues
from wash_hpc.ensemble.flat import get_statistics, trainable_parameters
from wash_hpc.ensemble.landscape import Judgement, dot
from wash_hpc.ensemble.soup import Weights
from wash_hpc.errors import DataError
from wash_hpc.evaluate import Evaluator
from wash_hpc.parallel.reducer import Reducer, Scope
from wash_hpc.seeds import Stream, generator

SurveySplit = Literal["test", "held_out", "train"]


class Survey:
    """Looks at points of weight space. Every method is collective over the world; making one is not.

    Args:
        config: the run's configuration; the `evaluate` section and `data.name` are read.
        source: the images.
        evaluator: its model is used, and overwritten.
        shard: this rank's part.
        reducer: sums over all ranks.
        split: whose images are judged by; `train`: a random choice, augmented as in training.
        num_images: how many at most, the same random choice for all runs on the same data.

    Attributes:
        num_images: by which is judged, over all ranks.
        num_statistics_images: by which statistics are recomputed, over all ranks; 0 for a network that has none.
    """

    def __init__(
        self,
        config: Config,
        source: Source,
        evaluator: Evaluator,
        shard: Shard,
        reducer: Reducer,
        split: SurveySplit,
        num_images: int,
    ) -> None:
        self._evaluator = evaluator
        self._model = evaluator.model
        self._parameters = [parameter for _, parameter in trainable_parameters(self._model)]
        self._reducer = reducer
        self._is_root = shard.part == 0
        total = source.num_train if split == "train" else source.num_images(split)
        self.num_images = min(num_images, total)
        batch_size = config.evaluate.batch_size
        if split == "train":
            self._batches = list(source.statistics(self.num_images, shard, batch_size))
        else:
            chosen = generator(0, Stream.LANDSCAPE, 0).permutation(total)[: self.num_images]
            self._batches = _at_positions(source.evaluate(split, shard, batch_size), shard.of(total), chosen)
        self._statistics_images: list[Tensor] = []
        self.num_statistics_images = 0
        if has_batch_statistics(self._model):
            self.num_statistics_images = min(config.evaluate.statistics_images, source.num_train)
            # Whole batches are shared out, so that their statistics do not depend on the number of ranks.
            num_batches = -(-self.num_statistics_images // batch_size)
            for number in shard.of(num_batches):
                part = source.statistics(self.num_statistics_images, Shard(number, num_batches), batch_size)
                self._statistics_images += [batch.images for batch in part]

    @property
    def recomputes(self) -> bool:
        """Whether the network has statistics that can be recomputed."""
        return self.num_statistics_images > 0

    def recomputed(self, weights: Weights) -> Weights:
        """The same parameters with the statistics measured at them; unchanged for a network that has none."""
        if not self.recomputes:
            return weights
        self._evaluator.load(weights)
        recompute_statistics(self._model, self._statistics_images, self._sum)
        return Weights(weights.values, get_statistics(self._model))

    def judge(self, weights: Weights) -> Judgement:
        """Loss and accuracy at a point, with the statistics it has."""
        return self._judge(self._predictions(weights))

    def judge_together(self, points: Iterable[Weights]) -> tuple[list[Judgement], Judgement]:
        """Loss and accuracy at some points, at least one, with the statistics they have, and of their mean logits.

        Args:
            points: made one by one as they are asked for; the logits of one are held beside the sum.
        """
        alone: list[Judgement] = []
        together: list[tuple[Tensor, Tensor]] = []
        for weights in points:
            predictions = list(self._predictions(weights))
            alone.append(self._judge(predictions))
            if together:
                both = zip(together, predictions, strict=True)
                together = [(before + logits, labels) for (before, labels), (logits, _) in both]
            else:
                together = predictions
        return alone, self._judge((logits / len(alone), labels) for logits, labels in together)

    def curvature(self, weights: Weights, direction: Tensor) -> float:
        """The second derivative of the loss at a point along a unit vector [P], with statistics held as they are."""
        self._evaluator.load(weights)
        return dot(direction, self._hessian_times(direction))

    def top_eigenvalues(self, weights: Weights, count: int) -> list[float]:
        """The largest eigenvalues of the loss's Hessian at a point, as `curvature.top_eigenvalues`; on all ranks.

        The root alone iterates, since ranks whose rounding differs might not stop together; the others help it with
        each product until it says that it is done.
        """
        self._evaluator.load(weights)
        found = torch.full((count,), torch.nan, dtype=torch.float64)
        if self._is_root:
            try:
                values = top_eigenvalues(
                    self._multiply_with_all, weights.values.numel(), count, dtype=weights.values.dtype
                )
            finally:
                self._call(torch.zeros_like(weights.values), go_on=False)
            found[: len(values)] = torch.tensor(values, dtype=torch.float64)
        else:
            while (vector := self._answer(weights.values)) is not None:
                self._hessian_times(vector)
        self._reducer.broadcast_(found, Scope.WORLD)
        return [float(value) for value in found if not torch.isnan(value)]

    def _multiply_with_all(self, vector: Vector) -> Vector:
        """The Hessian's product with a vector that only the root has yet; the others are in `_answer`."""
        here = torch.from_numpy(np.ascontiguousarray(vector).reshape(-1)).to(self._parameters[0])
        self._call(here, go_on=True)
        product: Vector = self._hessian_times(here).cpu().numpy()
        return product

    def _call(self, vector: Tensor, go_on: bool) -> None:
        self._reducer.broadcast_(torch.cat([vector, vector.new_tensor([float(go_on)])]), Scope.WORLD)

    def _answer(self, like: Tensor) -> Tensor | None:
        """What the root called: a vector to multiply with, or None when it is done."""
        message = self._reducer.broadcast_(like.new_zeros(like.numel() + 1), Scope.WORLD)
        return message[:-1] if message[-1] else None

    def _hessian_times(self, vector: Tensor) -> Tensor:
        """[P] product with the Hessian of the mean loss, at the loaded weights; equal on all ranks."""
        product = hessian_times(self._parameters, self._losses(), vector)
        num_labels = self._sum(torch.tensor([sum(batch.labels.numel() for batch in self._batches)]))
        return self._sum(product).div_(int(num_labels))

    def _losses(self) -> Iterator[Tensor]:
        """Each batch's summed loss, with its graph."""
        for batch in self._batches:
            yield F.cross_entropy(*self._predict(batch), reduction="sum")

    @torch.no_grad()
    def _predictions(self, weights: Weights) -> Iterator[tuple[Tensor, Tensor]]:
        """Logits and labels of this rank's images at a point, batch by batch."""
        self._evaluator.load(weights)
        for batch in self._batches:
            yield self._predict(batch)

    def _judge(self, predictions: Iterable[tuple[Tensor, Tensor]]) -> Judgement:
        """Loss and accuracy of all ranks' logits [N, num_classes] and labels [N]."""
        sums = torch.zeros(3, dtype=torch.float64)
        for logits, labels in predictions:
            loss = F.cross_entropy(logits.double(), labels, reduction="sum")
            hits = (logits.argmax(dim=1) == labels).sum()
            sums += torch.tensor([float(loss), float(hits), len(labels)], dtype=torch.float64)
        loss_sum, num_correct, num_labels = self._sum(sums).tolist()
        return Judgement(loss_sum / num_labels, num_correct / num_labels)

    def _predict(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits [N, num_classes] and labels [N] of a batch."""
        with sdpa_kernel(SDPBackend.MATH):  # the fused kernels of attention have no second derivative
            logits = self._model(batch.images)
        return logits.flatten(end_dim=-2), batch.labels.flatten()

    def _sum(self, tensor: Tensor) -> Tensor:
        return self._reducer.sum_(tensor, Scope.WORLD)


def _at_positions(batches: Iterator[Batch], part: range, chosen: NDArray[np.int64]) -> list[Batch]:
    """Of the images of `part`, in order, those at the chosen positions."""
    wanted = np.isin(np.arange(part.start, part.stop), chosen)
    start, kept = 0, []
    for batch in batches:
        keep = torch.from_numpy(np.flatnonzero(wanted[start : start + len(batch.labels)])).to(batch.labels.device)
        start += len(batch.labels)
        if len(keep):
            kept.append(Batch(batch.images[keep], batch.labels[keep]))
    if start != len(part):
        raise DataError(
            f"{len(part) - start} images cannot be read or decoded, and a survey needs all; "
            "data.on_bad_file=stop names the first"
        )
    return kept
