from dataclasses import dataclass
from typing import Literal, final

import pytest
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from sslkit import (
    AdamW,
    Arrays,
    Augment,
    Backbone,
    BackboneError,
    Batch,
    DataError,
    DataInfo,
    FitStart,
    HeldoutEnd,
    Objective,
    OptionError,
    Prediction,
    PretextTask,
    Step,
    StepOutput,
    TrainingOptions,
)
from sslkit.audit.finding import Finding
from sslkit.audit.sources import SOURCES
from sslkit.audit.task_audit import AuditOptions, audit_task
from sslkit.contract.runtime import Runtime
from sslkit.testing import TinyBackbone
from sslkit_rotnet import RotNet
from tests.observers import Recorder

CPU = Runtime(device="cpu", precision="float32")
TRAINING = TrainingOptions(optimizer=AdamW(lr=5e-3, weight_decay=0.0))


def pictures(num_images: int, *, size: int = 16, seed: int = 0) -> Tensor:
    """Soft, coloured and lit from above: (num_images, 3, size, size) uint8."""
    noise = torch.randn(num_images, 3, size + 2, size + 2, generator=Generator().manual_seed(seed))
    light = torch.linspace(40, -40, size)[:, None]
    return (120 + 80 * F.avg_pool2d(noise, 3, stride=1) + light).round().clamp(0, 255).to(torch.uint8)


@pytest.fixture(scope="module")
def data() -> Arrays:
    return Arrays(train_images=pictures(500), test_images=pictures(250, seed=1))


def audited(task: PretextTask, data: Arrays, *sources: str, num_images: int = 500, epochs: int = 2, seed: int = 0) -> tuple[Finding, ...]:
    options = AuditOptions(sources=sources, num_images=num_images, epochs=epochs, seed=seed)
    return audit_task(task, data, options=options, backbone=TinyBackbone, training=TRAINING, runtime=CPU)


@final
@dataclass(frozen=True, kw_only=True)
class Marked(PretextTask):
    """Which of three marks has an image? ``leak`` says what gives it away.

    Attributes:
        leak: brightness shows in every image, nothing in none.
        views: how many copies of an image there are; 2 for every other image: not equally many.
        order: whether the copies of an image lie together.
        show: what the objective says of its classes.
    """

    leak: Literal["brightness", "nothing"] = "brightness"
    views: Literal["one", "all", "uneven"] = "all"
    order: Literal["image by image", "class by class"] = "class by class"
    show: Literal["all", "no names", "no predictions", "no phase"] = "all"

    def build_objective(self, backbone: Backbone, data: DataInfo) -> Objective:
        return MarkPrediction(backbone, self)


class MarkPrediction(Objective):
    def __init__(self, backbone: Backbone, task: Marked) -> None:
        super().__init__(backbone)
        self.task = task
        self.heldout_phase = None if task.show == "no phase" else "main"
        self.classes = () if task.show == "no names" else ("dark", "plain", "bright")
        self.head = nn.Linear(backbone.feature_info[-1].num_chs, 3)

    def make_views(self, batch: Batch, generator: Generator, *, train: bool) -> dict[str, Tensor]:
        num_images = len(batch.images)
        if self.task.views == "one":
            labels, images = torch.randint(3, (num_images,), generator=generator), torch.arange(num_images)
        elif self.task.order == "class by class":
            labels, images = torch.arange(3).repeat_interleave(num_images), torch.arange(num_images).repeat(3)
        else:
            labels, images = torch.arange(3).repeat(num_images), torch.arange(num_images).repeat_interleave(3)
        if self.task.views == "uneven":
            labels, images = labels[:-1], images[:-1]
        shift = 40 * (labels - 1) if self.task.leak == "brightness" else torch.zeros_like(labels)
        views = (batch.images[images].long() + shift[:, None, None, None]).clamp(0, 255).to(torch.uint8)
        return {"images": views, "labels": labels}

    def forward(self, views: dict[str, Tensor], step: Step) -> StepOutput:
        logits = self.head(self.backbone.embed(views["images"]))
        predictions = {} if self.task.show == "no predictions" else {"mark": Prediction(logits.detach(), views["labels"])}
        return StepOutput(F.cross_entropy(logits, views["labels"]), {}, predictions)


# --------------------------------------------------------------------------------------------------------------- promises


def test_exact_quarter_turns_of_isotropic_noise_stay_at_chance(data):
    (found,) = audited(RotNet(), data, "isotropic_noise", num_images=2000)
    assert found.verdict == "at chance"
    assert found.classes == ("0°", "90°", "180°", "270°")
    assert found.accuracy.chance == 25
    assert abs(found.accuracy.value - 25) < 3
    assert len(found.pairs) == 6


@pytest.mark.parametrize("interpolation", ["in_place", "one_sided"])
def test_careless_rotations_by_45_degrees_are_caught(data, interpolation):
    (found,) = audited(RotNet(angles=(0, 45, 90), interpolation=interpolation), data, "isotropic_noise", epochs=4)
    assert found.verdict == "leaks"
    assert found.names(found.worst) in {("0°", "45°"), ("45°", "90°")}
    straight = next(pair for pair in found.pairs if found.names(pair) == ("0°", "90°"))
    assert not straight.accuracy.above_chance


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("views", ["one", "all"])
@pytest.mark.parametrize("order", ["image by image", "class by class"])
def test_a_task_that_leaks_on_purpose_is_caught(data, source, views, order):
    (found,) = audited(Marked(views=views, order=order), data, source)
    assert found.verdict == "leaks"
    farthest = next(pair for pair in found.pairs if found.names(pair) == ("dark", "bright"))
    assert farthest.accuracy.above_chance


@pytest.mark.slow
@pytest.mark.parametrize("views", ["one", "all"])
def test_a_task_that_shows_nothing_is_at_chance(data, views):
    findings = [found for seed in range(3) for found in audited(Marked(leak="nothing", views=views), data, *SOURCES, epochs=1, seed=seed)]
    assert sum(found.leaks for found in findings) <= 2  # of 12, where one of 20 may


def test_what_noise_cannot_show_copies_do(data):
    """These pictures are lit from above: patches know it, and noise does not."""
    flat, lit = audited(RotNet(angles=(0, 180)), data, "isotropic_noise", "shuffled_patches", epochs=4)
    assert (flat.verdict, lit.verdict) == ("at chance", "leaks")


# ---------------------------------------------------------------------------------------------------------------- findings


def test_a_finding_says_what_it_is_of(data):
    noise, copies = audited(Marked(), data, "jpeg_noise", "phase_scrambled", num_images=800, epochs=1)
    assert (noise.source, noise.classifier, noise.num_images, noise.num_heldout) == ("jpeg_noise", "mark", 800, 400)
    assert (copies.source, copies.num_images, copies.num_heldout) == ("phase_scrambled", 500, 250)
    table = noise.as_json()
    assert table["worst_pair"] == list(noise.names(noise.worst))
    assert table["verdict"] == noise.verdict
    assert [pair["classes"] for pair in table["pairs"]] == [["dark", "plain"], ["dark", "bright"], ["plain", "bright"]]
    assert set(table["accuracy"]) == {"value", "low", "high", "chance"}
    assert noise.seconds > 0


def test_findings_depend_on_the_seed_alone(data):
    def figures(seed: int) -> list[object]:
        return [(found.accuracy, found.pairs) for found in audited(RotNet(), data, "phase_scrambled", seed=seed, epochs=1)]

    first = figures(0)
    torch.manual_seed(5)
    assert figures(0) == first
    assert figures(1) != first


def test_a_source_comes_out_the_same_alone_and_among_others(data):
    (alone,) = audited(RotNet(), data, "shuffled_patches", epochs=1)
    among = audited(RotNet(), data, *SOURCES, epochs=1)
    assert [found.source for found in among] == list(SOURCES)
    assert among[-1].accuracy == alone.accuracy


def test_images_are_augmented_as_in_the_stage(data):
    """A random flip makes flips one and the same class."""
    task, options = RotNet(transforms=("identity", "vertical_flip")), AuditOptions(sources=("shuffled_patches",), num_images=500, epochs=1)

    def found(augment: Augment) -> Finding:
        training = TrainingOptions(optimizer=AdamW(lr=5e-3), augment=augment)
        return audit_task(task, data, options=options, backbone=TinyBackbone, training=training, runtime=CPU)[0]

    assert found(Augment()).accuracy != found(Augment(crop_padding=2, horizontal_flip=True)).accuracy


def test_the_small_network_and_the_default_training_will_do(data):
    (found,) = audit_task(Marked(), data, options=AuditOptions(sources=("isotropic_noise",), num_images=200, epochs=1), runtime=CPU)
    assert found.num_heldout == 100


def test_observers_are_reported_under_the_stages_name(data):
    listener = Recorder()
    options = AuditOptions(sources=("isotropic_noise",), num_images=200, epochs=3)
    audit_task(Marked(), data, options=options, backbone=TinyBackbone, runtime=CPU, observers=[listener], name="half/pretrain")
    assert {event.stage for event in listener.events} == {"half/pretrain"}
    assert [event.part for event in listener.of(FitStart)] == ["isotropic_noise"]
    assert len(listener.of(HeldoutEnd)) == 1


# ---------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("show", ["no names", "no predictions", "no phase"])
def test_a_task_without_classes_is_refused(data, show):
    message = r"^task: predicts no classes, so there is no chance to compare with; found 'Marked'; its objective must name its classes"
    with pytest.raises(OptionError, match=message):
        audited(Marked(show=show), data, "isotropic_noise", epochs=1)


def test_a_task_that_predicts_some_images_more_often_is_refused(data):
    message = r"^task: predicts some images more often than others.*; found 'Marked: 687 predictions of 250 images'$"
    with pytest.raises(OptionError, match=message):
        audited(Marked(views="uneven"), data, "isotropic_noise", epochs=1)


def test_too_few_images_are_refused():
    few = Arrays(train_images=pictures(250), test_images=pictures(99))
    with pytest.raises(DataError, match=r"^too few images for shuffled_patches; found 99; allowed: 100 or more; choose other sources$"):
        audited(Marked(), few, "shuffled_patches")
    (found,) = audited(Marked(), few, "isotropic_noise", epochs=1)
    assert found.num_heldout == 250


def test_a_network_that_cannot_do_the_task_is_refused(data):
    @final
    @dataclass(frozen=True, kw_only=True)
    class Demanding(PretextTask):
        requires = frozenset({"tokens"})

        def build_objective(self, backbone: Backbone, data: DataInfo) -> Objective:
            raise AssertionError

    with pytest.raises(BackboneError, match="Demanding needs a backbone with tokens"):
        audited(Demanding(), data, "isotropic_noise")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sources": ("jpeg",)}, "source: does not exist; found 'jpeg'; allowed: isotropic_noise, jpeg_noise, phase_scrambled"),
        ({"sources": ("jpeg_nois",)}, "did you mean 'jpeg_noise'?"),
        ({"num_images": 199}, "num_images: too few to distinguish from chance; found 199; allowed: 200 or more"),
        ({"epochs": 0}, "epochs: must be positive; found 0; allowed: 1 or more"),
    ],
)
def test_wrong_options_are_refused(given, message):
    with pytest.raises(OptionError) as caught:
        AuditOptions(**given)
    assert message in str(caught.value)
