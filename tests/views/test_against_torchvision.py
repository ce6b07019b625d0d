"""Every view gives what torchvision gives, image by image, with the parameters that it drew.

Float images agree to a few millionths. Images of uint8 agree within one level, because torchvision truncates where ours are rounded once.
There are more where it makes several errors: saturation truncates the grey value and then the blend (2 levels), a whole jitter truncates
after each change, and bicubic resizing clips to 0..255 between its two directions, so an overshoot of the first is lost to the second.
Those are compared with torchvision's float images, rounded once, too.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as reference

from sslkit import views
from sslkit.views import resampling, transform as transform_module
from sslkit.views.transform import RandomTransform, Shape, Transform, ViewFunction
from tests.views import pixels
from tests.views.pixels import DTYPES, distance, pictures, seeded

FLOAT_LEVELS = 0.002
"""Of 255: 8e-6 of the range, some 60 roundings of float32."""


class Case(NamedTuple):
    view: ViewFunction[...]
    options: Mapping[str, Any]
    reference: Callable[[Tensor, Any], Tensor]


def one_by_one(images: Tensor, step: Transform, change: Callable[[Tensor, Any], Tensor]) -> Tensor:
    rows = []
    for row, image in enumerate(images):
        one = step.rows(slice(row, row + 1))
        left_out = isinstance(one, RandomTransform) and one.chosen is not None and not one.chosen[0]
        rows.append(image if left_out else change(image, one))
    return torch.stack(rows)


COLORLESS = {
    "crop": Case(views.random_resized_crop, {"size": 16}, pixels.crop),
    "small crop": Case(views.random_resized_crop, {"size": (5, 7), "scale": (0.3, 1.0)}, pixels.crop),
    "large crop": Case(views.random_resized_crop, {"size": (40, 33), "scale": (0.01, 0.2)}, pixels.crop),
    "bicubic crop": Case(views.random_resized_crop, {"size": 16, "interpolation": "bicubic"}, pixels.crop),
    "small bicubic crop": Case(views.random_resized_crop, {"size": 6, "scale": (0.05, 1), "interpolation": "bicubic"}, pixels.crop),
    "horizontal flip": Case(views.horizontal_flip, {}, pixels.flip),
    "vertical flip": Case(views.vertical_flip, {"probability": 0.3}, pixels.flip),
    "solarize": Case(views.solarize, {}, pixels.inverted),
    "solarize a little": Case(views.solarize, {"threshold": 201.5, "probability": 1.0}, pixels.inverted),
    "blur": Case(views.gaussian_blur, {}, pixels.blurred),
    "blur some": Case(views.gaussian_blur, {"kernel_size": 5, "sigma": (0.5, 1.5), "probability": 0.5}, pixels.blurred),
    "blur widely": Case(views.gaussian_blur, {"kernel_size": 39, "sigma": 9.0}, pixels.blurred),
    "erase": Case(views.random_erasing, {}, pixels.erased),
    "erase with noise": Case(views.random_erasing, {"value": "random", "probability": 1.0}, pixels.erased),
}
COLORED = {
    "brightness": Case(views.color_jitter, {"brightness": 0.8}, pixels.jitter),
    "contrast": Case(views.color_jitter, {"contrast": 0.8}, pixels.jitter),
    "saturation": Case(views.color_jitter, {"saturation": 0.8}, pixels.jitter),
    "hue": Case(views.color_jitter, {"hue": 0.5}, pixels.jitter),
    "grayscale": Case(views.grayscale, {"probability": 0.5}, pixels.without_colors),
    "erase with a colour": Case(views.random_erasing, {"value": (255.0, 127.0, 0.0), "probability": 1.0}, pixels.erased),
}
JITTER = {"brightness": 0.8, "contrast": (0.2, 1.9), "saturation": 0.8, "hue": 0.2, "probability": 0.8}


CASES = [
    *((name, num_chs, True) for name in COLORLESS for num_chs in (1, 3, 13)),
    *((name, 3, True) for name in COLORED),
    *((name, 3, False) for name in (*COLORLESS, *COLORED)),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("name", "num_chs", "host"), CASES)
def test_equals_a_loop_over_images(name: str, num_chs: int, dtype: torch.dtype, host: bool, monkeypatch: pytest.MonkeyPatch):
    """Also by the ways of other devices: all images changed and the chosen ones taken, one tap added up after another."""
    if not host:
        monkeypatch.setattr(transform_module, "_is_host", lambda _: False)
        monkeypatch.setattr(resampling, "_HAVE_BAGS", ())
    view, options, change = {**COLORLESS, **COLORED}[name]
    images = pictures(12, num_chs=num_chs, dtype=dtype)
    if "bicubic" in name:
        images = images // 2 + 64 if dtype == torch.uint8 else images / 2 + 0.25  # so that nothing overshoots
    step = view.draw(Shape(*images.shape), **options, generator=seeded(3))
    expected = one_by_one(images, step, change)
    found = view(images, **options, generator=seeded(3))
    assert not torch.equal(expected, images)
    assert distance(found, expected) <= (FLOAT_LEVELS if dtype == torch.float32 else 2 if name == "saturation" else 1)
    if dtype == torch.uint8:
        exact = one_by_one(images.float() / 255, step, change) * 255
        assert (found - exact).abs().max() <= 0.5 + FLOAT_LEVELS


@pytest.mark.parametrize(
    ("name", "num_chs"), [("brightness", 1), ("contrast", 1), ("saturation", 1), ("hue", 1), ("brightness", 13), ("contrast", 13)]
)
def test_jitter_of_images_without_colors(name: str, num_chs: int):
    """One channel has a brightness and a contrast, as in torchvision; of bands, all together have."""
    images = pictures(12, num_chs=num_chs, dtype=torch.float32)
    options = COLORED[name].options
    step = views.color_jitter.draw(Shape(*images.shape), **options, generator=seeded())
    as_one = images.reshape(12, 1, 13 * 24, 20) if num_chs == 13 else images
    expected = one_by_one(as_one, step, pixels.jitter).view_as(images)
    assert distance(views.color_jitter(images, **options, generator=seeded()), expected) <= FLOAT_LEVELS


@pytest.mark.parametrize("height_width", [(24, 20), (7, 50), (1, 1), (2, 30)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_crops_of_any_shape_of_any_image(height_width: tuple[int, int], interpolation: Any):
    images = pictures(20, height=height_width[0], width=height_width[1], dtype=torch.float32)
    options = {"size": (9, 4), "scale": (0.02, 1.0), "ratio": (0.1, 10.0), "interpolation": interpolation}
    step = views.random_resized_crop.draw(Shape(*images.shape), **options, generator=seeded())
    found = views.random_resized_crop(images, **options, generator=seeded())
    assert distance(found, one_by_one(images, step, pixels.crop)) <= FLOAT_LEVELS


@pytest.mark.parametrize("num_chs", [1, 3])
def test_jitter_in_all_orders(num_chs: int):
    images = pictures(100, num_chs=num_chs, height=9, width=11, dtype=torch.float32)
    step = views.color_jitter.draw(Shape(*images.shape), **JITTER, generator=seeded())
    assert len(set(map(tuple, step.order.tolist()))) == 24
    expected = one_by_one(images, step, pixels.jitter)
    assert distance(views.color_jitter(images, **JITTER, generator=seeded()), expected) <= FLOAT_LEVELS


def test_jitter_of_uint8_is_rounded_once():
    images = pictures(100, height=9, width=11)
    step = views.color_jitter.draw(Shape(*images.shape), **JITTER, generator=seeded())
    found = views.color_jitter(images, **JITTER, generator=seeded())
    exact = one_by_one(images.float() / 255, step, pixels.jitter) * 255
    assert (found.float() - exact).abs().max() <= 0.5 + FLOAT_LEVELS
    truncated = one_by_one(images, step, pixels.jitter).float()  # torchvision's, after each change: its own error
    assert (found - truncated).abs().max() <= (truncated - exact).abs().max() + 0.5 + FLOAT_LEVELS
    assert 1 < (truncated - exact).abs().max() < 20


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [11, (30, 17), (24, 20)])
def test_resize(size: Any, interpolation: Any, dtype: torch.dtype):
    images = pictures(4, dtype=dtype)
    if interpolation == "bicubic" and dtype == torch.uint8:
        images = images // 2 + 64  # so that nothing overshoots
    height_width = [size, size] if isinstance(size, int) else list(size)
    expected = reference.resize(images, height_width, interpolation=InterpolationMode[interpolation.upper()], antialias=True)
    expected = expected.clamp(0, 1) if dtype == torch.float32 else expected
    found = views.resize(images, size=size, interpolation=interpolation)
    assert distance(found, expected) <= (FLOAT_LEVELS if dtype == torch.float32 else 1)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [8, (24, 20), (7, 15), 31, (30, 3), (5, 27)])
def test_center_crop(size: Any, dtype: torch.dtype):
    images = pictures(2, height=24, width=20, dtype=dtype)
    height_width = [size, size] if isinstance(size, int) else list(size)
    assert torch.equal(views.center_crop(images, size=size), reference.center_crop(images, height_width))


def test_solarize_of_all_values_at_many_thresholds():
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    for threshold in range(0, 256, 3):
        expected = reference.solarize(images, threshold)
        assert torch.equal(views.solarize(images, threshold=threshold, probability=1, generator=seeded()), expected)
        levels = views.solarize(images / 255, threshold=threshold, probability=1, generator=seeded()) * 255
        assert torch.equal(levels.round().to(torch.uint8), expected)


def test_hue_of_every_kind_of_color():
    """Greys, pure colours, and two channels that are equal, which are the borders between the sectors of the wheel."""
    values = torch.tensor([0.0, 0.2, 0.2001, 0.7, 1.0])
    images = torch.cartesian_prod(values, values, values).T.reshape(1, 3, 5, 25).repeat(11, 1, 1, 1)
    step = views.color_jitter.draw(Shape(*images.shape), hue=0.5, generator=seeded())
    step.hue.copy_(torch.linspace(-0.5, 0.5, 11))
    assert distance(step.apply(images.clone()), one_by_one(images, step, pixels.jitter)) <= FLOAT_LEVELS


def test_multi_crop_is_random_resized_crop_of_each_kind():
    images = pictures(3)
    large, small = views.multi_crop(images, size=(16, (8, 6)), num_crops=(2, 4), scale=((0.3, 1.0), (0.05, 0.3)), generator=seeded())
    generator = seeded()
    expected = [views.random_resized_crop(images, size=16, scale=(0.3, 1.0), generator=generator) for _ in range(2)]
    assert torch.equal(large, torch.cat(expected))
    assert small.shape == (12, 3, 8, 6)
    expected = [views.random_resized_crop(images, size=(8, 6), scale=(0.05, 0.3), generator=generator) for _ in range(4)]
    assert torch.equal(small, torch.cat(expected))
