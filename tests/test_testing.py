"""Each promise is broken once, on purpose: the check must name it. What ships must keep all of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import pytest
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from sslkit import (
    KNN,
    NIN,
    Backbone,
    Batch,
    ConvProbe,
    DataInfo,
    Evaluation,
    Evaluator,
    FeatureInfo,
    FineTune,
    ImageSpec,
    LabeledData,
    LinearProbe,
    Mean,
    MLPProbe,
    Objective,
    OptionError,
    PretextTask,
    RunContext,
    SemiSupervised,
    StepOutput,
    TimmBackbone,
)
from sslkit.testing import IMAGE, TinyBackbone, check_backbone, check_evaluator, check_pretext_task
from sslkit_rotnet import RotNet

GRAY = ImageSpec(16, 24, "gray", (0.5,), (0.25,))


def broken_promise(check: Callable[..., None], value: object, **options: Any) -> str:
    with pytest.raises(AssertionError) as caught:
        check(value, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ------------------------------------------------------------------------------------------------------------ what ships


@pytest.mark.parametrize("task", [RotNet(), RotNet(angles=(0, 45)), RotNet(transforms=("identity", "transpose"))])
def test_rotnet_keeps_its_promises(task):
    check_pretext_task(task)
    check_pretext_task(task, image=GRAY)


@pytest.mark.parametrize(
    ("build", "image"),
    [
        (TinyBackbone, GRAY),
        (partial(NIN, width=0.05), IMAGE),
        (partial(NIN, num_blocks=5, width=0.05, pool_after_conv3=True), GRAY),
        (partial(TimmBackbone, model="resnet18"), IMAGE),
        (partial(TimmBackbone, model="vit_tiny_patch16_224"), IMAGE),  # tokens, a vector, masked_encode
    ],
    ids=["tiny", "nin", "deep nin", "resnet18", "vit"],
)
def test_backbones_keep_their_promises(build, image):
    check_backbone(build, image=image)


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


def test_what_an_object_refuses_is_its_own_error():
    with pytest.raises(OptionError, match=r"layers: layer does not exist in this backbone; found 'conv2'; allowed: shallow, deep"):
        check_evaluator(LinearProbe(layers=("conv2",), batch_size=8))
    with pytest.raises(OptionError, match="angles: interpolation needs images"):
        check_pretext_task(RotNet(angles=(0, 45)), image=IMAGE._replace(height=4, width=4))


# ------------------------------------------------------------------------------------------------------- broken objectives


class Flipped(Objective):
    """Was an image mirrored? Keeps every promise."""

    heldout_phase = "main"

    def __init__(self, backbone: Backbone) -> None:
        super().__init__(backbone)
        self.head = nn.Linear(backbone.feature_info[-1].num_chs, 2)

    def make_views(self, batch: Batch, generator: Generator, *, train: bool) -> dict[str, Tensor]:
        labels = torch.randint(2, (len(batch.images),), generator=generator)
        images = torch.where(labels[:, None, None, None] == 1, batch.images.flip(-1), batch.images)
        return {"images": images, "labels": labels}

    def forward(self, views: dict[str, Tensor], phase: str, schedule: Mapping[str, Tensor]) -> StepOutput:
        logits = self.head(self.backbone.embed(views["images"]))
        return StepOutput(F.cross_entropy(logits, views["labels"]), {"top1": Mean.of(100.0 * (logits.argmax(1) == views["labels"]))})


@dataclass(frozen=True, kw_only=True)
class Task(PretextTask):
    """Builds whichever objective it is given."""

    objective: type[Objective] = Flipped

    def build_objective(self, backbone: Backbone, data: DataInfo) -> Objective:
        return self.objective(backbone)


class GlobalDraws(Flipped):
    def make_views(self, batch, generator, *, train):
        return {**super().make_views(batch, generator, train=train), "labels": torch.randint(2, (len(batch.images),))}


class WritesIntoTheBatch(Flipped):
    def make_views(self, batch, generator, *, train):
        views = super().make_views(batch, generator, train=train)
        batch.images.zero_()
        return views


class ViewsInAList(Flipped):
    def make_views(self, batch, generator, *, train):
        return [batch.images]


class LossAnImage(Flipped):
    def forward(self, views, phase, schedule):
        return StepOutput(self.head(self.backbone.embed(views["images"])).sum(dim=1), {})


class InfiniteLoss(Flipped):
    def forward(self, views, phase, schedule):
        return StepOutput(super().forward(views, phase, schedule).loss / 0, {})


class ConstantLoss(Flipped):
    def forward(self, views, phase, schedule):
        return StepOutput(super().forward(views, phase, schedule).loss.detach(), {})


class PlainTuple(Flipped):
    def forward(self, views, phase, schedule):
        return super().forward(views, phase, schedule).loss, {}


class MetricWithGraph(Flipped):
    def forward(self, views, phase, schedule):
        loss = super().forward(views, phase, schedule).loss
        return StepOutput(loss, {"loss2": Mean(loss, torch.ones(()))})


class MetricAsFloat(Flipped):
    def forward(self, views, phase, schedule):
        return StepOutput(super().forward(views, phase, schedule).loss, {"top1": 3.0})


class UnusedLayer(Flipped):
    def __init__(self, backbone):
        super().__init__(backbone)
        self.spare = nn.Linear(2, 2)


class ForgottenGroup(UnusedLayer):
    def parameter_groups(self):
        return {"main": [{"params": [*self.backbone.parameters(), *self.head.parameters()]}]}


class UnknownHeldoutPhase(Flipped):
    heldout_phase = "student"


class UnknownFrozenPart(Flipped):
    frozen = ("teacher",)


class WrongGroups(Flipped):
    def parameter_groups(self):
        return {"student": [{"params": [*self.parameters()]}]}


class MovesInEval(Flipped):
    def __init__(self, backbone):
        super().__init__(backbone)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, views, phase, schedule):
        self.calls += 1
        return super().forward(views, phase, schedule)


class HiddenState(Flipped):
    """A running scale of the loss that no checkpoint holds."""

    def __init__(self, backbone):
        super().__init__(backbone)
        self.scale = torch.ones(())

    def forward(self, views, phase, schedule):
        output = super().forward(views, phase, schedule)
        if self.training:
            self.scale = 0.5 * self.scale + output.loss.detach()
        return StepOutput(output.loss * self.scale, output.metrics)


class ExportsItself(Flipped):
    def exported_backbone(self):
        return self


class ExportsAnother(Flipped):
    def exported_backbone(self):
        return NIN(self.backbone.image, num_blocks=3, width=0.01)


@pytest.mark.parametrize(
    ("objective", "promise"),
    [
        (GlobalDraws, "make_views must draw from its generator alone: two calls with the same generator state differ"),
        (WritesIntoTheBatch, "make_views must not write into the batch: copy what you change"),
        (ViewsInAList, "make_views must return a dict of tensors"),
        (LossAnImage, "the loss must be a scalar, and has the shape (8,)"),
        (InfiniteLoss, "the loss must be finite, and is inf"),
        (ConstantLoss, "the loss of phase 'main' depends on nothing that is trained"),
        (PlainTuple, "forward must return a StepOutput"),
        (MetricWithGraph, "metric 'loss2' must be detached: Mean.of(x)"),
        (MetricAsFloat, "metric 'top1' must be a Mean of scalars: Mean.of(x)"),
        (UnusedLayer, "phase 'main' trains spare.weight, spare.bias, which no gradient reaches; if rightly so: without_gradient=[...]"),
        (ForgottenGroup, "no phase trains spare.weight, spare.bias: add to parameter_groups, or set requires_grad_(False)"),
        (UnknownHeldoutPhase, "heldout_phase must be one of its phases or None, and is 'student'"),
        (UnknownFrozenPart, "frozen names 'teacher', which is no submodule of the objective"),
        (WrongGroups, "parameter_groups must have one entry for each phase: main"),
        (MovesInEval, "forward must not change buffers in eval mode; calls differ"),
        (ExportsItself, "exported_backbone must return a Backbone"),
    ],
)
def test_a_broken_objective_is_named(objective, promise):
    assert broken_promise(check_pretext_task, Task(objective=objective)) == f"Task: {promise}"


def test_state_that_no_checkpoint_holds_is_found():
    promise = "a resumed run must end with the same bits: keep what training changes in parameters and persistent buffers; "
    assert broken_promise(check_pretext_task, Task(objective=HiddenState)).startswith(f"Task: {promise}backbone.shallow.0.weight, ")


def test_an_exported_backbone_of_another_architecture_is_found():
    promise = "exported_backbone must have the architecture that the task was given: later stages build that again and load the state; "
    assert broken_promise(check_pretext_task, Task(objective=ExportsAnother)).startswith(f"Task: {promise}Error(s) in loading")


def test_parameters_may_be_said_to_have_no_gradient():
    check_pretext_task(Task())
    check_pretext_task(Task(objective=UnusedLayer), without_gradient=["spare."])


# ------------------------------------------------------------------------------------------------------------ broken options


@dataclass(frozen=True)
class Positional(Task):
    size: int = 3


@dataclass(frozen=True, kw_only=True)
class Bare(Task):
    size = 3


@dataclass(frozen=True, kw_only=True)
class NeedsTokens(Task):
    requires: ClassVar[frozenset[str]] = frozenset({"tokens"})


class NoDataclass(PretextTask):
    def build_objective(self, backbone, data):
        return Flipped(backbone)


@dataclass(frozen=True, kw_only=True)
class BuildsNothing(PretextTask):
    def build_objective(self, backbone, data):
        return backbone


@pytest.mark.parametrize(
    ("task", "promise"),
    [
        (NoDataclass(), "NoDataclass: must be a @dataclass(frozen=True, kw_only=True)"),
        (Positional(), "Positional: the option size must be keyword-only: @dataclass(frozen=True, kw_only=True)"),
        (Bare(), "Bare: size has no annotation, so it is no option: annotate it, as a ClassVar if it is none"),
        (NeedsTokens(), "NeedsTokens: requires tokens, which TinyBackbone does not have: pass another backbone=..."),
        (BuildsNothing(), "BuildsNothing: build_objective must return an Objective"),
    ],
)
def test_a_broken_task_is_named(task, promise):
    assert broken_promise(check_pretext_task, task) == promise


def test_a_task_that_can_be_changed_is_found():
    @dataclass(kw_only=True)
    class Thawed(PretextTask):
        size: int = 3

        def build_objective(self, backbone, data):
            return Flipped(backbone)

    assert broken_promise(check_pretext_task, Thawed()) == "Thawed: must be a @dataclass(frozen=True, kw_only=True)"


# ---------------------------------------------------------------------------------------------------------- broken backbones


class WrongChannels(TinyBackbone):
    feature_info = (FeatureInfo("shallow", 4, 2), FeatureInfo("deep", 9, 4))


class WrongReduction(TinyBackbone):
    feature_info = (FeatureInfo("shallow", 4, 2), FeatureInfo("deep", 8, 8))


class WrongKind(TinyBackbone):
    feature_info = (FeatureInfo("shallow", 4, 2), FeatureInfo("deep", 8, 4, "tokens"))
    capabilities = frozenset({"map", "tokens"})


class UntoldKind(WrongKind):
    capabilities = frozenset({"map"})


class UnknownKind(TinyBackbone):
    feature_info = (FeatureInfo("shallow", 4, 2), FeatureInfo("deep", 8, 4, "graph"))  # pyright: ignore[reportArgumentType]


class SameNames(TinyBackbone):
    feature_info = (FeatureInfo("deep", 4, 2), FeatureInfo("deep", 8, 4))


class NoLayers(TinyBackbone):
    feature_info = ()


class TooMany(TinyBackbone):
    def extract(self, x, layers):
        return super().extract(x, ["shallow", "deep"])


class TooDeep(TinyBackbone):
    def extract(self, x, layers):
        return {layer: features for layer, features in super().extract(x, ["shallow", "deep"]).items() if layer in layers}


class DropsInEval(TinyBackbone):
    def extract(self, x, layers):
        return {layer: F.dropout(features) for layer, features in super().extract(x, layers).items()}


class Overwrites(TinyBackbone):
    def extract(self, x, layers):
        features = super().extract(x, layers)
        return {"shallow": features["shallow"].zero_(), **features} if len(layers) > 1 else features


class CountsInEval(TinyBackbone):
    def __init__(self, image: ImageSpec) -> None:
        super().__init__(image)
        self.register_buffer("calls", torch.zeros(()))

    def extract(self, x, layers):
        self.calls += 1
        return super().extract(x, layers)


class ReadsValues(TinyBackbone):
    def __init__(self, image: ImageSpec) -> None:
        super().__init__(image)
        self.scale = float(self.deep[0].weight.detach().std())


class DataOnMeta(TinyBackbone):
    def __init__(self, image: ImageSpec) -> None:
        super().__init__(image)
        self.register_buffer("table", torch.zeros(3, device="cpu"))


class HiddenWeights(TinyBackbone):
    def __init__(self, image: ImageSpec) -> None:
        super().__init__(image)
        self.projection = torch.randn(8, 1, 1)

    def extract(self, x, layers):
        return {layer: f * self.projection if layer == "deep" else f for layer, f in super().extract(x, layers).items()}


class PositionalOption(TinyBackbone):
    def __init__(self, image: ImageSpec, width: int = 3) -> None:
        super().__init__(image)


class BareOption(TinyBackbone):
    def __init__(self, image: ImageSpec, *, width=3) -> None:
        super().__init__(image)


class OtherImage(TinyBackbone):
    def __init__(self, image: ImageSpec) -> None:
        super().__init__(image._replace(mean=(0.0, 0.0, 0.0)))


class OtherSizes(TinyBackbone):
    def extract(self, x, layers):
        return {layer: features[..., :8, :8] for layer, features in super().extract(x, layers).items()}

    feature_info = (FeatureInfo("shallow", 4, 4), FeatureInfo("deep", 8, 4))


class WrongMasks(TinyBackbone):
    capabilities = frozenset({"map", "masked_encode"})

    def masked_encode(self, images, keep):
        return torch.zeros(2, 3, 8)


@pytest.mark.parametrize(
    ("build", "promise"),
    [
        (WrongChannels, "layer 'deep' has num_chs 9, reduction 4 and the kind 'map', but images of (32, 32) give the shape (2, 8, 8, 8)"),
        (WrongReduction, "layer 'deep' has num_chs 8, reduction 8 and the kind 'map', but images of (32, 32) give the shape (2, 8, 8, 8)"),
        (
            WrongKind,
            "layer 'deep' has num_chs 8, reduction 4 and the kind 'tokens', but images of (32, 32) give the shape (2, 8, 8, 8)"
            " instead of (2, 64, 8)",
        ),
        (UntoldKind, "layer 'deep' is of the kind 'tokens': capabilities must hold it"),
        (UnknownKind, "layer 'deep' is of the kind 'graph', not one of map, tokens, vector"),
        (SameNames, "feature_info must give each layer a name of its own, and has deep, deep"),
        (NoLayers, "feature_info must be a tuple of one FeatureInfo or more"),
        (TooMany, "extract must return exactly the layers asked for, ('shallow',), and returned ('shallow', 'deep')"),
        (TooDeep, "extract must stop at the deepest layer asked for: for 'shallow' it also ran deep.0, deep.1"),
        (DropsInEval, "eval mode must be deterministic: two passes differ at 'shallow'"),
        (Overwrites, "layer 'shallow' must not depend on what else is asked for: does a later layer write into it?"),
        (CountsInEval, "extract must not change buffers in eval mode; calls differ"),
        (DataOnMeta, "on the meta device no tensor may hold data, and table does"),
        (HiddenWeights, "the state dict must hold all of the backbone: another one with the same state gives other features at 'deep'"),
        (PositionalOption, "the option width must be keyword-only: put * before it in the constructor"),
        (BareOption, "the option width must have an annotation in the constructor"),
        (OtherImage, "image must be what it is built for: call super().__init__(image)"),
        (OtherSizes, "layer 'shallow' has num_chs 4, reduction 4 and the kind 'map', but images of (64, 64) give the shape (2, 4, 8, 8)"),
        (WrongMasks, "masked_encode must return (N, L_keep, D) tokens, and returned (2, 3, 8)"),
    ],
)
def test_a_broken_backbone_is_named(build, promise):
    assert broken_promise(check_backbone, build) == f"{build.__name__}: {promise}"


def test_a_backbone_that_reads_values_while_it_is_built_is_found():
    promise = "ReadsValues: must be built on the meta device, without reading a tensor's values ("
    assert broken_promise(check_backbone, ReadsValues).startswith(promise)


# --------------------------------------------------------------------------------------------------------- broken evaluators


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


@pytest.mark.parametrize(
    ("cls", "promise"),
    [
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


def test_the_backbone_to_test_with_can_be_chosen():
    build: Callable[[ImageSpec], Backbone] = partial(NIN, num_blocks=3, width=0.02)
    check_evaluator(LinearProbe(layers=("conv2",), epochs=1, batch_size=8), backbone=build, image=GRAY)
    check_pretext_task(RotNet(), backbone=build)


def test_the_documented_layers_are_the_tiny_backbones():
    assert TinyBackbone(IMAGE).layer_names == ("shallow", "deep")
