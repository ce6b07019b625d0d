"""Classification in one line, against logarithms and counts by hand."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sslkit import Backbone, Classification, FeatureInfo, ImageSpec, Linear, Objective, PluginError, Step, StepOutput, classify
from sslkit.training.handover import check_objective, check_output
from sslkit.training.seeds import global_seed
from tests.contract.miniatures.backbones import TinyConv, TinyTokens
from tests.contract.miniatures.images import tiny_images

RGB = ImageSpec(16, 16, "rgb", (0.5,) * 3, (0.25,) * 3)


def rows(num: int, num_classes: int = 5, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(num)
    return torch.randn(num, num_classes, generator=generator).to(dtype), torch.randint(num_classes, (num,), generator=generator)


def by_hand(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    loss = right = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        loss += math.log(sum(math.exp(value) for value in row)) - row[label]
        right += row[label] == max(row)
    return loss / len(logits), 100.0 * right / len(logits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("num", [1, 37])
def test_loss_and_accuracy_are_those_by_hand(num: int, dtype: torch.dtype):
    logits, labels = rows(num, dtype=dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = classify(logits.requires_grad_(), labels)
    loss, top1 = by_hand(logits, labels)
    assert output.loss.dtype == torch.float32
    assert float(output.loss.detach()) == pytest.approx(loss, rel=1e-5)
    assert output.metrics.keys() == {"top1"}
    assert float(output.metrics["top1"].total / output.metrics["top1"].num) == pytest.approx(top1)
    found = output.predictions["class"]
    assert torch.equal(found.logits, logits.detach().float())
    assert torch.equal(found.targets, labels)
    assert not found.logits.requires_grad


def test_several_classifiers_are_told_apart_by_their_names():
    outputs = [classify(*rows(8), name) for name in ("relative", "absolute")]
    assert [[*output.metrics, *output.predictions] for output in outputs] == [["relative.top1", "relative"], ["absolute.top1", "absolute"]]


def test_what_it_returns_is_what_forward_returns():
    objective = Turned(TinyConv(RGB), 4)
    output = objective({"images": torch.zeros(4, 3, 16, 16, dtype=torch.uint8), "labels": torch.zeros(4, dtype=torch.int64)}, Step("main"))
    assert isinstance(output, StepOutput)
    check_output(objective, output, "main", "pretrain", training=True)


@pytest.mark.parametrize(
    ("logits", "labels", "found"),
    [
        (torch.zeros(4, 3), torch.zeros(4, dtype=torch.int32), r"float32 \(4, 3\) and int32 \(4,\)"),
        (torch.zeros(4, 3), torch.zeros(4, 3), r"float32 \(4, 3\) and float32 \(4, 3\)"),  # which torch takes for probabilities
        (torch.zeros(4, 3), torch.zeros(5, dtype=torch.int64), r"float32 \(4, 3\) and int64 \(5,\)"),
        (torch.zeros(4), torch.zeros(4, dtype=torch.int64), r"float32 \(4,\) and int64 \(4,\)"),
    ],
)
def test_what_is_no_logits_and_labels_is_refused(logits: Tensor, labels: Tensor, found: str):
    with pytest.raises(PluginError, match=rf"^classify takes logits \(N, K\) and labels \(N,\) int64; found '{found}'; "):
        classify(logits, labels)


# ------------------------------------------------------------------------------------------------------------- full precision


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_linear_layer_computes_in_float32_under_autocast(dtype: torch.dtype):
    with global_seed(0):
        layer = Linear(8, 3)
    with global_seed(0):
        plain = nn.Linear(8, 3)
    x = torch.randn(6, 8).to(dtype)
    with torch.autocast("cpu", dtype=dtype):
        found = layer(x)
    assert torch.equal(found, plain(x.float()))


class Vectors(Backbone):
    """Half precision comes out of it, as a vector."""

    feature_info = (FeatureInfo("pixels", 3, 1), FeatureInfo("vector", 3, 1, "vector"))
    capabilities = frozenset({"map", "vector"})

    def extract(self, x: Tensor, layers: Any) -> dict[str, Tensor]:
        return {layer: x.half() if layer == "pixels" else x.mean(dim=(-2, -1)).half() for layer in layers}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", [TinyConv, TinyTokens, Vectors])
def test_features_and_logits_are_float32_whatever_the_backbone_computes_in(kind: type[Backbone], dtype: torch.dtype):
    objective = Turned(kind(RGB).eval(), 4)
    images = tiny_images(4).read(range(4))
    with torch.autocast("cpu", dtype=dtype):
        for layer in objective.backbone.layer_names:
            assert objective.backbone.embed(images, layer).dtype == torch.float32
        assert objective.head(objective.backbone.embed(images)).dtype == torch.float32


# ------------------------------------------------------------------------------------------------------------------ defaults


class Turned(Classification):
    def make_views(self, batch, generator, *, train):
        raise NotImplementedError


def test_classes_are_names_or_a_number():
    named, numbered = Turned(TinyConv(RGB), ["up", "down"]), Turned(TinyConv(RGB), 3)
    assert (named.classes, named.head.out_features) == (("up", "down"), 2)
    assert (numbered.classes, numbered.head.out_features) == ((), 3)


def test_images_are_captioned_with_their_classes():
    objective = Turned(TinyConv(RGB), ["up", "down"])
    images, labels = torch.zeros(3, 3, 8, 8), torch.tensor([1, 0, 1])
    views = {"images": images, "labels": labels, "others": images[:2], "noise": torch.zeros(3, 4)}
    assert objective.captions(views) == {"images": ["down", "up", "down"]}
    assert objective.captions({"images": images}) == {}
    assert Turned(TinyConv(RGB), 2).captions(views) == {}


def test_the_only_phase_is_measured_on_held_out_images_unless_it_says_otherwise():
    class Renamed(Turned):
        phases = ("student",)

    class Two(Turned):
        phases = ("discriminator", "generator")

    class Unmeasured(Turned):
        heldout_phase = None

    class InTheConstructor(Two):
        def __init__(self, backbone: Backbone, classes: int) -> None:
            super().__init__(backbone, classes)
            self.heldout_phase = "generator"

    kinds: list[type[Classification]] = [Turned, Renamed, Two, Unmeasured, InTheConstructor]
    assert [kind(TinyConv(RGB), 2).heldout_phase for kind in kinds] == ["main", "student", None, None, "generator"]
    check_objective(Renamed(TinyConv(RGB), 2))

    objective: Objective = Turned(TinyConv(RGB), 2)
    objective.phases = ("one", "other")
    assert objective.heldout_phase is None


def test_a_backbone_is_as_wide_as_its_deepest_layer():
    assert TinyConv(RGB, width=6).width == 12
    assert TinyTokens(RGB, width=8).width == 8
    images = tiny_images(2).read(range(2))
    assert TinyConv(RGB, width=6).embed(images).shape == (2, 12)
