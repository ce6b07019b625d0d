"""Each promise is broken once, on purpose: the check must name it. What ships must keep all of them."""

from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import pytest
import torch
from torch import nn

from sslkit import (
    KNN,
    NIN,
    Backbone,
    Classified,
    ConvProbe,
    Evaluation,
    Evaluator,
    FineTune,
    ImageSpec,
    LabeledData,
    LinearProbe,
    MLPProbe,
    OptionError,
    Prediction,
    RunContext,
    SemiSupervised,
)
from sslkit.testing import check_evaluator
from tests.testing.broken import broken_promise

GRAY = ImageSpec(16, 24, "gray", (0.5,), (0.25,))


@pytest.mark.parametrize(
    "evaluator",
    [
        LinearProbe(layers=("shallow", "deep"), epochs=1, batch_size=8),
        MLPProbe(layers=("deep",), hidden=4, epochs=1, batch_size=8),
        ConvProbe(layers=("shallow",), epochs=1, batch_size=8),
        FineTune(epochs=1, batch_size=8),
        KNN(layers=("deep",), k=3),
        SemiSupervised(layers=("deep",), labels_per_class=(1, 2), head="linear", epochs=1, batch_size=8),
    ],
    ids=lambda evaluator: type(evaluator).__name__,
)
def test_evaluators_keep_their_promises(evaluator):
    check_evaluator(evaluator)


def test_what_an_evaluator_refuses_is_its_own_error():
    with pytest.raises(OptionError, match=r"layers: layer does not exist in this backbone; found 'conv2'; allowed: shallow, deep"):
        check_evaluator(LinearProbe(layers=("conv2",), batch_size=8))


def test_the_backbone_to_test_with_can_be_chosen():
    build = partial(NIN, num_blocks=3, width=0.02)
    check_evaluator(LinearProbe(layers=("conv2",), epochs=1, batch_size=8), backbone=build, image=GRAY)


@dataclass(frozen=True, kw_only=True)
class Constant(Evaluator):
    """Reports what it is told."""

    metrics: dict = field(default_factory=lambda: {"deep.top1": 50.0})

    @property
    def frozen(self) -> bool:
        return True

    def check(self, backbone: Backbone, data: LabeledData) -> None:
        pass

    def evaluate(self, backbone: Backbone, data: LabeledData, context: RunContext) -> Evaluation:
        return Evaluation(self.metrics)


@pytest.mark.parametrize(
    ("metrics", "promise"),
    [
        ({}, "evaluate must report a metric"),
        ({"top 1": 1.0}, "metric 'top 1' must have a dotted name, such as 'layer.top1'"),
        ({"top1": torch.ones(())}, "metric 'top1' must be a float, and its type is Tensor"),
        ({"top1": 1}, "metric 'top1' must be a float, and its type is int"),
        ({"loss": float("nan")}, "metric 'loss' must be finite, and is nan"),
        ({"deep.top1": 100.1}, "metric 'deep.top1' must be in percent, and is 100.1"),
    ],
)
def test_broken_metrics_are_named(metrics, promise):
    check_evaluator(Constant())
    assert broken_promise(check_evaluator, Constant(metrics=metrics)) == f"Constant: {promise}"


class MovesTheBackbone(Constant):
    def evaluate(self, backbone, data, context):
        backbone(data.train.read(range(4)), ["deep"])  # in training mode: BatchNorm counts
        return super().evaluate(backbone, data, context)


class DrawsGlobally(Constant):
    def evaluate(self, backbone, data, context):
        return Evaluation({"top1": float(torch.rand(()))})


class ReadsImages(Constant):
    def check(self, backbone, data):
        data.train.read([0])


class ReturnsADict(Constant):
    def evaluate(self, backbone, data, context):
        return self.metrics


class KeepsTheBackbone(Constant):
    exports_backbone: ClassVar[bool] = True


class LeavesABackbone(Constant):
    def evaluate(self, backbone, data, context):
        return Evaluation(self.metrics, backbone=backbone)


class DottedHead(Constant):
    def evaluate(self, backbone, data, context):
        return Evaluation(self.metrics, heads={"deep.k20": nn.Linear(1, 1)})


class NeedsVectors(Constant):
    requires: ClassVar[frozenset[str]] = frozenset({"vector"})


class ShortPredictions(Constant):
    def evaluate(self, backbone, data, context):
        return Evaluation(self.metrics, predictions={"deep": Classified.of(torch.zeros(10, 3), data.test.labels[:10])})


class WholePredictions(Constant):
    def evaluate(self, backbone, data, context):
        return Evaluation(self.metrics, predictions={"deep": Prediction(torch.zeros(12, 3), data.test.labels)})


class OtherClasses(Constant):
    def evaluate(self, backbone, data, context):
        return Evaluation(self.metrics, predictions={"deep": Classified.of(torch.zeros(12, 4), data.test.labels)})


class ShuffledPredictions(Constant):
    def evaluate(self, backbone, data, context):
        return Evaluation(self.metrics, predictions={"deep": Classified.of(torch.zeros(12, 3), data.test.labels.flip(0))})


class ReadsLabelsThatItDoesNotNeed(Constant):
    needs_labels: ClassVar[bool] = False

    def evaluate(self, backbone, data, context):
        assert data.train.labels is None
        assert data.train.classes == data.test.classes == ()
        return super().evaluate(backbone, data, context)


def test_an_evaluator_that_needs_no_labels_gets_none():
    check_evaluator(ReadsLabelsThatItDoesNotNeed())


@pytest.mark.parametrize(
    ("cls", "promise"),
    [
        (
            ShortPredictions,
            "prediction 'deep' must be Classified.of(logits, targets) of every test image, (12,), and has the shapes (10,) and (10,)",
        ),
        (WholePredictions, "prediction 'deep' must be Classified.of(logits, targets), and its type is Prediction"),
        (OtherClasses, "prediction 'deep' must be Classified.of(logits, targets) of every class, 3, and is of 4"),
        (ShuffledPredictions, "the targets of prediction 'deep' must be the labels"),
        (DrawsGlobally, "the metrics must repeat: draw from generators that context.seed alone decides"),
        (ReadsImages, "check must read labels only, and read images"),
        (ReturnsADict, "evaluate must return an Evaluation"),
        (KeepsTheBackbone, "exports_backbone is True, so evaluate must return a backbone"),
        (LeavesABackbone, "exports_backbone is False, so evaluate must return none"),
        (DottedHead, "the name of a head must have no dot: deep.k20"),
        (NeedsVectors, "requires vector, which TinyBackbone does not have: pass another backbone=..."),
    ],
)
def test_a_broken_evaluator_is_named(cls, promise):
    assert broken_promise(check_evaluator, cls()) == f"{cls.__name__}: {promise}"


def test_a_backbone_that_moves_is_found():
    message = broken_promise(check_evaluator, MovesTheBackbone())
    assert message.startswith("MovesTheBackbone: the backbone must stay frozen; shallow.1.running_mean, shallow.1.running_var, ")
