"""Label-free measures of a representation: how much of feature space it uses, and whether it has collapsed. All are computed in float64."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

LIMITS = {"std": 0.03, "entropy": 0.05}
"""Below them, the standard deviation of normalised features and the entropy of assignments have collapsed. A standard deviation of 0.03 is a
mean cosine of about 0.999; with an entropy of 0.05, one of 1,000 clusters has about 96 % of all images.
"""

DROP = 0.25
"""A collapse is a loss: what is below its limit must also be below a quarter of the highest value that the fit has seen, the untrained
network's included. Untrained networks, and images that are all alike, are below the limit from the start.
"""

PATIENCE = 2
"""How often in a row a measure must be too low: BatchNorm's running statistics may lag behind the weights for a moment."""


@dataclass
class Signs:
    """The signs of collapse that a fit has seen; kept in its checkpoints.

    Attributes:
        highest: value of each measure so far.
        low: how often in a row each measure was too low; one that has collapsed counts on until it has recovered.
        alarms: messages of the collapses that were reported.
    """

    highest: dict[str, float] = field(default_factory=dict)
    low: dict[str, int] = field(default_factory=dict)
    alarms: list[str] = field(default_factory=list)

    def take(self, measured: Mapping[str, float]) -> list[str]:
        """Note measures by name, ``<anything>.std`` or ``.entropy`` among them; return those that have collapsed now: once, and again only
        where it has recovered in between, to twice its limit.
        """
        collapsed = []
        for name, value in measured.items():
            if (limit := LIMITS.get(name.rpartition(".")[2])) is None:
                continue
            self.highest[name] = max(value, self.highest.get(name, value))
            threshold, before = min(limit, DROP * self.highest[name]), self.low.get(name, 0)
            low = value < (threshold if before < PATIENCE else 2 * threshold)
            self.low[name] = before + 1 if low else 0
            if self.low[name] == PATIENCE:
                collapsed.append(name)
        return collapsed

    def state(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def feature_std(features: Tensor) -> float:
    """The mean over channels of the standard deviation of L2-normalised features, times sqrt(D): Chen & He 2021, "Exploring Simple Siamese
    Representation Learning" (arXiv:2011.10566), fig. 2 and sec. 4.1, which shows it without the factor.

    For (N, D) features: 1 where they point everywhere, as Gaussian noise does; 0 where all images have one direction, a complete collapse.
    Features after a ReLU all point into one orthant, and are healthy at 0.1 too.
    """
    return float(_normalized(features).std(dim=0, correction=0).mean() * math.sqrt(features.shape[1]))


def mean_cosine(features: Tensor) -> float:
    """The mean cosine similarity of all pairs of different rows of (N, D) features, N of 2 or more: 1 where all have one direction, 0 where
    they point everywhere. A row of zeros is similar to none.
    """
    normalized = _normalized(features)
    # The sum over all pairs is the square of the sum; the pairs of a row with itself are the squares.
    pairs = normalized.sum(dim=0).square().sum() - normalized.square().sum()
    return float(pairs) / (len(features) * (len(features) - 1))


def rankme(features: Tensor) -> float:
    """RankMe: the exponential of the entropy of the normalised singular values, Garrido et al. 2023 (arXiv:2210.02885), eq. 1.

    For (N, D) features, between 1 (one direction) and about min(N, D) (all directions alike); higher is better.
    """
    return _effective_rank(torch.linalg.svdvals(features.double()))


def quick_rankme(features: Tensor) -> float:
    """As :func:`rankme`, from the eigenvalues of the smaller Gram matrix: several times as fast where N and D differ, and as exact, because
    what float64 loses by the square is far below the ``eps`` of the formula.
    """
    features = features.double()
    gram = features @ features.T if features.shape[0] < features.shape[1] else features.T @ features
    return _effective_rank(torch.linalg.eigvalsh(gram).clamp_min(0).sqrt())


def _effective_rank(singular: Tensor, eps: float = 1e-7) -> float:
    """``eps`` is added to each singular value's share, as in the paper."""
    total = singular.sum()
    shares = (singular / total if total > 0 else singular) + eps
    return float(torch.exp(-(shares * shares.log()).sum()))


def alpha_req(features: Tensor) -> float | None:
    """alpha-ReQ: the exponent of the power law i^-alpha that the eigenvalues of the features' covariance follow, Agrawal et al. 2022
    (NeurIPS, "alpha-ReQ: Assessing representation quality in self-supervised learning by measuring eigenspectrum decay").

    A least-squares line through log eigenvalue against log rank, over all eigenvalues of the (N, D) features that are not rounding errors;
    None where fewer than two are left. The paper finds good features near 1.
    """
    centred = features.double() - features.double().mean(dim=0)
    eigenvalues = torch.linalg.svdvals(centred) ** 2 / len(features)
    eigenvalues = eigenvalues[eigenvalues > eigenvalues[0] * max(features.shape) * torch.finfo(torch.float32).eps ** 2]
    if len(eigenvalues) < 2:
        return None
    rank = torch.arange(1, len(eigenvalues) + 1, dtype=torch.float64).log()
    rank = rank - rank.mean()
    return float(-(rank * eigenvalues.log()).sum() / (rank**2).sum())


def assignment_entropy(assignments: Tensor) -> float:
    """How evenly images spread over clusters: the entropy of the mean of (N, K) probabilities, as a part of log K, for K of 2 or more.

    1 where all clusters are equally large, 0 where one has all images. The entropy of the mean, not the mean of the entropies: a method
    that is sure of each image's cluster is healthy.
    """
    mean = assignments.double().mean(dim=0)
    return float(torch.special.entr(mean).sum()) / math.log(len(mean))


def _normalized(features: Tensor) -> Tensor:
    return F.normalize(features.double(), dim=1)
