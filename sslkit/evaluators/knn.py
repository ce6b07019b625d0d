"""Weighted nearest neighbours in feature space: no training, no hyper-parameter that matters much."""

from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from sslkit.contract.backbone import Backbone
from sslkit.contract.errors import DataError, OptionError
from sslkit.contract.evaluator import Evaluation, Evaluator, RunContext
from sslkit.contract.images import LabeledData
from sslkit.contract.objective import Classified
from sslkit.data.loader import Loader
from sslkit.evaluators.classifier import accuracies_of, check_layers
from sslkit.evaluators.views import ViewOptions
from sslkit.training.device import tf32
from sslkit.training.features import extract_features
from sslkit.training.stopping import stop_if_asked

_NUM_QUERIES, _NUM_BANK = 512, 8192
"""Test and training images whose similarities are in memory at once: 16 MB. Larger blocks leave a CPU's cache before their largest values
are found, smaller ones are merged more often."""


@final
@dataclass(frozen=True, kw_only=True)
class KNN(ViewOptions, Evaluator):
    """The k nearest training images by cosine similarity vote with weight exp(similarity / temperature).

    Wu et al. 2018, "Unsupervised Feature Learning via Non-Parametric Instance Discrimination" (arXiv:1805.01978), sec. 3.4.

    Attributes:
        layers: where to measure; features are pooled.
        k: how many neighbours vote.
        temperature: smaller gives more weight to the nearest.
        batch_size: images per forward pass.
    """

    layers: tuple[str, ...]
    k: int = 20
    temperature: float = 0.07
    batch_size: int = 256

    def __post_init__(self) -> None:
        ViewOptions.__post_init__(self)
        for option in ("k", "temperature", "batch_size"):
            if getattr(self, option) <= 0:
                raise OptionError(option, "must be positive", found=getattr(self, option))

    @override
    def check(self, backbone: Backbone, data: LabeledData) -> None:
        check_layers("layers", self.layers, backbone)
        self.check_views(backbone, self.layers, data.train.image)
        if self.k > len(data.train):
            raise OptionError("k", f"is larger than the data ({len(data.train)} images)", found=self.k, allowed=f"1 to {len(data.train)}")

    @override
    def evaluate(self, backbone: Backbone, data: LabeledData, context: RunContext) -> Evaluation:
        """Reports ``<layer>.top1``, and what :class:`~sslkit.evaluators.classifier.Fitted` names."""
        if data.train.labels is None or data.test.labels is None:
            raise DataError("nearest neighbours need labels on training and test images")
        sets = [Loader(images, batch_size=self.batch_size, device=context.device) for images in (data.train, data.test)]
        options: dict[str, Any] = {"view": self.test_view, "should_stop": context.should_stop}
        bank, queries = (extract_features(backbone, loader, self.layers, None, **options) for loader in sets)
        top1, predictions = {}, {}
        for layer in self.layers:
            features = bank[layer].to(context.device), data.train.labels.to(context.device), queries[layer].to(context.device)
            votes = vote(*features, data.num_classes, k=self.k, temperature=self.temperature).cpu()
            predictions[layer] = classified = Classified.of(votes, data.test.labels)
            top1[layer] = 100.0 * (classified.classes == classified.targets).double().mean().item()
        return Evaluation(accuracies_of(top1, predictions), predictions=predictions)


def vote(bank: Tensor, labels: Tensor, queries: Tensor, num_classes: int, *, k: int, temperature: float) -> Tensor:
    """Each query's votes, without all similarities in memory at once; which of equally near neighbours vote is left open.

    (N, D) float32 training features with (N,) int64 labels and (M, D) float32 queries -> (M, num_classes) sums of weights, relative to that
    of the query's nearest neighbour.
    """
    bank = F.normalize(bank, dim=1)
    parts = []
    with tf32(allowed=False):  # which keeps three digits of a similarity, and neighbours differ in later ones
        for chunk in F.normalize(queries, dim=1).split(_NUM_QUERIES):
            stop_if_asked("while comparing features")
            similarity, neighbours = _nearest(bank, chunk, k)
            votes = torch.zeros(len(chunk), num_classes, dtype=bank.dtype, device=bank.device)
            weights = ((similarity - similarity[:, :1]) / temperature).exp()  # exp(1 / 0.01) alone would overflow
            parts.append(votes.scatter_add_(1, labels[neighbours], weights))
    return torch.cat(parts)


def _nearest(bank: Tensor, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest products of each query with rows of the bank, and the indices of those rows: (M, k) each, the largest first."""
    best = queries.new_empty(len(queries), 0)
    rows = torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device)
    for start in range(0, len(bank), _NUM_BANK):
        block = bank[start : start + _NUM_BANK]
        values, found = (queries @ block.T).topk(min(k, len(block)), dim=1)
        best, rows = torch.cat([best, values], dim=1), torch.cat([rows, start + found], dim=1)
        best, kept = best.topk(min(k, best.shape[1]), dim=1)
        rows = rows.gather(1, kept)
    return best, rows
