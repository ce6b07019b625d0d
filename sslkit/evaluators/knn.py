"""Weighted nearest neighbours in feature space: no training, no hyper-parameter that matters much."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.nn import functional as F

from sslkit.data.loader import Loader
from sslkit.engine.features import extract_features
from sslkit.errors import DataError, OptionError
from sslkit.evaluators.classifier import check_layers
from sslkit.interfaces import Backbone, Evaluation, Evaluator, LabeledData, Prediction, RunContext

_CHUNK = 1024
"""Test images whose similarities to all training images are in memory at once."""


@final
@dataclass(frozen=True, kw_only=True)
class KNN(Evaluator):
    """The k nearest training images by cosine similarity vote with weight exp(similarity / temperature).

    Wu et al. 2018, "Unsupervised Feature Learning via Non-Parametric Instance Discrimination" (arXiv:1805.01978), sec. 3.4.

    Attributes:
        layers: where to measure; features are pooled.
        k: how many neighbours vote.
        temperature: smaller gives more weight to the nearest.
        batch_size: images a forward pass.
    """

    layers: tuple[str, ...]
    k: int = 20
    temperature: float = 0.07
    batch_size: int = 256

    def __post_init__(self) -> None:
        for option in ("k", "temperature", "batch_size"):
            if getattr(self, option) <= 0:
                raise OptionError(option, "must be positive", found=getattr(self, option))

    @property
    def frozen(self) -> bool:
        """Always: nothing is trained."""
        return True

    def check(self, backbone: Backbone, data: LabeledData) -> None:
        """See :class:`Evaluator`."""
        check_layers("layers", self.layers, backbone)
        if self.k > len(data.train):
            raise OptionError("k", f"is larger than the data ({len(data.train)} images)", found=self.k, allowed=f"1 to {len(data.train)}")

    def evaluate(self, backbone: Backbone, data: LabeledData, context: RunContext) -> Evaluation:
        """See :class:`Evaluator`; reports ``<layer>.top1``."""
        if data.train.labels is None or data.test.labels is None:
            raise DataError("nearest neighbours need labels on training and test images")
        sets = [Loader(images, batch_size=self.batch_size, device=context.device) for images in (data.train, data.test)]
        bank, queries = (extract_features(backbone, loader, self.layers, context.autocast) for loader in sets)
        metrics, predictions = {}, {}
        for layer in self.layers:
            votes = vote(bank[layer], data.train.labels, queries[layer], data.num_classes, k=self.k, temperature=self.temperature)
            metrics[f"{layer}.top1"] = 100.0 * (votes.argmax(dim=1) == data.test.labels).double().mean().item()
            predictions[layer] = Prediction(votes, data.test.labels)
        return Evaluation(metrics, predictions=predictions)


def vote(bank: Tensor, labels: Tensor, queries: Tensor, num_classes: int, *, k: int, temperature: float) -> Tensor:
    """Each query's votes.

    Args:
        bank: (N, D) features of the training images.
        labels: (N,) int64.
        queries: (M, D) features.
        num_classes: how many classes there are.
        k: how many neighbours vote.
        temperature: of their weights.

    Returns:
        (M, num_classes) sums of weights, relative to that of the query's nearest neighbour.
    """
    bank = F.normalize(bank, dim=1)
    parts = []
    for chunk in F.normalize(queries, dim=1).split(_CHUNK):
        similarity, neighbours = (chunk @ bank.T).topk(k, dim=1)
        votes = torch.zeros(len(chunk), num_classes, dtype=bank.dtype)
        weights = ((similarity - similarity[:, :1]) / temperature).exp()  # exp(1 / 0.01) alone would overflow
        parts.append(votes.scatter_add_(1, labels[neighbours], weights))
    return torch.cat(parts)
