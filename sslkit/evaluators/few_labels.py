"""Few labels: which training images they are, and accuracy against the number of labels per class."""

import copy
import statistics
from dataclasses import dataclass, replace
from typing import Literal, final

import torch
from torch import Generator, Tensor
from typing_extensions import override

from sslkit.contract.backbone import Backbone
from sslkit.contract.errors import DataError, OptionError
from sslkit.contract.evaluator import Evaluation, Evaluator, RunContext
from sslkit.contract.images import LabeledData
from sslkit.evaluators.classifier import Fitted, build_heads, check_classifier, fit_classifier
from sslkit.evaluators.feature_cache import FrozenTrunk
from sslkit.evaluators.heads import HeadKind
from sslkit.evaluators.views import ClassifierOptions
from sslkit.training.seeds import derive_seed, make_generator

Selection = Literal["first", "random"]

MAX_SUBSETS = 1000
"""All are drawn before any training, to find which features are worth keeping."""


@final
@dataclass(frozen=True, kw_only=True)
class SemiSupervised(ClassifierOptions, Evaluator):
    """Train a classifier with K labels of each class, for several K (arXiv:1803.07728, sec. 3.3).

    The same seed chooses the same labels in every stage, so that pretrained features and a supervised network are compared on the
    same images. A small subset is repeated: every epoch has the same number of steps.

    Attributes:
        labels_per_class: the values of K.
        layers: where the heads are attached; exactly one unless frozen.
        head: ``linear``, ``mlp`` or ``conv``.
        freeze: keep the backbone as it is (features), or train it too (the supervised network).
        selection: the ``first`` K images of each class in dataset order, as the paper's code, or ``random`` ones.
        num_subsets: repeat with so many random subsets, new initial heads and orders, and report the mean and the standard deviation;
            or one number for each of ``labels_per_class``: few labels scatter most.
        images_per_epoch: the size a subset is repeated to, or drawn down to; None: that of the whole training set.
    """

    labels_per_class: tuple[int, ...]
    layers: tuple[str, ...]
    head: HeadKind = "conv"
    freeze: bool = True
    selection: Selection = "first"
    num_subsets: int | tuple[int, ...] = 1
    images_per_epoch: int | None = None

    def __post_init__(self) -> None:
        ClassifierOptions.__post_init__(self)
        if not self.labels_per_class or min(self.labels_per_class) < 1 or len(set(self.labels_per_class)) < len(self.labels_per_class):
            raise OptionError(
                "labels_per_class", "must be distinct positive numbers", found=list(self.labels_per_class), allowed="for example [20, 100]"
            )
        if isinstance(self.num_subsets, tuple) and len(self.num_subsets) != len(self.labels_per_class):
            allowed = f"one number, or {len(self.labels_per_class)}, one for each of labels_per_class"
            raise OptionError("num_subsets", "does not fit labels_per_class", found=list(self.num_subsets), allowed=allowed)
        if min(self.subset_counts.values()) < 1:
            raise OptionError("num_subsets", "must be positive", found=self.num_subsets, allowed="1 or more")
        if max(self.subset_counts.values()) > MAX_SUBSETS:
            raise OptionError("num_subsets", "are too many", found=self.num_subsets, allowed=f"at most {MAX_SUBSETS:,}")
        if max(self.subset_counts.values()) > 1 and self.selection == "first":
            raise OptionError("num_subsets", "needs random selection", found=self.num_subsets, fix='set selection = "random"')
        if not self.freeze and len(self.layers) != 1:
            raise OptionError("layers", "must be one layer when the backbone is trained", found=list(self.layers))
        if self.images_per_epoch is not None and self.images_per_epoch < self.batch_size:
            raise OptionError(
                "images_per_epoch", "is smaller than a batch", found=self.images_per_epoch, allowed=f"{self.batch_size} or more"
            )

    @property
    def subset_counts(self) -> dict[int, int]:
        """How many subsets are drawn for each number of labels."""
        counts = self.num_subsets if isinstance(self.num_subsets, tuple) else (self.num_subsets,) * len(self.labels_per_class)
        return dict(zip(self.labels_per_class, counts, strict=True))

    @property
    def frozen(self) -> bool:
        """As the option ``freeze`` says."""
        return self.freeze

    @override
    def check(self, backbone: Backbone, data: LabeledData) -> None:
        check_classifier("layers", self.layers, self.head, self, backbone, data)
        available = int(_train_labels(data).unique(return_counts=True)[1].min())  # images of the smallest class
        if max(self.labels_per_class) > available:
            raise OptionError(
                "labels_per_class", "more than the smallest class has", found=max(self.labels_per_class), allowed=f"at most {available}"
            )

    @override
    def evaluate(self, backbone: Backbone, data: LabeledData, context: RunContext) -> Evaluation:
        """Reports ``<layer>.k<K>.top1``, and ``.top1_std`` where there are several subsets."""
        metrics: dict[str, float] = {}
        subsets = {num_labels: self._subsets(num_labels, data, context) for num_labels in self.labels_per_class}
        trunk = None
        if self.freeze:  # what all fits share
            heads = build_heads(self.head, self.layers, backbone, data, context, view=self.view(train=True))
            chosen = [subset for named in subsets.values() for subset in named.values()]
            trunk = FrozenTrunk(backbone, heads, data, self, context, subsets=chosen, images_per_epoch=self.images_per_epoch)
        for num_labels, named in subsets.items():
            runs = [self._fit(backbone, trunk, subset, data, replace(context, part=part)).metrics for part, subset in named.items()]
            for layer in self.layers:
                for measure in ("top1", "top5", "balanced"):
                    values = [run[f"{layer}.{measure}"] for run in runs if f"{layer}.{measure}" in run]
                    if values:
                        metrics[f"{layer}.k{num_labels}.{measure}"] = statistics.fmean(values)
                    if len(values) > 1:
                        metrics[f"{layer}.k{num_labels}.{measure}_std"] = statistics.stdev(values)
            metrics |= {"majority": runs[0]["majority"]} if "majority" in runs[0] else {}
        return Evaluation(metrics)

    def _subsets(self, num_labels: int, data: LabeledData, context: RunContext) -> dict[str, Tensor]:
        """The training images of each fit with ``num_labels`` labels, by its part; the stage's name has no influence on them."""
        count = self.subset_counts[num_labels]
        subsets = {}
        for index in range(count):
            part = f"k{num_labels}" if count == 1 else f"k{num_labels}-{index + 1}"
            generator = make_generator(derive_seed(context.seed, "labels", num_labels, index))
            subsets[part] = select_per_class(_train_labels(data), num_labels, self.selection, generator)
        return subsets

    def _fit(self, backbone: Backbone, trunk: FrozenTrunk | None, subset: Tensor, data: LabeledData, context: RunContext) -> Fitted:
        network = backbone if self.freeze else copy.deepcopy(backbone)
        return fit_classifier(
            network,
            build_heads(self.head, self.layers, network, data, context, view=self.view(train=True)),
            data,
            self,
            context,
            freeze=self.freeze,
            subset=subset,
            images_per_epoch=self.images_per_epoch,
            trunk=trunk,
            metrics_only=True,
        )


def select_per_class(labels: Tensor, labels_per_class: int, selection: Selection, generator: Generator) -> Tensor:
    """Choose the same number of images of every class, the first (as the RotNet reference code does) or random ones.

    (N,) int64 labels -> (num_classes * labels_per_class,) int64 indices, in order; a ``DataError`` where a class has fewer images. The
    generator is on the CPU.
    """
    chosen = []
    for label in labels.unique().tolist():
        members = (labels == label).nonzero().flatten()
        if len(members) < labels_per_class:
            allowed = f"at most {len(members)} labels per class"
            raise DataError(f"class {label} has {len(members)} images", found=labels_per_class, allowed=allowed)
        order = torch.randperm(len(members), generator=generator) if selection == "random" else torch.arange(len(members))
        chosen.append(members[order[:labels_per_class]])
    return torch.cat(chosen).sort().values


def _train_labels(data: LabeledData) -> Tensor:
    if data.train.labels is None:
        raise DataError("the training images have no labels")
    return data.train.labels
