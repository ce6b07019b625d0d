import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from sslkit.contract.backbone import Backbone, FeatureInfo, pool
from sslkit.contract.errors import BackboneError
from sslkit.contract.evaluator import Evaluation, Evaluator
from sslkit.contract.images import ImageSpec, LabeledData
from tests.contract.miniatures.images import tiny_images

RGB = ImageSpec(4, 6, "rgb", (0.5, 0.4, 0.3), (0.1, 0.2, 0.4))
PLAIN_GRAY = ImageSpec(4, 6, "gray", (0.0,), (1.0,))
PLAIN_LIGHTNESS = ImageSpec(4, 6, "lightness", (0.0,), (1.0,))


class Pyramid(Backbone):
    """Three kinds of layer, each a simple function of the prepared images."""

    def __init__(self, image: ImageSpec) -> None:
        super().__init__(image)
        num_chs = image.num_chs
        self.feature_info = (
            FeatureInfo("pixels", num_chs, 1),
            FeatureInfo("row_major", num_chs, 1, "tokens"),
            FeatureInfo("corner", num_chs, 1, "vector"),
        )

    def extract(self, x: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        features = {"pixels": x, "row_major": x.flatten(2).transpose(1, 2), "corner": x[:, :, 0, 0]}
        return {layer: features[layer] for layer in layers}


def random_images(num_chs: int) -> Tensor:
    return torch.randint(256, (3, num_chs, 4, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def naive_lightness(red: float, green: float, blue: float) -> float:
    """CIE L* / 100 of one sRGB pixel, from the standards' own constants: IEC 61966-2-1 and CIE 15."""

    def linear(value: float) -> float:
        return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4

    luminance = 0.2126 * linear(red) + 0.7152 * linear(green) + 0.0722 * linear(blue)
    if luminance <= 216 / 24389:
        return luminance * (24389 / 27) / 100
    return (116 * luminance ** (1 / 3) - 16) / 100


# ----------------------------------------------------------------------------------------------------------------- colour


def test_gray_is_pils_mode_l():
    images = random_images(3)
    gray = Pyramid(PLAIN_GRAY).prepare(images)
    assert gray.shape == (3, 1, 4, 6)
    for rgb, luma in zip(images, gray, strict=True):
        expected = np.asarray(Image.fromarray(rgb.permute(1, 2, 0).numpy()).convert("L"), dtype=np.float32)
        assert np.abs(luma[0].numpy() - expected / 255).max() <= 1 / 255


def test_lightness_is_cie_l():
    images = random_images(3)
    images[0, :, 0, :4] = torch.tensor([[0, 1, 10, 255]] * 3, dtype=torch.uint8)  # black, both sides of the linear parts, white
    lightness = Pyramid(PLAIN_LIGHTNESS).prepare(images)
    assert lightness.shape == (3, 1, 4, 6)
    for (n, y, x), value in np.ndenumerate(lightness[:, 0].numpy()):
        red, green, blue = (images[n, channel, y, x].item() / 255 for channel in range(3))
        assert value == pytest.approx(naive_lightness(red, green, blue), abs=1e-5)
    assert lightness[0, 0, 0, 0].item() == pytest.approx(0, abs=1e-6)
    assert lightness[0, 0, 0, 3].item() == pytest.approx(1, abs=1e-6)


def test_lightness_has_a_finite_gradient_at_black():
    images = torch.zeros(1, 3, 1, 1, requires_grad=True)
    Pyramid(PLAIN_LIGHTNESS).prepare(images).sum().backward()
    assert images.grad is not None
    assert images.grad.isfinite().all()


@pytest.mark.parametrize("spec", [PLAIN_GRAY, PLAIN_LIGHTNESS], ids=lambda spec: spec.color)
def test_one_channel_passes_through(spec):
    images = random_images(1)
    torch.testing.assert_close(Pyramid(spec).prepare(images), images.float() / 255, rtol=0, atol=0)


def test_gray_becomes_rgb_by_repetition_and_rgb_passes_through():
    spec = RGB._replace(mean=(0.0,) * 3, std=(1.0,) * 3)
    gray, rgb = random_images(1), random_images(3)
    torch.testing.assert_close(Pyramid(spec).prepare(gray), gray.repeat(1, 3, 1, 1).float() / 255, rtol=0, atol=0)
    torch.testing.assert_close(Pyramid(spec).prepare(rgb), rgb.float() / 255, rtol=0, atol=0)


@pytest.mark.parametrize("num_chs", [2, 4])
@pytest.mark.parametrize("spec", [RGB, PLAIN_GRAY, PLAIN_LIGHTNESS], ids=lambda spec: spec.color)
def test_other_numbers_of_channels_are_refused(spec, num_chs):
    with pytest.raises(BackboneError, match=rf"^images must have 1 or 3 channels; found {num_chs}$"):
        Pyramid(spec).prepare(torch.zeros(1, num_chs, 4, 6, dtype=torch.uint8))


def test_bands_pass_through_if_there_are_as_many():
    spec = ImageSpec(4, 6, None, (0.0,) * 5, (1.0,) * 5)
    images = random_images(5)
    torch.testing.assert_close(Pyramid(spec).prepare(images), images.float() / 255, rtol=0, atol=0)
    with pytest.raises(BackboneError, match=r"^this backbone is built for images of 5 bands; found '3 channels'; allowed: 5$"):
        Pyramid(spec).prepare(random_images(3))


@pytest.mark.parametrize(
    ("color", "num_means", "num_stds"), [("rgb", 1, 1), ("gray", 3, 3), ("lightness", 2, 2), (None, 3, 4), (None, 0, 0)]
)
def test_a_spec_has_a_mean_and_a_std_for_each_channel(color, num_means, num_stds):
    with pytest.raises(BackboneError, match=f"has one mean and one std per channel; found '{num_means} means and {num_stds} deviations'"):
        Pyramid(ImageSpec(4, 6, color, (0.5,) * num_means, (0.5,) * num_stds))


# ---------------------------------------------------------------------------------------------------------------- prepare


def test_prepare_normalises_each_channel():
    images = random_images(3)
    prepared = Pyramid(RGB).prepare(images)
    assert prepared.dtype == torch.float32
    for channel in range(3):
        expected = (images[:, channel].float() / 255 - RGB.mean[channel]) / RGB.std[channel]
        torch.testing.assert_close(prepared[:, channel], expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_floats_in_0_1_are_prepared_like_uint8(dtype):
    images = random_images(3)
    prepared = Pyramid(RGB).prepare((images.double() / 255).to(dtype))
    assert prepared.dtype == torch.float32
    torch.testing.assert_close(prepared, Pyramid(RGB).prepare(images), atol=1e-2 if dtype == torch.float16 else 1e-5, rtol=0)


def test_images_may_have_another_size_than_the_spec():
    assert Pyramid(RGB).prepare(torch.rand(2, 3, 9, 5)).shape == (2, 3, 9, 5)


def test_floats_outside_0_1_are_refused():
    images = random_images(3).float()
    images[0, 0, 0, 0], images[0, 0, 0, 1] = 0, 255
    with pytest.raises(
        BackboneError, match=r"^float images must lie in \[0, 1\]; found '0 to 255'; pass uint8, or divide by 255 and do not normalise$"
    ):
        Pyramid(RGB).prepare(images)
    with pytest.raises(BackboneError, match=r"found '-1\.5 to 1'"):
        Pyramid(RGB).prepare(torch.tensor([-1.5, 1.0, 0.5]).reshape(1, 3, 1, 1))


def test_range_is_checked_once_and_never_on_the_meta_device():
    backbone = Pyramid(RGB)
    backbone.prepare(torch.rand(1, 3, 4, 6))
    backbone.prepare(torch.full((1, 3, 4, 6), 7.0))  # reading every batch would stall a GPU
    with torch.device("meta"):
        assert Pyramid(RGB).prepare(torch.full((1, 3, 4, 6), 7.0)).is_meta


def test_what_is_refused_once_is_refused_again():
    backbone, wrong = Pyramid(RGB), torch.full((1, 3, 4, 6), 255.0)
    for images in (wrong, wrong, torch.full((1, 3, 4, 6), torch.nan), wrong):
        with pytest.raises(BackboneError, match="must lie in"):
            backbone.embed(images)
    assert backbone.embed(torch.empty(0, 3, 4, 6)).shape[0] == 0  # nothing to look at
    with pytest.raises(BackboneError, match="must lie in"):
        backbone.embed(wrong)


def test_images_of_somebody_else_are_looked_at_anew():
    """A network that was trained on floats in [0, 1] is handed to a user in eval mode."""
    whole = nn.Sequential(Pyramid(RGB))
    backbone = cast("Pyramid", whole[0])
    backbone.prepare(torch.rand(1, 3, 4, 6))
    for user in (whole.eval, copy.deepcopy(whole).eval, whole.train):
        inner = cast("Pyramid", user()[0])
        with pytest.raises(BackboneError, match="must lie in"):
            inner.embed(torch.full((1, 3, 4, 6), 255.0))
        inner.embed(torch.rand(1, 3, 4, 6))


def test_uint8_images_need_no_check():
    backbone = Pyramid(RGB)
    backbone.prepare(random_images(3))
    with pytest.raises(BackboneError, match="must lie in"):
        backbone.prepare(torch.full((1, 3, 4, 6), 7.0))


@pytest.mark.parametrize("images", [torch.zeros(1, 3, 4, 6, dtype=torch.int64), torch.zeros(1, 3, 4, 6, dtype=torch.bool)])
def test_other_integers_are_refused(images: Tensor):
    with pytest.raises(BackboneError, match=rf"^images must be uint8, or floats in \[0, 1\]; found '{str(images.dtype).split('.')[1]}'$"):
        Pyramid(RGB).prepare(images)


def test_what_is_no_tensor_and_no_spec_is_refused():
    with pytest.raises(BackboneError, match=r"^images must be a tensor; found 'list'$"):
        Pyramid(RGB).embed([[0.5]])  # pyright: ignore[reportArgumentType]
    with pytest.raises(BackboneError, match=r"^Pyramid is built for an ImageSpec; found 'Tensor'; pass data\.image\(\)$"):
        Pyramid(torch.zeros(1, 3, 4, 6))  # pyright: ignore[reportArgumentType]


def test_statistics_are_no_part_of_the_state():
    assert Pyramid(RGB).state_dict() == {}


# ----------------------------------------------------------------------------------------------------- forward and layers


def test_forward_extracts_from_prepared_images():
    backbone, images = Pyramid(RGB), random_images(3)
    features = backbone(images, ["corner", "pixels"])
    assert list(features) == ["corner", "pixels"]
    torch.testing.assert_close(features["pixels"], backbone.prepare(images))


def test_unknown_layers_are_refused_by_name():
    backbone, images = Pyramid(RGB), random_images(3)
    message = r"^layer 'pixel' does not exist in Pyramid; allowed: pixels, row_major, corner$"
    for ask in (lambda: backbone(images, ["pixels", "pixel"]), lambda: backbone.embed(images, "pixel"), lambda: backbone.layer("pixel")):
        with pytest.raises(BackboneError, match=message):
            ask()


def test_layers_are_described_by_name():
    backbone = Pyramid(RGB)
    assert backbone.layer_names == ("pixels", "row_major", "corner")
    assert backbone.layer("row_major") == FeatureInfo("row_major", 3, 1, "tokens")


def test_masked_encode_is_refused_unless_a_backbone_can():
    with pytest.raises(BackboneError, match=r"^Pyramid has no masked_encode; use a backbone with the capability 'masked_encode'$"):
        Pyramid(RGB).masked_encode(random_images(3), torch.zeros(3, 1, dtype=torch.long))


# ------------------------------------------------------------------------------------------------------------------ embed


def naive_mean_pixel(x: Tensor) -> Tensor:
    return torch.stack([torch.stack([channel.flatten().sum() / channel.numel() for channel in image]) for image in x])


@pytest.mark.parametrize("layer", ["pixels", "row_major"])
def test_embed_averages_maps_and_tokens_over_positions(layer):
    backbone, images = Pyramid(RGB), random_images(3)
    torch.testing.assert_close(backbone.embed(images, layer), naive_mean_pixel(backbone.prepare(images)))


def test_embed_takes_the_deepest_layer_by_default():
    backbone, images = Pyramid(RGB), random_images(3)
    torch.testing.assert_close(backbone.embed(images), backbone.prepare(images)[:, :, 0, 0], rtol=0, atol=0)


def test_pool_leaves_vectors_alone():
    vectors = torch.rand(2, 5)
    assert pool(vectors, "vector") is vectors
    assert pool(torch.rand(2, 5, 3, 4), "map").shape == (2, 5)
    assert pool(torch.rand(2, 7, 5), "tokens").shape == (2, 5)


def test_an_evaluator_is_taken_to_leave_the_backbone_alone_and_to_work_with_any():
    @dataclass(frozen=True, kw_only=True)
    class Plain(Evaluator):
        def evaluate(self, backbone, data, context):
            return Evaluation({})

    assert Plain().frozen
    images = tiny_images(4)
    Plain().check(Pyramid(RGB), LabeledData(images, images))


def test_a_backbone_cannot_be_given_another_width():
    backbone = Pyramid(RGB)
    with pytest.raises(AttributeError, match="width"):
        backbone.width = 3
