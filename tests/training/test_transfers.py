"""Steps on the meta device: it computes nothing, and shows every value that would go from the host to a GPU, or back."""

from collections.abc import Callable

import pytest
import torch
from torch import Generator, nn

from sslkit import SGD, Augment, Backbone, Batch, ImageSpec, LabeledData, Objective
from sslkit.backbones.from_timm import TimmBackbone
from sslkit.backbones.nin import NIN
from sslkit.contract.images import DataInfo
from sslkit.contract.objective import Mean, Step
from sslkit.data.arrays import ArraySet
from sslkit.data.augment import Draws, apply_draws
from sslkit.evaluators.classifier import Classifier, FrozenFeatures
from sslkit.evaluators.heads import HeadKind, build_head
from sslkit.training.phase_optimizers import clip_gradients, gradient_norm
from sslkit.training.state import Meters
from sslkit_rotnet import RotNet
from tests.training.transfers import NoTransfers

META = torch.device("meta")
SPEC = ImageSpec(32, 32, "rgb", (0.5,) * 3, (0.25,) * 3)
DATA = ArraySet(torch.zeros(4, 3, 32, 32, dtype=torch.uint8), SPEC, labels=torch.arange(4) % 2, classes=("a", "b"))
LAYERS = ("conv1", "conv2")


def nin(image: ImageSpec = SPEC) -> Backbone:
    return NIN(image, num_blocks=3, width=0.1)


def rotnet(**options: object) -> Callable[[], Objective]:
    return lambda: RotNet(**options).build_objective(nin(), DataInfo(SPEC, 4))


def classifier(kind: HeadKind, *, frozen: bool) -> Callable[[], Objective]:
    def build() -> Objective:
        backbone = nin()
        shapes = {"conv1": torch.Size((10, 16, 16)), "conv2": torch.Size((19, 8, 8))}
        heads = {layer: build_head(kind, backbone.layer(layer), shapes[layer], SPEC, 2) for layer in LAYERS}
        return Classifier(backbone, heads, LabeledData(DATA, DATA), frozen=FrozenFeatures() if frozen else None)

    return build


STEPS = {
    "rotations": rotnet(),
    "interpolated": rotnet(transforms=("identity", "vertical_flip", "scale", "translate")),
    "in_place": rotnet(angles=(0, 45), interpolation="in_place"),
    "finetune": classifier("mlp", frozen=False),
    "probe": classifier("conv", frozen=True),
}


@pytest.mark.parametrize("build", STEPS.values(), ids=STEPS)
def test_a_step_neither_sends_nor_reads_a_value(build: Callable[[], Objective]):
    """Apart from the optimizer, whose fused kernels there are on real devices alone."""
    objective = build().to(META).train()
    batch = Batch(torch.empty(4, 3, 32, 32, dtype=torch.uint8, device=META), torch.empty(4, dtype=torch.int64, device=META))
    [groups] = objective.parameter_groups().values()
    optimizer = SGD().build(groups)
    meters = Meters()
    with NoTransfers():
        for _ in range(2):
            views = objective.make_views(batch, Generator(), train=True)
            objective.zero_grad(set_to_none=True)
            output = objective(views, Step("main"))
            output.loss.backward()
            norm = gradient_norm(optimizer, META)
            clip_gradients(optimizer, 1.0, norm)
            meters.add({"loss": Mean(output.loss, 1), **output.metrics}, [output.loss, norm])


@pytest.mark.parametrize("color", ["rgb", "gray", "lightness"])
@pytest.mark.parametrize("num_chs", [1, 3])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_images_are_prepared_where_they_are(color: str, num_chs: int, dtype: torch.dtype):
    chs = 3 if color == "rgb" else 1
    backbone = nin(ImageSpec(8, 8, color, (0.5,) * chs, (0.25,) * chs)).to(META)
    images = torch.empty(2, num_chs, 8, 8, dtype=dtype, device=META)
    with NoTransfers():
        assert backbone.prepare(images).shape == (2, chs, 8, 8)


def test_images_are_augmented_where_they_are():
    options = Augment(crop_padding=2, horizontal_flip=True)
    images = torch.empty(4, 3, 8, 8, dtype=torch.uint8, device=META)
    draws = Draws(torch.empty(2, 4, dtype=torch.int64, device=META), torch.empty(4, dtype=torch.bool, device=META))
    with NoTransfers():
        assert apply_draws(images, options, draws).shape == images.shape


@pytest.mark.parametrize("model", ["resnet18", "vit_tiny_patch16_224"])
def test_networks_of_timm_read_no_value_either(model: str):
    backbone = TimmBackbone(SPEC, model=model).to(META)
    images = torch.empty(2, 3, 32, 32, dtype=torch.uint8, device=META)
    with NoTransfers():
        features = backbone(images, backbone.layer_names)
        torch.stack([layer.float().square().mean() for layer in features.values()]).sum().backward()


@pytest.mark.parametrize(
    "cheat",
    [
        lambda x: x.new_tensor([1.0]),
        lambda x: torch.tensor([1.0], device=x.device),
        lambda x: x[x > 0],
        lambda x: x.sum().item(),
        lambda x: x * torch.ones(4).to(x.device),
        lambda x: nn.functional.pad(x, (int(x.sum()), 0)),
    ],
)
def test_the_watch_sees_what_makes_a_gpu_wait(cheat: Callable):
    with pytest.raises((AssertionError, NotImplementedError, RuntimeError)), NoTransfers():
        cheat(torch.empty(4, device=META))
