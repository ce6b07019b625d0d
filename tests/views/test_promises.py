"""What all views promise: dtype, memory format, one draw per image, the generator alone, memory, and clear errors."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from sslkit import OptionError, views
from sslkit.views import transform as transform_module
from sslkit.views.transform import Shape, compose
from tests.views.pixels import DTYPES, OPTIONS, distance, pictures, seeded

RANDOM = [name for name in OPTIONS if name not in {"center_crop", "resize"}]
COMPOSED = [(getattr(views, name), options) for name, options in OPTIONS.items() if name != "multi_crop"]


def call(name: str, images: Tensor, seed: int = 0, **options: Any) -> Tensor:
    """The images of any function; several crops of an image in one row."""
    generator = {"generator": seeded(seed)} if name in RANDOM else {}
    done = getattr(views, name)(images, **{**OPTIONS[name], **options}, **generator)
    if name != "multi_crop":
        return done
    kinds = zip(done, OPTIONS[name]["num_crops"], strict=True)
    return torch.cat([crops.unflatten(0, (num, len(images))).transpose(0, 1).flatten(1) for crops, num in kinds], dim=1)


def composed(images: Tensor, seed: int = 0) -> Tensor:
    return compose(COMPOSED, images, seeded(seed))


ALL: Mapping[str, Callable[..., Tensor]] = {
    **{name: lambda images, seed=0, name=name: call(name, images, seed) for name in OPTIONS},
    "composed": composed,
}
every_function = pytest.mark.parametrize("name", ALL)


def test_every_function_is_here():
    assert {name for name in vars(views) if callable(getattr(views, name))} == {*OPTIONS, "View"}


@every_function
@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64, torch.bfloat16], ids=str)
def test_the_dtype_stays_and_floats_stay_in_range(name: str, dtype: torch.dtype):
    images = pictures(20, dtype=torch.float32)
    images = (images * 255).round().to(dtype) if dtype == torch.uint8 else images.to(dtype)
    before = images.clone()
    done = ALL[name](images)
    assert done.dtype == dtype
    assert torch.equal(images, before)
    assert done.data_ptr() != images.data_ptr()
    assert done.min() >= 0
    assert done.max() <= (255 if dtype == torch.uint8 else 1)


@every_function
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_memory_format_does_not_matter(name: str, dtype: torch.dtype):
    images = pictures(8, dtype=dtype)
    expected = ALL[name](images)
    assert torch.equal(ALL[name](images.contiguous(memory_format=torch.channels_last)), expected)
    assert torch.equal(ALL[name](images.repeat(2, 1, 2, 2)[::2, :, :24, :20][:8].copy_(images)), expected)


@every_function
def test_the_generator_alone_decides(name: str):
    images = pictures(30)
    state = torch.get_rng_state()
    first = ALL[name](images)
    assert torch.equal(ALL[name](images), first)
    assert torch.equal(torch.get_rng_state(), state)
    if name in RANDOM:
        assert not torch.equal(ALL[name](images, seed=1), first)


@pytest.mark.parametrize("name", [*RANDOM, "composed"])
def test_every_image_has_draws_of_its_own(name: str):
    done = ALL[name](pictures(1).expand(40, 3, 24, 20))
    assert len({image.numpy().tobytes() for image in done}) >= 2
    if name not in {"horizontal_flip", "vertical_flip", "grayscale", "solarize"}:
        assert len({image.numpy().tobytes() for image in done}) > 15


@every_function
@pytest.mark.parametrize("num_images", [0, 1])
@pytest.mark.parametrize("num_chs", [1, 3])
def test_batches_of_none_and_one(name: str, num_images: int, num_chs: int):
    images = pictures(2, num_chs=num_chs)
    done, some = ALL[name](images), ALL[name](images[:num_images])
    assert some.shape == (num_images, *done.shape[1:])
    assert some.dtype == torch.uint8


@every_function
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_parts_of_the_batch_give_the_same(name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch):
    """How many images are changed at a time is a matter of memory alone."""
    images = pictures(11, dtype=dtype)
    whole = ALL[name](images)
    monkeypatch.setattr(transform_module, "_VALUES", {"cpu": 4000})
    assert distance(ALL[name](images), whole) <= (0.001 if dtype == torch.float32 else 0)


def test_temporary_memory_does_not_grow_with_the_batch(monkeypatch: pytest.MonkeyPatch):
    sizes = []
    monkeypatch.setattr(transform_module, "_VALUES", {"cpu": 2**16})
    change = transform_module.to_float
    monkeypatch.setattr(transform_module, "to_float", lambda images: sizes.append(images.numel()) or change(images))
    views.solarize(torch.zeros(100, 3, 64, 64, dtype=torch.uint8), generator=seeded())
    assert max(sizes) <= 2**16
    assert sum(sizes) == 100 * 3 * 64 * 64


def test_a_composition_is_one_view_after_another_rounded_once():
    images = pictures(20, dtype=torch.float32)
    generator, expected = seeded(), images
    for view, options in COMPOSED:
        expected = view(expected, **options, **({"generator": generator} if view.random else {}))
    assert distance(composed(images), expected) < 0.001
    rounded = composed((images * 255).round().to(torch.uint8)).float()
    again = composed((images * 255).round() / 255) * 255
    assert (rounded - again).abs().max() <= 0.501


def test_draws_of_another_device_come_to_the_images():
    """With a generator of the CPU, every device sees the same views."""
    images = torch.empty(4, 3, 24, 20, device="meta", dtype=torch.float32)
    step = views.color_jitter.draw(Shape(*images.shape), **OPTIONS["color_jitter"], generator=seeded())
    moved: Any = step.to(images.device)
    assert {moved.factors.device.type, moved.hue.device.type, moved.order.device.type, moved.chosen.device.type} == {"meta"}
    assert views.solarize(images, generator=seeded()).shape == images.shape


def test_signatures_are_those_of_plain_functions():
    shown = inspect.signature(views.solarize)
    assert str(shown.replace(return_annotation=shown.empty)).startswith(
        "(images: torch.Tensor, *, threshold: float = 128, probability: float = 0.5"
    )
    assert views.solarize.__name__ == "solarize"
    for name in OPTIONS:
        function = getattr(views, name)
        parameters = inspect.signature(function).parameters
        assert ("generator" in parameters) == (name in RANDOM)
        assert all(one.kind is inspect.Parameter.KEYWORD_ONLY for one in list(parameters.values())[1:])
        assert all(f"\n        {parameter}: " in f"\n    {function.__doc__}" or parameter in function.__doc__ for parameter in parameters)


WRONG = {
    "probability: is out of range; found 1.5; allowed: 0 to 1": ("grayscale", {"probability": 1.5}),
    "size: must be positive; found 0": ("random_resized_crop", {"size": 0}),
    "scale: is not an interval within bounds; found (0.5, 0.1)": ("random_resized_crop", {"scale": (0.5, 0.1)}),
    "scale: is not an interval within bounds; found (0.5, 1.5)": ("random_resized_crop", {"scale": (0.5, 1.5)}),
    "ratio: is not an interval within bounds; found (0, 1)": ("random_resized_crop", {"ratio": (0, 1)}),
    "num_crops: goes with size and scale": ("multi_crop", {"num_crops": (1,)}),
    "num_crops: is out of range": ("multi_crop", {"num_crops": (1, 0)}),
    "threshold: is out of range; found 256": ("solarize", {"threshold": 256}),
    "brightness: must not be negative": ("color_jitter", {"brightness": -0.1}),
    "contrast: is not an interval within bounds": ("color_jitter", {"contrast": (-1, 1)}),
    "hue: is not an interval within bounds; found (-0.6, 0.6)": ("color_jitter", {"hue": 0.6}),
    "kernel_size: does not fit; found 4": ("gaussian_blur", {"kernel_size": 4}),
    "kernel_size: does not fit; found 41; allowed: an odd number up to 39": ("gaussian_blur", {"kernel_size": 41}),
    "sigma: is not an interval within bounds": ("gaussian_blur", {"sigma": 0.0}),
    "value: does not fit the images; found 2 values; allowed: 1, or 3, one for each channel": ("random_erasing", {"value": (1, 2)}),
    "value: is not a pixel value; found 'noise'": ("random_erasing", {"value": "noise"}),
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_options(message: str):
    name, options = WRONG[message]
    with pytest.raises(OptionError) as caught:
        call(name, pictures(2), **options)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("name", "options"),
    [("grayscale", {}), ("color_jitter", {"hue": 0.1, "saturation": 0.0}), ("color_jitter", {"hue": 0.0, "saturation": 0.1})],
)
@pytest.mark.parametrize("num_chs", [2, 4, 13])
def test_bands_have_no_colors(name: str, options: dict[str, Any], num_chs: int):
    with pytest.raises(OptionError, match=f"{name}: needs images with colours; found '{num_chs} channels'"):
        call(name, pictures(2, num_chs=num_chs), **options)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(3, 8, 8), "images: must be a batch; found (3, 8, 8); allowed: (N, C, H, W); images[None] makes a batch of one"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.int64), "images: must be pixels; found torch.int64; allowed: torch.uint8, or float in [0, 1]"),
    ],
)
def test_what_is_no_batch_of_images(images: Tensor, message: str):
    for function in (lambda: views.solarize(images, generator=seeded()), lambda: composed(images)):
        with pytest.raises(OptionError) as caught:
            function()
        assert str(caught.value) == message


def test_views_have_no_gradients():
    images = pictures(4, dtype=torch.float32).requires_grad_()
    assert not composed(images).requires_grad


def test_bands_have_all_other_views():
    images = pictures(3, num_chs=13)
    for name in OPTIONS:
        if name not in {"grayscale", "color_jitter"}:
            assert call(name, images).dtype == torch.uint8
    assert call("color_jitter", images, hue=0.0, saturation=0.0).shape == images.shape
