"""The quality of a network during pretraining, in seconds: a few images, one layer, nothing trained."""

import torch
from torch import Tensor

from sslkit.contract.backbone import Backbone
from sslkit.contract.evaluator import RunContext
from sslkit.contract.images import LabeledData
from sslkit.data.loader import Loader
from sslkit.evaluators.knn import vote
from sslkit.training.features import extract_features
from sslkit.training.representation import alpha_req, quick_rankme
from sslkit.training.seeds import derive_seed, make_generator

NUM_TRAIN, NUM_TEST = 5000, 1000
"""At most so many images vote, and so many are measured: 1,000 give an accuracy with a standard error of at most 1.6 percent."""

FEWEST_TIMES, MOST_TIMES = 4, 10
"""How often it is measured by default, including the untrained and the final network."""

SHARE = 0.1
"""Images measured as a fraction of those trained on, beyond the fewest times: measuring an image costs a third of training on a view of it."""

_K, _TEMPERATURE = 20, 0.07


class Quality:
    """Measures the pooled features of the deepest layer, in eval mode and float32: the same images every time, drawn by the seed.

    Args:
        images: to measure: held-out ones, where there are any; where there is ``labeled`` data, its test images.
        labeled: images with labels, for nearest neighbours; None: without these.
        context: of the stage.
    """

    def __init__(self, images: Loader, labeled: LabeledData | None, context: RunContext) -> None:
        self._context = context
        self._images = images
        self._labeled = labeled
        self._queries = self._draw("queries", images.num_images, NUM_TEST)
        self._bank = self._draw("bank", 0 if labeled is None else len(labeled.train), NUM_TRAIN)

    def most_times(self, num_trained: int) -> int:
        """How often to measure in a pretraining on so many images, counted in every epoch."""
        return max(FEWEST_TIMES, min(MOST_TIMES, int(SHARE * num_trained / (len(self._queries) + len(self._bank)))))

    def __call__(self, backbone: Backbone) -> dict[str, float]:
        """``rankme``, ``alpha_req`` where there is a spectrum, and ``knn.top1`` in percent where there are labels.

        Raises:
            RunInterruptedError: the user asked to stop.
        """
        queries = self._features(backbone, self._images, self._queries)
        metrics = {"rankme": quick_rankme(queries)}
        if (alpha := alpha_req(queries)) is not None:
            metrics["alpha_req"] = alpha
        if self._labeled is not None:
            metrics["knn.top1"] = self._top1(backbone, queries, self._labeled)
        return metrics

    def _top1(self, backbone: Backbone, queries: Tensor, data: LabeledData) -> float:
        assert data.train.labels is not None
        assert data.test.labels is not None
        device = self._context.device
        bank = self._features(backbone, Loader(data.train, batch_size=self._images.batch_size, device=device), self._bank)
        labels, k = data.train.labels[self._bank].to(device), min(_K, len(bank))
        votes = vote(bank.to(device), labels, queries.to(device), data.num_classes, k=k, temperature=_TEMPERATURE)
        return 100.0 * (votes.argmax(dim=1).cpu() == data.test.labels[self._queries]).double().mean().item()

    def _features(self, backbone: Backbone, loader: Loader, indices: Tensor) -> Tensor:
        layer = backbone.layer_names[-1]
        return extract_features(backbone, loader, [layer], None, indices=indices, should_stop=self._context.should_stop)[layer]

    def _draw(self, purpose: str, num_images: int, most: int) -> Tensor:
        """At most so many indices, in order: (M,) int64."""
        seed = derive_seed(self._context.seed, self._context.stage, "quality", purpose)
        return torch.randperm(num_images, generator=make_generator(seed))[:most].sort().values
