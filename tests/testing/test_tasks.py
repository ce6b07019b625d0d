"""Each promise is broken once, on purpose: the check must name it. What ships must keep all of them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import pytest
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from sslkit import NIN, Backbone, Batch, DataInfo, ImageSpec, Mean, Objective, OptionError, Prediction, PretextTask, Step, StepOutput
from sslkit.contract.errors import PluginError
from sslkit.testing import IMAGE, check_pretext_task
from sslkit_rotnet import RotNet
from tests.contract.families import FAMILIES
from tests.testing.broken import broken_promise

GRAY = ImageSpec(16, 24, "gray", (0.5,), (0.25,))


@pytest.mark.parametrize("task", [RotNet(), RotNet(angles=(0, 45)), RotNet(transforms=("identity", "transpose"))])
def test_rotnet_keeps_its_promises(task):
    check_pretext_task(task)
    check_pretext_task(task, image=GRAY)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES.keys())
def test_every_family_of_methods_keeps_its_promises(family):
    check_pretext_task(family.task, backbone=family.backbone)


def test_what_a_task_refuses_is_its_own_error():
    with pytest.raises(OptionError, match="angles: interpolation needs images"):
        check_pretext_task(RotNet(angles=(0, 45)), image=IMAGE._replace(height=4, width=4))


def test_the_backbone_to_test_with_can_be_chosen():
    check_pretext_task(RotNet(), backbone=partial(NIN, num_blocks=3, width=0.02))


# ---------------------------------------------------------------------------------------------------- broken objectives


GENERATOR = torch.Generator()
ORDER = "make_views must make row i of 'images' from image i % N alone, view after view as torch.cat of k views has it"


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

    def forward(self, views: dict[str, Tensor], step: Step) -> StepOutput:
        logits = self.head(self.backbone.embed(views["images"]))
        return StepOutput(F.cross_entropy(logits, views["labels"]), {"top1": Mean.of(100.0 * (logits.argmax(1) == views["labels"]))})


@dataclass(frozen=True, kw_only=True)
class Task(PretextTask):
    """Builds whichever objective it is given."""

    objective: type[Objective] = Flipped

    def build_objective(self, backbone: Backbone, data: DataInfo) -> Objective:
        return self.objective(backbone)


def views(change: Callable[[Batch, dict[str, Tensor]], object]) -> type[Objective]:
    """Makes other views than ``Flipped`` does."""

    class Changed(Flipped):
        def make_views(self, batch, generator, *, train):
            return change(batch, super().make_views(batch, generator, train=train))

    return Changed


def outputs(change: Callable[[Any, dict[str, Tensor], StepOutput], object]) -> type[Objective]:
    """Returns something else than ``Flipped`` does."""

    class Changed(Flipped):
        def forward(self, views, step):
            return change(self, views, super().forward(views, step))

    return Changed


def predicting(logits: Callable[[Any], Tensor], targets: Callable[[Tensor], Tensor], *, names: tuple[str, ...] = ()) -> type[Objective]:
    """Makes a prediction called ``turn``, by way of the objective and of the labels."""

    class Changed(Flipped):
        classes = names

        def forward(self, views, step):
            prediction = Prediction(logits(self), targets(views["labels"]))
            return super().forward(views, step)._replace(predictions={"turn": prediction})

    return Changed


def having(**attributes: object) -> type[Objective]:
    """Has other attributes or methods than ``Flipped``."""
    return type("Changed", (Flipped,), attributes)


def zeros(rows: int, columns: int) -> Callable[[Any], Tensor]:
    return lambda _: torch.zeros(rows, columns)


def overwritten(batch: Batch, views: dict[str, Tensor]) -> dict[str, Tensor]:
    batch.images.zero_()
    return views


def both(batch: Batch, _views: object = None) -> dict[str, Tensor]:
    """Each image as it is and mirrored, view after view."""
    return {"images": torch.cat([batch.images, batch.images.flip(-1)]), "labels": torch.arange(2).repeat_interleave(len(batch.images))}


def interleaved(batch: Batch, _views: object) -> dict[str, Tensor]:
    images = torch.stack([batch.images, batch.images.flip(-1)], dim=1).flatten(0, 1)
    return {"images": images, "labels": torch.arange(2).repeat(len(batch.images))}


def mixed(batch: Batch, _views: object) -> dict[str, Tensor]:
    views = both(batch)
    return {**views, "images": views["images"] // 2 + views["images"].roll(1, dims=0) // 2}


class SeedsItself(Flipped):
    def __init__(self, backbone):
        super().__init__(backbone)
        with torch.no_grad():
            self.head.bias.copy_(torch.rand(2, generator=GENERATOR))


class UnusedLayer(Flipped):
    def __init__(self, backbone):
        super().__init__(backbone)
        self.spare = nn.Linear(2, 2)


class ForgottenGroup(UnusedLayer):
    def parameter_groups(self):
        return {"main": [{"params": [*self.backbone.parameters(), *self.head.parameters()]}]}


class MovesInEval(Flipped):
    def __init__(self, backbone):
        super().__init__(backbone)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, views, step):
        self.calls += 1
        return super().forward(views, step)


class HiddenState(Flipped):
    """A running scale of the loss that no checkpoint holds."""

    def __init__(self, backbone):
        super().__init__(backbone)
        self.scale = torch.ones(())

    def forward(self, views, step):
        output = super().forward(views, step)
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
        (
            views(lambda batch, views: {**views, "labels": torch.randint(2, (len(batch.images),))}),
            "make_views must draw from its generator alone: two calls with the same generator state differ",
        ),
        (views(overwritten), "make_views must not write into the batch: copy what you change"),
        (
            views(lambda batch, views: {**views, "labels": batch.indices % 2}),
            "held-out images have other indices than training images: look nothing up by them, or set heldout_phase = None",
        ),
        (views(lambda batch, _: [batch.images]), "make_views must return a dict of tensors"),
        (views(interleaved), f"{ORDER}: with N = 8, image 0 changes row 1 (of image 1)"),
        (views(mixed), f"{ORDER}: with N = 8, image 0 changes row 1 (of image 1), 9 (of image 1)"),
        (
            outputs(lambda self, views, _: StepOutput(self.head(self.backbone.embed(views["images"])).sum(dim=1), {})),
            "the loss must be a scalar, and has the shape (8,)",
        ),
        (outputs(lambda _, __, output: StepOutput(output.loss / 0, {})), "the loss must be finite, and is inf"),
        (
            outputs(lambda _, __, output: StepOutput(output.loss.detach(), {})),
            "the loss of phase 'main' depends on nothing that is trained",
        ),
        (outputs(lambda _, __, output: (output.loss, {})), "forward must return a StepOutput"),
        (
            outputs(lambda _, __, output: StepOutput(output.loss, {"loss2": Mean(output.loss, torch.ones(()))})),
            "metric 'loss2' must be detached: Mean.of(x)",
        ),
        (
            predicting(lambda self: self.head.weight[:, :2].repeat(4, 1)[:4], lambda _: torch.zeros(4, dtype=torch.int64)),
            "prediction 'turn' must be detached",
        ),
        (
            predicting(zeros(4, 2), lambda _: torch.zeros(3, dtype=torch.int64)),
            "prediction 'turn' must be logits (M, K) and targets (M,)",
        ),
        (predicting(zeros(4, 2), lambda _: torch.full((4,), 2)), "prediction 'turn' has targets beyond its 2 classes"),
        (
            predicting(zeros(8, 2), lambda labels: labels, names=("upright", "mirrored", "both")),
            "classes names 3, and prediction 'turn' has logits of 2",
        ),
        (
            predicting(zeros(4, 2), lambda labels: labels[:4]),
            "prediction 'turn' must be of every view of every image, and is of 4 for 8 images",
        ),
        (
            outputs(lambda self, _, o: o if self.training else o._replace(metrics={"accuracy": o.metrics["top1"]})),
            "phase 'main' must have the same metrics and predictions in eval mode as in training: accuracy, top1 is in one alone",
        ),
        (SeedsItself, "the seed must decide the weights: draw them from torch's global generator alone; head.bias differ"),
        (outputs(lambda _, __, output: StepOutput(output.loss, {"top1": 3.0})), "metric 'top1' must be a Mean of scalars: Mean.of(x)"),
        (
            outputs(lambda _, __, output: output._replace(metrics={"top1": Mean(torch.zeros(()), torch.ones(2))})),
            "metric 'top1' must be a Mean of scalars: Mean.of(x)",
        ),
        (UnusedLayer, "phase 'main' trains spare.weight, spare.bias, which no gradient reaches; if rightly so: without_gradient=[...]"),
        (ForgottenGroup, "no phase trains spare.weight, spare.bias: add to parameter_groups, or set requires_grad_(False)"),
        (having(heldout_phase="student"), "heldout_phase must be one of its phases or None, and is 'student'"),
        (having(frozen=("teacher",)), "frozen names 'teacher', which is no submodule of the objective"),
        (
            having(parameter_groups=lambda self: {"student": [{"params": [*self.parameters()]}]}),
            "parameter_groups must have one entry for each phase: main",
        ),
        (MovesInEval, "forward must not change buffers in eval mode; calls differ"),
    ],
)
def test_a_broken_objective_is_named(objective, promise):
    assert broken_promise(check_pretext_task, Task(objective=objective)) == f"Task: {promise}"


def test_views_in_another_order_are_refused_by_that_check_alone(monkeypatch):
    check_pretext_task(Task(objective=views(both)))
    monkeypatch.setattr("sslkit.testing.tasks._check_order", lambda *_args, **_options: None)
    for change in (interleaved, mixed):
        check_pretext_task(Task(objective=views(change)))


def test_state_that_no_checkpoint_holds_is_found():
    promise = "a resumed run must end with the same bits: keep what training changes in parameters and persistent buffers; "
    assert broken_promise(check_pretext_task, Task(objective=HiddenState)).startswith(f"Task: {promise}backbone.shallow.0.weight, ")


def test_an_exported_backbone_of_another_architecture_is_found():
    promise = "exported_backbone must have the architecture that the task was given: later stages build that again and load the state; "
    assert broken_promise(check_pretext_task, Task(objective=ExportsAnother)).startswith(f"Task: {promise}Error(s) in loading")


def test_an_objective_that_exports_no_backbone_is_refused_as_in_a_run():
    with pytest.raises(PluginError, match=r"^ExportsItself of .*: exported_backbone must return a Backbone; found 'ExportsItself'$"):
        check_pretext_task(Task(objective=ExportsItself))


def test_the_count_of_a_metric_may_be_a_tensor():
    def first(_self, views, output):
        chosen = views["labels"] == 0
        return output._replace(metrics={"first": Mean((output.loss.detach() * chosen).sum(), chosen.sum())})

    check_pretext_task(Task(objective=outputs(first)))


def test_parameters_may_be_said_to_have_no_gradient():
    check_pretext_task(Task())
    check_pretext_task(Task(objective=UnusedLayer), without_gradient=["spare."])


# ---------------------------------------------------------------------------------------------------- broken tasks


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
