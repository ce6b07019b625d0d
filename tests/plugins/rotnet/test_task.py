import dataclasses
import math
import re
from collections.abc import Sequence
from importlib.metadata import entry_points
from typing import Any, Literal

import pluggy
import pytest
import torch
from torch import Generator, Tensor, nn

import sslkit_rotnet
from sslkit import Backbone, Batch, DataInfo, FeatureInfo, ImageSpec, Objective, OptionError, Step, StepOutput
from sslkit_rotnet import RotNet
from sslkit_rotnet.transforms import NAMED, rotation, transform_all

SPEC = ImageSpec(8, 8, "rgb", (0.5, 0.4, 0.3), (0.2, 0.2, 0.2))


class TinyBackbone(Backbone):
    """One convolution; its deepest layer is of the kind asked for."""

    def __init__(self, image: ImageSpec, *, kind: Literal["map", "tokens", "vector"] = "map", num_chs: int = 6) -> None:
        super().__init__(image)
        self.shallow = nn.Conv2d(image.num_chs, 5, 3)
        self.deep = nn.Conv2d(5, num_chs, 3)
        self.feature_info = (FeatureInfo("shallow", 5, 1), FeatureInfo("deep", num_chs, 1, kind))

    def extract(self, x: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        shallow = self.shallow(x).relu()
        deep = self.deep(shallow).relu()
        kind = self.feature_info[-1].kind
        if kind != "map":
            deep = deep.flatten(2).mT if kind == "tokens" else deep.amax(dim=(-2, -1))
        return {name: {"shallow": shallow, "deep": deep}[name] for name in layers}


def objective_of(task: RotNet, spec: ImageSpec = SPEC, **options: Any) -> Objective:
    torch.manual_seed(0)
    return task.build_objective(TinyBackbone(task.image_spec(spec), **options), DataInfo(spec, None))


def batch_of(num_images: int, height: int = 8, width: int = 8) -> Batch:
    generator = Generator().manual_seed(1)
    images = torch.randint(0, 256, (num_images, 3, height, width), dtype=torch.uint8, generator=generator)
    return Batch(images, torch.arange(num_images))


def step(objective: Objective, batch: Batch, *, train: bool = True) -> StepOutput:
    return objective(objective.make_views(batch, Generator(), train=train), Step("main"))


# ---------------------------------------------------------------------------------------------------------------- options


def test_the_default_is_the_four_rotations():
    assert RotNet().classes == RotNet(angles=(0, 90, 180, 270)).classes
    assert RotNet().classes == tuple(NAMED[name] for name in ("identity", "rotate90", "rotate180", "rotate270"))


def test_classes_keep_the_order_of_the_options():
    assert RotNet(angles=(270, 22.5, -90 + 720 + 1)).classes == (rotation(270), rotation(22.5), rotation(271))
    assert RotNet(transforms=("scale", "identity")).classes == (NAMED["scale"], NAMED["identity"])


@pytest.mark.parametrize("angles", [(), (90,), (0, 360), (90, 10, -270), (0, -1e-14)])
def test_wrong_angles_are_refused(angles):
    message = f"angles: must be at least two numbers of degrees, all different modulo 360; found {angles!r}"
    with pytest.raises(OptionError, match=re.escape(message)) as caught:
        RotNet(angles=angles)
    assert caught.value.option == "angles"


@pytest.mark.parametrize("angle", [math.nan, math.inf])
def test_an_angle_is_finite(angle):
    with pytest.raises(OptionError, match=rf"^angles\[1\]: must be finite; found {angle}$"):
        RotNet(angles=(0, angle))


@pytest.mark.parametrize("transforms", [(), ("identity",), ("transpose", "transpose"), ("identity", "rotate45")])
def test_wrong_transforms_are_refused(transforms):
    message = f"transforms: must be at least two of the known names, all different; found {transforms!r}; allowed: {', '.join(NAMED)}"
    with pytest.raises(OptionError, match=re.escape(message)) as caught:
        RotNet(transforms=transforms)
    assert caught.value.option == "transforms"


def test_angles_and_transforms_exclude_each_other():
    with pytest.raises(OptionError, match=r"transforms: excludes angles; give one of the two; rotate90 and the like are transforms too"):
        RotNet(angles=(0, 90), transforms=("identity", "transpose"))


@pytest.mark.parametrize("options", [{}, {"angles": (0, 90)}, {"transforms": ("identity", "transpose")}])
@pytest.mark.parametrize("interpolation", ["in_place", "one_sided"])
def test_an_exact_set_has_no_interpolation_to_choose(options, interpolation):
    message = f"interpolation: there is none in this set; found {interpolation!r}; allowed: 'common'; leave it out, or add an angle"
    with pytest.raises(OptionError, match=re.escape(message)):
        RotNet(interpolation=interpolation, **options)
    assert RotNet(interpolation="common", **options) == RotNet(**options)


def test_options_are_typed_fields_and_frozen():
    fields = dataclasses.fields(RotNet)
    assert [(field.name, field.kw_only, field.default) for field in fields] == [
        ("angles", True, None),
        ("transforms", True, None),
        ("interpolation", True, "common"),
    ]
    assert hash(RotNet(angles=(0, 90))) == hash(RotNet(angles=(0.0, 90.0)))  # frozen


# ----------------------------------------------------------------------------------------------------------------- images


def test_the_backbone_is_built_for_the_central_square():
    assert RotNet().image_spec(SPEC) == SPEC
    assert RotNet().image_spec(SPEC._replace(height=12)) == SPEC
    assert RotNet().image_spec(SPEC._replace(width=20)) == SPEC


@pytest.mark.parametrize(("option", "value"), [("angles", (0, 45)), ("transforms", ("identity", "scale"))])
def test_images_too_small_to_interpolate_are_refused(option, value):
    task = RotNet(**{option: value})
    assert task.image_spec(SPEC) == SPEC
    with pytest.raises(OptionError, match=f"{option}: interpolation needs images of at least 8 x 8 pixels; found 7"):
        task.image_spec(SPEC._replace(width=7))
    assert RotNet().image_spec(SPEC._replace(width=7)).height == 7


def test_views_are_all_copies_of_all_images_class_after_class():
    batch = batch_of(3)
    views = objective_of(RotNet()).make_views(batch, Generator(), train=True)
    assert set(views) == {"images", "labels"}
    assert views["labels"].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert views["labels"].dtype == torch.int64
    assert views["images"].dtype == torch.uint8
    assert torch.equal(views["images"], torch.cat([torch.rot90(batch.images, k, (-2, -1)) for k in range(4)]))


@pytest.mark.parametrize("interpolation", ["common", "in_place", "one_sided"])
@pytest.mark.parametrize("options", [{"angles": (0, 45)}, {"transforms": ("identity", "translate")}])
def test_views_are_interpolated_as_the_task_says(options, interpolation):
    task, batch = RotNet(interpolation=interpolation, **options), batch_of(3)
    views = objective_of(task).make_views(batch, Generator(), train=True)
    assert torch.equal(views["images"], transform_all(batch.images, task.classes, interpolation))


def test_views_of_other_shapes_are_square():
    views = objective_of(RotNet(), SPEC._replace(width=11)).make_views(batch_of(2, 8, 11), Generator(), train=True)
    assert views["images"].shape == (8, 3, 8, 8)


@pytest.mark.parametrize("task", [RotNet(), RotNet(angles=(0, 45, 100)), RotNet(transforms=("identity", "translate", "scale"))])
def test_views_draw_nothing(task):
    objective, batch, generator = objective_of(task), batch_of(2), Generator().manual_seed(3)
    before = generator.get_state(), torch.get_rng_state()
    first = objective.make_views(batch, generator, train=True)
    second = objective.make_views(batch, generator, train=False)
    assert torch.equal(first["images"], second["images"])
    assert torch.equal(generator.get_state(), before[0])
    assert torch.equal(torch.get_rng_state(), before[1])


# -------------------------------------------------------------------------------------------------------------- objective


@torch.no_grad()
@pytest.mark.parametrize("task", [RotNet(), RotNet(angles=(0, 45, 90)), RotNet(transforms=("transpose", "identity"))])
def test_the_loss_is_the_papers(task):
    objective, batch = objective_of(task), batch_of(3)
    images = objective.make_views(batch, Generator(), train=True)["images"]
    weight, bias = objective.get_parameter("head.weight"), objective.get_parameter("head.bias")
    num_classes, total, correct = len(task.classes), 0.0, 0
    for n in range(3):
        loss = 0.0
        for y in range(num_classes):
            features = objective.backbone(images[y * 3 + n][None], ["deep"])["deep"][0].mean(dim=(1, 2))
            scores = [float((weight[k] * features).sum() + bias[k]) for k in range(num_classes)]
            loss -= (scores[y] - math.log(sum(math.exp(score) for score in scores))) / num_classes
            correct += scores.index(max(scores)) == y
        total += loss / 3
    output = step(objective, batch)
    assert float(output.loss) == pytest.approx(total, rel=1e-5)
    assert set(output.metrics) == {"top1"}
    assert output.metrics["top1"] == (100 * correct, 3 * num_classes)


@torch.no_grad()
@pytest.mark.parametrize(("task", "num_classes"), [(RotNet(), 4), (RotNet(angles=tuple(range(0, 360, 45))), 8)])
def test_the_head_is_linear_and_initialised_as_in_the_paper(task, num_classes):
    head = objective_of(task, num_chs=2048).get_submodule("head")
    weight, bias = head.get_parameter("weight"), head.get_parameter("bias")
    assert weight.shape == (num_classes, 2048)
    assert sum(p.numel() for p in head.parameters()) == 2048 * num_classes + num_classes
    assert float(weight.mean()) == pytest.approx(0, abs=0.03)
    assert float(weight.std()) == pytest.approx(math.sqrt(2 / num_classes), rel=0.05)
    assert not bias.any()


@torch.no_grad()
@pytest.mark.parametrize("kind", ["map", "tokens", "vector"])
def test_any_kind_of_deepest_layer_will_do(kind):
    objective, batch = objective_of(RotNet(), kind=kind), batch_of(2)
    views = objective.make_views(batch, Generator(), train=True)
    features = objective.backbone(views["images"], ["deep"])["deep"]
    pooled = {"map": lambda f: f.mean((2, 3)), "tokens": lambda f: f.mean(1), "vector": lambda f: f}[kind](features)
    logits = pooled @ objective.get_parameter("head.weight").T
    expected = -logits.log_softmax(1)[torch.arange(8), views["labels"]].mean()
    assert float(objective(views, Step("main")).loss) == pytest.approx(float(expected), rel=1e-5)


def test_its_answers_are_those_of_float32_under_autocast():
    objective = objective_of(RotNet()).eval()
    batch = batch_of(64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = step(objective, batch, train=False)
        features = objective.backbone.embed(objective.make_views(batch, Generator(), train=False)["images"])
    logits = output.predictions["class"].logits
    torch.testing.assert_close(logits, features @ objective.head.weight.T + objective.head.bias)
    assert logits.dtype == torch.float32


def test_everything_is_trained_in_one_phase_and_held_out_images_are_measured_in_it():
    objective = objective_of(RotNet())
    assert objective.phases == ("main",)
    assert objective.heldout_phase == "main"
    (group,) = objective.parameter_groups()["main"]
    assert len(group["params"]) == 6  # weight and bias of two convolutions and the head
    assert objective.exported_backbone() is objective.backbone


def test_it_learns_rotations_of_lit_pictures():
    light = torch.linspace(0, 255, 8).to(torch.uint8)[:, None].expand(8, 8)  # bright below
    batch = Batch(light.expand(4, 3, 8, 8), torch.arange(4))
    objective = objective_of(RotNet(), num_chs=16)
    for _ in range(60):
        parameters = list(objective.parameters())
        gradients = torch.autograd.grad(step(objective, batch).loss, parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.data.sub_(0.1 * gradient)
    top1 = step(objective.eval(), batch, train=False).metrics["top1"]
    assert top1 == (1600, 16)  # 100 percent of 16 views
    assert not top1.total.requires_grad


# ----------------------------------------------------------------------------------------------------------------- plugin


def test_the_plugin_offers_rotnet_through_its_entry_point():
    (entry,) = entry_points(group="sslkit", name="rotnet")
    assert entry.load() is sslkit_rotnet
    assert pluggy.PluginManager("sslkit").parse_hookimpl_opts(sslkit_rotnet, "pretext_tasks") is not None
    assert sslkit_rotnet.pretext_tasks() == {"rotnet": RotNet}
