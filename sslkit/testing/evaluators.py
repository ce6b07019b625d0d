"""The promises of an evaluator."""

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from sslkit.contract.backbone import Backbone
from sslkit.contract.evaluator import Evaluation, Evaluator
from sslkit.contract.images import ImageSet, ImageSpec, LabeledData
from sslkit.contract.objective import Classified
from sslkit.testing.promises import check_options, check_requirements, check_same, load_state, promises_of, require, state_of
from sslkit.testing.specimens import IMAGE, Build, LabelsOnly, TinyBackbone, build_seeded, cpu_context, labeled_set
from sslkit.training.seeds import global_seed

NUM_TRAIN, NUM_TEST = 24, 12

_METRIC = re.compile(r"[\w-]+(\.[\w-]+)*")


def check_evaluator(evaluator: Evaluator, *, image: ImageSpec | None = None, backbone: Build = TinyBackbone) -> None:
    """Check an evaluator on random images of three classes: 24 to train on, 12 to test with.

    Its options, ``check`` without weights and images, the metrics, whether they repeat, whether labels and images stay as they are, and
    a backbone that is to stay frozen does, and what it leaves. One that needs no labels gets none.

    Args:
        evaluator: with the options to test; its layers are those of ``backbone``, and a batch has 24 images at most.
        image: of the data; None: ``IMAGE``.
        backbone: builds the network to measure.

    Raises:
        AssertionError: names the broken promise.
        SslkitError: what the evaluator or the backbone itself refuses.
    """
    image = IMAGE if image is None else image
    with promises_of(evaluator):
        check_options(type(evaluator))
        with torch.device("meta"):
            outline = backbone(image)
        check_requirements(evaluator.requires, outline)
        labeled = evaluator.needs_labels
        without_images = LabeledData(LabelsOnly(image, NUM_TRAIN, labeled=labeled), LabelsOnly(image, NUM_TEST, labeled=labeled))
        with _untouched(without_images):
            evaluator.check(outline, without_images)
        train, test = labeled_set(image, NUM_TRAIN), labeled_set(image, NUM_TEST, seed=1)
        data = LabeledData(train, test) if labeled else LabeledData(train.without_labels(), test.without_labels())
        network = build_seeded(backbone, image)
        before = state_of(network)
        evaluation = _evaluate(evaluator, network, data, seed=0)
        if evaluator.frozen:
            check_same(state_of(network), before, "the backbone must stay frozen")
        _check_metrics(evaluation)
        _check_predictions(evaluation, data)
        again = _evaluate(evaluator, build_seeded(backbone, image), data, seed=1)
        require(again.metrics == evaluation.metrics, "the metrics must repeat: draw from generators that context.seed alone decides")
        _check_left(evaluator, evaluation, build_seeded(backbone, image, seed=1))


def _evaluate(evaluator: Evaluator, backbone: Backbone, data: LabeledData, *, seed: int) -> Evaluation:
    """One evaluation, whatever the state of the global generator."""
    with global_seed(seed), _untouched(data):
        evaluation = evaluator.evaluate(backbone, data, cpu_context("evaluate"))
    require(isinstance(evaluation, Evaluation), "evaluate must return an Evaluation")
    return evaluation


@contextmanager
def _untouched(data: LabeledData) -> Iterator[None]:
    """Labels and images are lent to an evaluator, and other stages measure with the same ones."""
    before = [_copies(images) for images in data]
    yield
    for found, expected in zip(map(_copies, data), before, strict=True):
        check_same(found, expected, "labels and pixels must stay as they are: copy what you write into")


def _copies(images: ImageSet) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in (("labels", images.labels), ("pixels", images.pixels)) if tensor is not None}


def _check_metrics(evaluation: Evaluation) -> None:
    require(evaluation.metrics, "evaluate must report a metric")
    for name, value in evaluation.metrics.items():
        require(isinstance(name, str) and _METRIC.fullmatch(name), f"metric {name!r} must have a dotted name, such as 'layer.top1'")
        require(isinstance(value, float), f"metric {name!r} must be a float, and its type is {type(value).__name__}")
        require(math.isfinite(value), f"metric {name!r} must be finite, and is {value}")
        accuracy = name.rpartition(".")[2] == "top1"
        require(not accuracy or 0 <= value <= 100, f"metric {name!r} must be in percent, and is {value}")


def _check_predictions(evaluation: Evaluation, data: LabeledData) -> None:
    for name, prediction in evaluation.predictions.items():
        promise = f"prediction {name!r} must be Classified.of(logits, targets)"
        require(isinstance(prediction, Classified), f"{promise}, and its type is {type(prediction).__name__}")
        shapes, expected = [tuple(values.shape) for values in prediction[:2]], (len(data.test),)
        require(shapes == [expected] * 2, f"{promise} of every test image, {expected}, and has the shapes {shapes[0]} and {shapes[1]}")
        num_classes = prediction.num_classes
        require(num_classes == data.num_classes, f"{promise} of every class, {data.num_classes}, and is of {num_classes}")
        labels = data.test.labels
        require(labels is None or torch.equal(prediction.targets, labels), f"the targets of prediction {name!r} must be the labels")


def _check_left(evaluator: Evaluator, evaluation: Evaluation, fresh: Backbone) -> None:
    heads = evaluation.heads
    require(all(isinstance(head, nn.Module) for head in heads.values()), "heads must be modules by name")
    require(not any("." in name for name in heads), f"the name of a head must have no dot: {', '.join(heads)}")
    left, exports = evaluation.backbone is not None, evaluator.exports_backbone
    require(left == exports, f"exports_backbone is {exports}, so evaluate must return {'a backbone' if exports else 'none'}")
    if evaluation.backbone is not None:
        load_state(fresh, evaluation.backbone.state_dict(), "the backbone that evaluate returns must have the architecture it was given")
