"""What judging came to: scores of members, ensemble and soups, the same on all ranks. Judges nothing."""

from __future__ import annotations

from dataclasses import dataclass

from wash_hpc.ensemble.scores import Scores
from wash_hpc.ensemble.soup import Weights


@dataclass(frozen=True)
class Evaluation:
    """Scores of the predictions on one split; equal on all ranks.

    Attributes:
        members: one a member; NaN for those left out.
        scores: by what was judged: `member`, the mean over members; `best_member`, by the run's metric; `ensemble`, by
            the mean of the members' logits; `ensemble_probabilities`, by that of their probabilities; `soup`, the mean
            of their weights, statistics recomputed on training images; `soup_raw`, the same with the mean of their
            statistics.
        disagreement: share of predictions on which two members name different classes, mean over pairs; NaN for one.
        soup: the weights of the soup, statistics recomputed.
        num_images: images in the split.
        left_out: members that were to be, or whose weights are not all finite; in neither the ensemble nor the soup.
    """

    members: list[Scores]
    scores: dict[str, Scores]
    disagreement: float
    soup: Weights
    num_images: int
    left_out: list[int]

    @property
    def member_accuracy(self) -> list[float]:
        """One a member; NaN for those left out."""
        return [scores.accuracy for scores in self.members]

    @property
    def ensemble_accuracy(self) -> float:
        """Of the mean of the members' logits."""
        return self.scores["ensemble"].accuracy

    @property
    def soup_accuracy(self) -> float:
        """Statistics recomputed."""
        return self.scores["soup"].accuracy

    @property
    def soup_accuracy_raw(self) -> float:
        """Statistics averaged."""
        return self.scores["soup_raw"].accuracy


@dataclass(frozen=True)
class Merit:
    """What soups of one run are compared by to find the best.

    Attributes:
        value: higher is better; minus infinity where it could not be judged.
        by: what it is, such as `accuracy on held_out`.
    """

    value: float
    by: str


@dataclass(frozen=True)
class JudgedSoup:
    """A soup made in some other way than by averaging all there is.

    Attributes:
        members: those in it, in the order in which they were added.
        scores: on the images it was judged by, as a rule the test images, statistics recomputed.
        weights: of the soup.
    """

    members: list[int]
    scores: Scores
    weights: Weights
