"""Views: functions in their order, with options that are checked when the view is made."""

import copy
import dataclasses
import inspect
import pickle
from typing import Any

import pytest
import torch

from sslkit import ImageSpec, OptionError, views
from sslkit.storage.identity import fingerprint, plain
from sslkit.views.presets import PRESETS
from sslkit.views.view import OPTIONS, View, views_of
from tests.recipes import refusal
from tests.views.pixels import pictures, seeded

RGB = ImageSpec(40, 48, "rgb", (0.5,) * 3, (0.25,) * 3)
GRAY = ImageSpec(40, 48, "gray", (0.5,), (0.25,))
BANDS = ImageSpec(40, 48, None, (0.5,) * 4, (0.25,) * 4)  # pyright: ignore[reportArgumentType]
EVERY_FUNCTION: dict[str, dict[str, Any]] = {
    "resize": {"size": (36, 44), "interpolation": "bicubic"},
    "random_resized_crop": {"size": (24, 30), "scale": (0.3, 1.0), "ratio": (0.5, 2.0)},
    "horizontal_flip": {"probability": 0.4},
    "vertical_flip": {},
    "color_jitter": {"brightness": 0.4, "contrast": (0.5, 1.5), "saturation": 0.2, "hue": 0.1, "probability": 0.8},
    "grayscale": {"probability": 0.2},
    "gaussian_blur": {"kernel_size": 5, "sigma": 1.0},
    "solarize": {"threshold": 100.0},
    "random_erasing": {"value": 30.0},
    "center_crop": {"size": 20},
}


def test_every_function_but_those_of_many_images_can_be_in_a_view():
    functions = {name for name, value in vars(views).items() if inspect.isfunction(value)}
    assert functions - {"multi_crop"} == set(OPTIONS) == set(EVERY_FUNCTION)
    for name, options in OPTIONS.items():
        parameters = inspect.signature(getattr(views, name)).parameters
        assert [each.name for each in dataclasses.fields(options)] == [each for each in parameters if each not in {"images", "generator"}]


def test_a_view_is_its_functions_one_after_another():
    """Drawn from one generator, in their order; in floats to the bit, and uint8 images are rounded once."""
    images, generator = pictures(6, height=40, width=48, dtype=torch.float32), seeded(3)
    expected = images
    for name, options in EVERY_FUNCTION.items():
        draws = {} if name in {"resize", "center_crop"} else {"generator": generator}
        expected = getattr(views, name)(expected, **options, **draws)
    found = View(**EVERY_FUNCTION)(images, seeded(3))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert (found.dtype, found.shape[1:]) == (torch.float32, (3, 20, 20))
    pixels = pictures(6, height=40, width=48)
    whole = View(**EVERY_FUNCTION)(pixels / 255, seeded(3))
    assert torch.equal(View(**EVERY_FUNCTION)(pixels, seeded(3)), whole.mul(255).round().to(torch.uint8))


def test_each_band_may_be_erased_with_a_value_of_its_own():
    view = View(random_erasing={"value": (0.0, 10.0, 20.0, 30.0)})
    view.check(BANDS)
    expected = "view.random_erasing.value: does not fit the images; found 4 values; allowed: 1, or 3, one for each channel"
    assert refusal(OptionError, view.check, RGB) == expected
    two = View(random_erasing={"value": (1.0, 2.0)})
    assert refusal(OptionError, two.check, GRAY).endswith("found 2 values; allowed: 1, one for each channel")


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_makes_images_of_its_size(name: str):
    images = pictures(6, height=40, width=48)
    preset = View(name)
    own = preset.image_spec(RGB)
    assert own.height == own.width == (32 if name == "simclr_cifar" else 96 if name == "dino_local" else 224)
    small = View(name, size=(16, 20))
    made = small(images, seeded(0))
    assert (made.shape, made.dtype) == ((len(images), 3, 16, 20), torch.uint8)
    assert small.image_spec(RGB) == RGB._replace(height=16, width=20)
    assert torch.equal(made, small(images, seeded(0)))
    assert not torch.equal(made, small(images, seeded(1)))
    assert small.functions == preset.functions == tuple(PRESETS[name].functions)
    assert "arXiv" in PRESETS[name].source
    preset.check(RGB)
    small.check(GRAY)  # what has no colours keeps its grey


def test_presets_have_the_numbers_of_their_papers():
    def of(name: str, function: str) -> dict[str, Any]:
        return vars(View(name).options[function])

    jitter = {name: tuple(of(name, "color_jitter").values()) for name in PRESETS if name != "mae"}
    assert jitter["simclr_cifar"] == (0.4, 0.4, 0.4, 0.1, 0.8)
    assert jitter["simclr"] == (0.8, 0.8, 0.8, 0.2, 0.8)
    assert {jitter[name] for name in ("byol_1", "byol_2", "dino_global", "dino_global_2", "dino_local")} == {(0.4, 0.4, 0.2, 0.1, 0.8)}
    blur = {name: of(name, "gaussian_blur")["probability"] for name in PRESETS if "gaussian_blur" in View(name).functions}
    assert blur == {
        "simclr": 0.5,
        "byol_1": 1.0,
        "byol_2": 0.1,
        "dino_global": 1.0,
        "dino_global_2": 0.1,
        "dino_local": 0.5,
        "grayscale_medical": 0.5,
    }
    assert {name for name in PRESETS if "solarize" in View(name).functions} == {"byol_2", "dino_global_2"}
    scale = {name: of(name, "random_resized_crop")["scale"] for name in PRESETS}
    assert {scale[name] for name in ("simclr_cifar", "simclr", "byol_1", "byol_2")} == {(0.08, 1.0)}
    assert {scale["dino_global"], scale["dino_global_2"]} == {(0.4, 1.0)}
    assert (scale["dino_local"], scale["mae"]) == ((0.05, 0.4), (0.2, 1.0))


def test_a_preset_can_be_changed():
    changed = View("simclr", size=96, color_jitter={"hue": 0.0}, grayscale=False, random_erasing={})
    assert changed.functions == ("random_resized_crop", "horizontal_flip", "color_jitter", "gaussian_blur", "random_erasing")
    assert vars(changed.options["random_resized_crop"])["size"] == 96
    assert vars(changed.options["color_jitter"]) == {**vars(View("simclr").options["color_jitter"]), "hue": 0.0}
    assert View("mae") == View(**PRESETS["mae"].functions)


def test_a_view_is_a_value():
    view = View("byol_2")
    for other in (copy.copy(view), copy.deepcopy(view), pickle.loads(pickle.dumps(view)), View(**view.options), eval(repr(view))):
        assert (other, hash(other), repr(other)) == (view, hash(view), repr(view))
    with pytest.raises(dataclasses.FrozenInstanceError):
        view.functions = ()
    with pytest.raises(TypeError):
        view.options["resize"] = view.options["solarize"]  # pyright: ignore[reportIndexIssue]


def test_the_order_of_functions_is_part_of_what_a_view_is():
    one = View(horizontal_flip={}, resize={"size": 8})
    two = View(resize={"size": 8}, horizontal_flip={})
    assert one != two
    assert fingerprint(plain(one)) != fingerprint(plain(two))
    same = View(horizontal_flip={"probability": 0.5}, resize={"size": 8})
    assert fingerprint(plain(one)) == fingerprint(plain(same))
    assert fingerprint(plain(View(solarize={}))) == fingerprint(plain(View(solarize={"threshold": 128})))
    assert View(resize={"size": [8, 9]}) == View(resize={"size": (8, 9)})


def test_what_is_random_needs_a_generator():
    still = View(resize={"size": 24}, center_crop={"size": 20}, grayscale={"probability": 1.0}, horizontal_flip={"probability": 0})
    assert still.random == ()
    images = pictures(6, height=40, width=48)
    assert torch.equal(still(images), still(images, seeded(1)))
    view = View(center_crop={"size": 20}, horizontal_flip={}, gaussian_blur={})
    assert view.random == ("horizontal_flip", "gaussian_blur")
    expected = "generator: missing; required; allowed: the source of what horizontal_flip, gaussian_blur draw"
    assert refusal(OptionError, view, images) == expected


@pytest.mark.parametrize(
    ("functions", "message"),
    [
        (
            {"color_jitter": {"hue": 0.1}},
            "view.color_jitter: needs colours, and these images have bands; set saturation = 0 and hue = 0",
        ),
        ({"color_jitter": {"saturation": (0.5, 1.5)}}, "view.color_jitter: needs colours, and ..."),
        (
            {"resize": {"size": 8}, "grayscale": {}},
            "view.grayscale: needs colours, and these images have bands; leave it out",
        ),
        ({"gaussian_blur": {"kernel_size": 99}}, "view.gaussian_blur.kernel_size: does not fit; found 99; allowed: an odd number up to 79"),
    ],
)
def test_images_that_a_view_cannot_be_made_of_are_refused(functions: dict[str, Any], message: str):
    found = refusal(OptionError, View(**functions).check, BANDS)
    assert found.startswith(message.removesuffix("..."))
    assert message.endswith("...") or found == message


def test_bands_have_views_without_colours():
    View("grayscale_medical").check(BANDS)
    View("simclr", color_jitter={"saturation": 0.0, "hue": 0.0}, grayscale=False).check(BANDS)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "unknown function": ({"color_jiter": {}}, "color_jiter: unknown function; did you mean 'color_jitter'?"),
    "many images": (
        {"multi_crop": {}},
        "multi_crop: unknown function; allowed: random_resized_crop, resize, center_crop, horizontal_flip, ",
    ),
    "unknown option": ({"grayscale": {"p": 0.1}}, "grayscale.p: unknown option; allowed: probability"),
    "misspelt option": ({"gaussian_blur": {"kernel": 3}}, "gaussian_blur.kernel: unknown option; did you mean 'kernel_size'?"),
    "missing option": ({"resize": {}}, "resize.size: missing; required"),
    "no table": ({"grayscale": 0.1}, "grayscale: must be a table of its options; found 0.1; allowed: {} for the defaults"),
    "left out of nothing": ({"grayscale": False}, "grayscale: must be a table of its options; found False; allowed: {} for the defaults"),
    "type": ({"resize": {"size": "8"}}, "resize.size: must be an integer or a tuple of 2 values; found '8'"),
    "true": ({"resize": {"size": True}}, "resize.size: must be an integer or a tuple of 2 values; found True"),
    "pair": ({"random_resized_crop": {"size": 8, "scale": 0.2}}, "random_resized_crop.scale: must be a tuple of 2 values; found 0.2"),
    "choice": ({"resize": {"size": 8, "interpolation": "cubic"}}, "resize.interpolation: must be 'bilinear' or 'bicubic'; found 'cubic'"),
    "nan": ({"grayscale": {"probability": float("nan")}}, "grayscale.probability: must be finite; found nan"),
    "size": ({"center_crop": {"size": 0}}, "center_crop.size: must be positive; found 0; allowed: "),
    "scale": (
        {"random_resized_crop": {"size": 8, "scale": (0.0, 1.5)}},
        "random_resized_crop.scale: is not an interval within bounds; found (0.0, 1.5); ",
    ),
    "ratio": (
        {"random_resized_crop": {"size": 8, "ratio": (2.0, 1.0)}},
        "random_resized_crop.ratio: is not an interval within bounds; found (2.0, 1.0); ",
    ),
    "probability": ({"horizontal_flip": {"probability": 1.5}}, "horizontal_flip.probability: is out of range; found 1.5; allowed: 0 to 1"),
    "kernel": ({"gaussian_blur": {"kernel_size": 4}}, "gaussian_blur.kernel_size: does not fit; found 4; allowed: an odd number "),
    "kernel of a small image": (
        {"resize": {"size": 8}, "gaussian_blur": {"kernel_size": 23}},
        "gaussian_blur.kernel_size: does not fit; found 23; allowed: an odd number up to 15",
    ),
    "sigma": ({"gaussian_blur": {"sigma": -1.0}}, "gaussian_blur.sigma: is not an interval within bounds; found (-1.0, -1.0); "),
    "brightness": ({"color_jitter": {"brightness": -0.1}}, "color_jitter.brightness: must not be negative; found -0.1; "),
    "hue": ({"color_jitter": {"hue": 0.6}}, "color_jitter.hue: is not an interval within bounds; found (-0.6, 0.6); "),
    "threshold": ({"solarize": {"threshold": 256}}, "solarize.threshold: is out of range; found 256.0; allowed: 0 to 255"),
    "value": ({"random_erasing": {"value": -1.0}}, "random_erasing.value: is not a pixel value; found -1.0; "),
    "no function": ({}, "is a view without a function; found {}; allowed: random_resized_crop, "),
    "nothing left": (
        {"name": "mae", "random_resized_crop": False, "horizontal_flip": False},
        "is a view without a function; found {'name': 'mae', ",
    ),
    "preset": ({"preset": "simclr", "size": 8}, "preset: unknown function; found 'simclr'; for a preset write name = \"simclr\""),
    "size alone": ({"size": 8}, "size: is for a preset; found 8; give it to a function: center_crop = { size = 224 }"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_view_is_refused_when_it_is_made(name: str):
    functions, message = WRONG[name]
    assert refusal(OptionError, View, **functions).startswith(message)


def test_a_wrong_preset_is_refused():
    expected = f"name: no such preset; found 'simclrr'; allowed: {', '.join(PRESETS)}; did you mean 'simclr'?"
    assert refusal(OptionError, View, "simclrr") == expected
    assert refusal(OptionError, View, "mae", size=-1).startswith("random_resized_crop.size: must be positive; found -1")


def test_views_are_found_among_options():
    @dataclasses.dataclass
    class Options:
        first: View
        several: tuple[View, ...]
        number: int = 3

    one, two = View("mae"), View("simclr")
    assert list(views_of(Options(one, (two, one)))) == [("first", one), ("several[0]", two), ("several[1]", one)]
    assert list(views_of(3)) == []
