"""The one function behind every evaluator that trains: :func:`fit_classifier`, varied by head, freezing and labels."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Generator, Tensor, nn

from sslkit.contract.backbone import Backbone
from sslkit.contract.classification import classify
from sslkit.contract.errors import DataError, OptionError
from sslkit.contract.evaluator import RunContext
from sslkit.contract.images import Batch, LabeledData
from sslkit.contract.objective import Classified, Objective, Step, StepOutput, TrainContext
from sslkit.data.loader import Loader
from sslkit.evaluators.feature_cache import FeatureBank, FrozenTrunk
from sslkit.evaluators.heads import Head, HeadKind, build_head, feature_shapes
from sslkit.evaluators.views import ClassifierOptions, ViewOptions, seen
from sslkit.training.checkpoints import Checkpoints, identity_of
from sslkit.training.fit import fit
from sslkit.training.seeds import derive_seed, global_seed
from sslkit.views.view import View


class Fitted(NamedTuple):
    """What a trained classifier reaches on the test images: the metrics of :func:`accuracies_of`, and each head's predictions by layer, in
    the order of the test images.
    """

    metrics: dict[str, float]
    predictions: dict[str, Classified]


class FrozenFeatures(NamedTuple):
    """Kept features of a frozen backbone, from which batches then come; where there are none, they are computed in each step."""

    train: FeatureBank | None = None
    test: FeatureBank | None = None


class Classifier(Objective):
    """A backbone with a classification head on each of several layers, trained by cross-entropy.

    All heads share one forward pass of the backbone, which stops at the deepest of their layers. Labels are looked up by index, so
    that classification uses the same loop as pretraining. With ``frozen``, the backbone stays in eval mode and gets no gradient. A
    ``subset`` of the training images, (M,) int64, is repeated or drawn from to have ``images_per_epoch``.
    """

    def __init__(
        self,
        backbone: Backbone,
        heads: Mapping[str, Head],
        data: LabeledData,
        *,
        frozen: FrozenFeatures | None = None,
        views: ViewOptions | None = None,
        subset: Tensor | None = None,
        images_per_epoch: int | None = None,
    ) -> None:
        super().__init__(backbone)
        self.heads = nn.ModuleDict(heads)
        self._kept = frozen or FrozenFeatures()
        views = views or ViewOptions()
        self._views = {train: views.view(train=train) for train in (True, False)}
        if frozen is not None:
            self.frozen = ("backbone",)
        backbone.requires_grad_(frozen is None)
        self._subset = subset
        self._images_per_epoch = images_per_epoch or len(data.train)
        self.register_buffer("train_labels", _labels(data.train.labels), persistent=False)
        self.register_buffer("test_labels", _labels(data.test.labels), persistent=False)

    def make_views(self, batch: Batch, generator: Generator, *, train: bool) -> dict[str, Tensor]:
        """``images`` (N, C, H, W), or ``features.<layer>`` (N, ...) for each head where they are kept; and ``labels``, (N,) int64."""
        labels = self.get_buffer("train_labels" if train else "test_labels")
        bank = self._kept.train if train else self._kept.test
        if bank is None:
            view = self._views[train]
            return {"images": batch.images if view is None else view(batch.images, generator), "labels": labels[batch.indices]}
        features = {f"features.{layer}": features for layer, features in bank.features(batch.indices).items()}
        return {**features, "labels": labels[bank.images_of(batch.indices)]}

    def forward(self, views: dict[str, Tensor], step: Step) -> StepOutput:
        """Sum of the heads' cross-entropies, which do not touch each other under a frozen backbone; ``<layer>.top1`` of each."""
        layers = list(self.heads.keys())  # torch 2.6 cannot trace a list of the ModuleDict itself
        if "images" in views:
            features = self.backbone(views["images"], layers)
            condensed = {layer: self._head(layer).condense(features[layer]) for layer in layers}
        else:
            condensed = {layer: views[f"features.{layer}"] for layer in layers}
        outputs = [classify(self._head(layer).classify(condensed[layer]), views["labels"], layer) for layer in layers]
        metrics = {name: mean for output in outputs for name, mean in output.metrics.items()}
        predictions = {name: prediction for output in outputs for name, prediction in output.predictions.items()}
        return StepOutput(torch.stack([output.loss for output in outputs]).sum(), metrics, predictions)

    def epoch_indices(self, context: TrainContext) -> Tensor | None:
        """Few labels: the subset repeated, so that an epoch has as many steps as one over all images.

        The remainder is drawn anew for every epoch: datasets are often sorted by class, so the first images of a subset would be those
        of a few classes.
        """
        if self._subset is None:
            return None
        repeats, rest = divmod(self._images_per_epoch, len(self._subset))
        drawn = torch.randperm(len(self._subset), generator=context.generator("subset"))[:rest]
        return torch.cat([self._subset.repeat(repeats), self._subset[drawn]])

    def _head(self, layer: str) -> Head:
        return cast("Head", self.heads[layer])


def fit_classifier(
    backbone: Backbone,
    heads: Mapping[str, Head],
    data: LabeledData,
    training: ClassifierOptions,
    context: RunContext,
    *,
    freeze: bool,
    subset: Tensor | None = None,
    images_per_epoch: int | None = None,
    trunk: FrozenTrunk | None = None,
    metrics_only: bool = False,
) -> Fitted:
    """Train heads, and the backbone too unless ``freeze`` keeps it bit-identical, both in place; measure on all test images after the last
    epoch. Several fits with a frozen backbone may share a ``trunk``.

    With ``metrics_only``, what is trained is not needed afterwards: once finished, the fit's folder keeps its metrics in place of its
    checkpoints, and a resumed call returns them at once, without predictions.
    """
    frozen = None
    if freeze:
        trunk = trunk or FrozenTrunk(backbone, heads, data, training, context, subsets=[subset], images_per_epoch=images_per_epoch)
        frozen = FrozenFeatures(trunk.train(subset), trunk.test)
    objective = Classifier(backbone, heads, data, frozen=frozen, views=training, subset=subset, images_per_epoch=images_per_epoch)
    train = (frozen and frozen.train) or Loader(data.train, batch_size=training.batch_size, device=context.device, options=training.augment)
    test = (frozen and frozen.test) or Loader(data.test, batch_size=training.batch_size, device=context.device)
    checkpoints = Checkpoints(context, identity_of(objective, train, training, context)) if metrics_only else None
    if checkpoints and (kept := checkpoints.load_result()) is not None:
        return Fitted(kept, {})
    result = fit(objective, train, test, training, context, evaluate_every=training.epochs)
    metrics = accuracies_of({layer: result.heldout[f"{layer}.top1"] for layer in heads}, result.predictions)
    if checkpoints:
        checkpoints.save_result(metrics)
    return Fitted(metrics, result.predictions)


def accuracies_of(top1: Mapping[str, float], predictions: Mapping[str, Classified]) -> dict[str, float]:
    """The metrics of several layers, in percent: ``<layer>.top1``; ``<layer>.top5`` of 20 classes or more; of uneven classes
    ``<layer>.balanced``, the mean of their recalls, and ``majority``, what always predicting the largest class would reach.
    """
    metrics: dict[str, float] = {}
    targets = next(iter(predictions.values())).targets
    uneven = is_uneven(targets)
    for layer, accuracy in top1.items():
        metrics[f"{layer}.top1"] = accuracy
        classified = predictions[layer]
        if classified.in_top5 is not None:
            metrics[f"{layer}.top5"] = 100.0 * classified.in_top5.double().mean().item()
        if uneven:
            known = [recall for recall in recalls(classified) if recall is not None]
            metrics[f"{layer}.balanced"] = sum(known) / len(known)
    if uneven:
        metrics["majority"] = 100.0 * targets.bincount().max().item() / len(targets)
    return metrics


def recalls(classified: Classified) -> list[float | None]:
    """For each class, the percentage of its test images that was recognised; None for a class without any."""
    classes, targets, num_classes, _ = classified
    counts = targets.bincount(minlength=num_classes)
    right = targets[classes == targets].bincount(minlength=num_classes)
    return [100.0 * hits / number if number else None for hits, number in zip(right.tolist(), counts.tolist(), strict=True)]


def is_uneven(targets: Tensor) -> bool:
    """Whether some class has at least 1.5 times the test images of another; classes without any are ignored."""
    counts = targets.bincount()
    counts = counts[counts > 0]
    return bool(counts.max() >= 1.5 * counts.min()) and len(counts) > 1


def few_classes(classified: Classified) -> tuple[int, int] | None:
    """The numbers of classes that are ever predicted and that test images have, where the first is less than half the second; else None."""
    named, present = (int(labels.unique().numel()) for labels in (classified.classes, classified.targets))
    return (named, present) if 2 * named < present or (named == 1 and present > 1) else None


def build_heads(
    kind: HeadKind,
    layers: Sequence[str],
    backbone: Backbone,
    data: LabeledData,
    context: RunContext,
    *,
    width: int | None = None,
    view: View | None = None,
) -> dict[str, Head]:
    """A head for each layer, for what ``view`` makes of the training images, initialised from the context's own seed."""
    image = seen(view, data.train.image)
    shapes = feature_shapes(backbone, layers, image)
    heads = {}
    for layer in layers:
        with global_seed(derive_seed(context.seed, context.stage, context.part, "head", layer)):
            heads[layer] = build_head(kind, backbone.layer(layer), shapes[layer], image, data.num_classes, width=width)
    return heads


def check_classifier(
    option: str, layers: Sequence[str], head: HeadKind, training: ClassifierOptions, backbone: Backbone, data: LabeledData
) -> None:
    """Refuse layers, named by ``option``, that the head cannot take, and options that it cannot be trained with."""
    check_layers(option, layers, backbone)
    for layer in layers:
        if head == "conv" and backbone.layer(layer).kind == "vector":
            raise OptionError(option, "a convolution needs a map or tokens, and this layer is a vector", found=layer)
    training.check_views(backbone, layers, data.train.image, head)
    training.check_batch_size(len(data.train))
    if head == "mlp" and training.batch_size == 1:
        raise OptionError("batch_size", "is too small for a head with BatchNorm", found=1, allowed="2 or more")
    if head == "mlp" and training.accumulate_batches == training.batch_size:
        problem, allowed = "leaves a head with BatchNorm one image at a time", f"at most {training.batch_size // 2}"
        raise OptionError("accumulate_batches", problem, found=training.batch_size, allowed=allowed)
    training.optimizers_for(Classifier.phases)


def check_layers(option: str, layers: Sequence[str], backbone: Backbone) -> None:
    """Refuse layers, named by ``option``, that do not exist or are named twice."""
    if not layers:
        raise OptionError(option, "is empty", allowed=backbone.layer_names)
    for layer in layers:
        if layer not in backbone.layer_names:
            raise OptionError(option, "layer does not exist in this backbone", found=layer, allowed=backbone.layer_names)
    if len(set(layers)) < len(layers):
        raise OptionError(option, "names a layer twice", found=list(layers))


def _labels(labels: Any) -> Tensor:
    if labels is None:
        raise DataError("the images have no labels", fix="use data with class folders, or give labels")
    return labels
