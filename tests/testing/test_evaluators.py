"""Each promise is broken once, on purpose: the check must name it. What ships must keep all of them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

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


def evaluating(evaluate: Callable[[Backbone, LabeledData], object]) -> type[Constant]:
    """Does this, where a ``Constant`` only reports."""
    return type("Changed", (Constant,), {"evaluate": lambda _self, backbone, data, _context: evaluate(backbone, data)})


def predicting(predict: Callable[[Tensor], Prediction]) -> type[Constant]:
    """Hands over a prediction, by way of the right labels."""
    return evaluating(lambda _, data: Evaluation({"deep.top1": 50.0}, predictions={"deep": predict(data.test.labels)}))


class MovesTheBackbone(Constant):
    def evaluate(self, backbone, data, context):
        backbone(data.train.read(range(4)), ["deep"])  # in training mode: BatchNorm counts
        return super().evaluate(backbone, data, context)


class KeepsTheBackbone(Constant):
    exports_backbone: ClassVar[bool] = True


class NeedsVectors(Constant):
    requires: ClassVar[frozenset[str]] = frozenset({"vector"})


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
            predicting(lambda labels: Classified.of(torch.zeros(10, 3), labels[:10])),
            "prediction 'deep' must be Classified.of(logits, targets) of every test image, (12,), and has the shapes (10,) and (10,)",
        ),
        (
            predicting(lambda labels: Prediction(torch.zeros(12, 3), labels)),
            "prediction 'deep' must be Classified.of(logits, targets), and its type is Prediction",
        ),
        (
            predicting(lambda labels: Classified.of(torch.zeros(12, 4), labels)),
            "prediction 'deep' must be Classified.of(logits, targets) of every class, 3, and is of 4",
        ),
        (
            predicting(lambda labels: Classified.of(torch.zeros(12, 3), labels.flip(0))),
            "the targets of prediction 'deep' must be the labels",
        ),
        (
            evaluating(lambda _, __: Evaluation({"top1": float(torch.rand(()))})),
            "the metrics must repeat: draw from generators that context.seed alone decides",
        ),
        (
            type("Reading", (Constant,), {"check": lambda _self, _backbone, data: data.train.read([0])}),
            "check must read labels only, and read images",
        ),
        (evaluating(lambda _, __: {"deep.top1": 50.0}), "evaluate must return an Evaluation"),
        (KeepsTheBackbone, "exports_backbone is True, so evaluate must return a backbone"),
        (
            evaluating(lambda backbone, _: Evaluation({"deep.top1": 50.0}, backbone=backbone)),
            "exports_backbone is False, so evaluate must return none",
        ),
        (
            evaluating(lambda _, __: Evaluation({"deep.top1": 50.0}, heads={"deep.k20": nn.Linear(1, 1)})),
            "the name of a head must have no dot: deep.k20",
        ),
        (NeedsVectors, "requires vector, which TinyBackbone does not have: pass another backbone=..."),
    ],
)
def test_a_broken_evaluator_is_named(cls, promise):
    assert broken_promise(check_evaluator, cls()) == f"{cls.__name__}: {promise}"


def test_a_backbone_that_moves_is_found():
    message = broken_promise(check_evaluator, MovesTheBackbone())
    assert message.startswith("MovesTheBackbone: the backbone must stay frozen; shallow.1.running_mean, shallow.1.running_var, ")
