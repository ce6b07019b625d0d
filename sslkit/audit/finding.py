"""What an audit found: how far above chance a classifier is, and how sure that is.

Several copies of one image are classified, so the images are what was sampled, not the copies: intervals are computed over groups of
predictions that share their images, whatever the order of the predictions within a group.

Shapes: M predictions, K classes, G groups.
"""

import math
from dataclasses import dataclass
from itertools import combinations
from statistics import NormalDist
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sslkit.contract.objective import Prediction

LEVEL = 0.95
"""Of every interval."""

_ROUNDING = 1e-9
"""Percent: an accuracy of exactly chance may come out that much above."""


class Estimate(NamedTuple):
    """A share of right answers, in percent.

    Attributes:
        value: the mean over the classes of the share that is right in each. Then chance is the same for whoever always gives the same
            answer, however unequal the classes are.
        low: lower end of its interval.
        high: upper end.
        chance: what would be right without looking.
    """

    value: float
    low: float
    high: float
    chance: float

    @property
    def above_chance(self) -> bool:
        """Whether the whole interval lies above chance. Below it there is nothing but luck: a task that leaks gives more."""
        return self.low > self.chance + _ROUNDING


class Pair(NamedTuple):
    """How well two classes are distinguished.

    Attributes:
        classes: their numbers.
        accuracy: among predictions whose class is one of the two, how often its logit is above that of the other; ties count half.
            The interval is so wide that in 95 of 100 audits it holds for all pairs at once (Bonferroni).
    """

    classes: tuple[int, int]
    accuracy: Estimate


def accuracy(prediction: Prediction, groups: Tensor) -> Estimate:
    """How often the largest logit is the right one; where several are, which in bfloat16 is not rare, each counts for its part.

    Args:
        prediction: (M, K) logits and (M,) targets.
        groups: (M,) int64, which predictions belong together; predictions of different groups are independent.
    """
    largest = (prediction.logits == prediction.logits.amax(dim=1, keepdim=True)).double()
    correct = largest.gather(1, prediction.targets[:, None])[:, 0] / largest.sum(dim=1)
    return _estimate(correct, prediction.targets, groups, LEVEL)


def pairs(prediction: Prediction, groups: Tensor) -> tuple[Pair, ...]:
    """Every pair of classes, with intervals that are corrected for their number. Classes that never occur are left out. Shapes and groups are
    those of :func:`accuracy`.
    """
    chosen = list(combinations(prediction.targets.unique().tolist(), 2))
    level = 1 - (1 - LEVEL) / max(1, len(chosen))
    found = []
    for first, second in chosen:
        rows = (prediction.targets == first) | (prediction.targets == second)
        targets = prediction.targets[rows]
        ahead = prediction.logits[rows, first] - prediction.logits[rows, second]
        won = torch.where(targets == first, ahead, -ahead).sign().double() / 2 + 0.5
        found.append(Pair((first, second), _estimate(won, targets, groups[rows], level)))
    return tuple(found)


def groups_of(num_predictions: int, num_images: int, images_per_group: int) -> Tensor:
    """Which images a prediction is about, where batch after batch was predicted and every image equally often.

    Returns:
        (num_predictions,) int64: 0 for the first ``images_per_group`` images' predictions, 1 for the next ones' ...
    """
    assert num_predictions % num_images == 0
    return torch.arange(num_predictions) // (num_predictions // num_images * images_per_group)


def _estimate(correct: Tensor, targets: Tensor, groups: Tensor, level: float) -> Estimate:
    """The mean of the classes' means, with its variance over groups by linearisation (a sum of ratio estimators). ``correct`` is (M,) float64
    in [0, 1].
    """
    _, classes, counts = targets.unique(return_inverse=True, return_counts=True)
    means = torch.zeros(len(counts), dtype=torch.float64).index_add(0, classes, correct) / counts
    influence = (correct - means[classes]) / (counts[classes] * len(counts))
    _, members = groups.unique(return_inverse=True)
    num_groups = int(members.max()) + 1
    by_group = torch.zeros(num_groups, dtype=torch.float64).index_add(0, members, influence)
    variance = float(by_group.square().sum()) * num_groups / max(1, num_groups - 1)
    share = float(means.mean())
    low, high = _interval(share, variance, num_groups, level)
    return Estimate(100 * share, 100 * low, 100 * high, 100 / len(counts))


def _interval(share: float, variance: float, num_groups: int, level: float) -> tuple[float, float]:
    """Wilson's interval for as many independent answers as would have this variance (Franco et al. 2019, PMC6690503)."""
    z = NormalDist().inv_cdf(0.5 + level / 2)
    # Where nothing varies, all is right or all is wrong, and the groups are what counts; or each group has the same share, for sure.
    num_effective = share * (1 - share) / variance if variance > 0 else num_groups if share in (0.0, 1.0) else math.inf
    spread = z**2 / num_effective
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / num_effective + spread / num_effective / 4)
    return max(0.0, middle - half), min(1.0, middle + half)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one classifier of a task made of one source of images.

    Attributes:
        source: what the images were made of.
        classifier: its name among the objective's predictions.
        classes: the names of its classes.
        num_images: how many images it was trained on.
        num_heldout: how many other ones it was measured on.
        accuracy: over all classes.
        pairs: every two classes that occur.
        seconds: that it took to make the images, train and measure.
    """

    source: str
    classifier: str
    classes: tuple[str, ...]
    num_images: int
    num_heldout: int
    accuracy: Estimate
    pairs: tuple[Pair, ...]
    seconds: float

    @property
    def worst(self) -> Pair:
        """The pair that is most surely distinguished."""
        return max(self.pairs, key=lambda pair: pair.accuracy.low)

    @property
    def leaks(self) -> bool:
        """Whether the accuracy or any pair is above chance. Without a shortcut, that happens in at most 5 of 100 audits."""
        return self.accuracy.above_chance or self.worst.accuracy.above_chance

    @property
    def verdict(self) -> str:
        """In words."""
        return "leaks" if self.leaks else "at chance"

    def names(self, pair: Pair) -> tuple[str, str]:
        """What the two classes are called."""
        first, second = pair.classes
        return self.classes[first], self.classes[second]

    def as_json(self) -> dict[str, Any]:
        """Plain values, with every pair; accuracies in percent."""
        return {
            "source": self.source,
            "classifier": self.classifier,
            "classes": list(self.classes),
            "num_images": self.num_images,
            "num_heldout": self.num_heldout,
            "accuracy": self.accuracy._asdict(),
            "worst_pair": list(self.names(self.worst)),
            "pairs": [{"classes": list(self.names(pair)), **pair.accuracy._asdict()} for pair in self.pairs],
            "verdict": self.verdict,
            "seconds": round(self.seconds, 1),
        }
