"""The draws are distributed as torchvision's, which is asked as often."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from scipy.stats import chisquare, kstest
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from sslkit import views
from sslkit.views.transform import Shape, integers
from tests.views.pixels import seeded

NUM = 500
SIGNIFICANCE = 1e-3
"""Of each comparison, with fixed seeds: one in a thousand would fail if the seeds were changed."""


@pytest.fixture(autouse=True)
def torchvisions_seed() -> Iterator[None]:
    """It draws from the global generator."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        yield


def asked(transform: Any, num_chs: int, height: int, width: int) -> dict[str, list[Any]]:
    """What torchvision draws for NUM images."""
    image = tv_tensors.Image(torch.zeros(num_chs, height, width))
    draws = [transform.make_params([image]) for _ in range(NUM)]
    return {name: [draw[name] for draw in draws] for name in draws[0]}


def assert_alike(ours: Tensor, theirs: list[Any]) -> None:
    assert kstest(ours.double().numpy(), [float(value) for value in theirs]).pvalue > SIGNIFICANCE


WINDOWS = [
    (64, 64, {}),
    (90, 30, {"scale": (0.2, 1.0)}),
    (20, 200, {"scale": (0.5, 1.0)}),  # most tries do not fit: the largest window in the middle
    (200, 20, {"scale": (0.5, 1.0), "ratio": (0.5, 1.0)}),
    (3, 4, {"scale": (0.01, 0.1)}),  # sides of zero pixels are tried again
]


@pytest.mark.parametrize(("height", "width", "options"), WINDOWS)
def test_windows(height: int, width: int, options: dict[str, Any]):
    step: Any = views.random_resized_crop.draw(Shape(NUM, 3, height, width), size=8, **options, generator=seeded())
    theirs = asked(v2.RandomResizedCrop(8, **options), 3, height, width)
    for name in ("top", "left", "height", "width"):
        assert_alike(getattr(step, name), theirs[name])
    assert_alike(step.height * step.width, [h * w for h, w in zip(theirs["height"], theirs["width"], strict=True)])
    assert_alike(step.width.double() / step.height, [w / h for h, w in zip(theirs["height"], theirs["width"], strict=True)])
    inside = (step.top >= 0) & (step.top + step.height <= height) & (step.left >= 0) & (step.left + step.width <= width)
    assert bool((inside & (step.height > 0) & (step.width > 0)).all())


@pytest.mark.parametrize(("height", "width", "options"), [(64, 64, {}), (16, 90, {}), (40, 8, {"scale": (0.3, 0.9)})])
def test_rectangles(height: int, width: int, options: dict[str, Any]):
    step: Any = views.random_erasing.draw(Shape(NUM, 3, height, width), **options, probability=1, generator=seeded())
    theirs = asked(v2.RandomErasing(**options), 3, height, width)
    none = [value is None for value in theirs["v"]]  # where no rectangle fits
    for name, one in {"top": "i", "left": "j", "height": "h", "width": "w"}.items():
        ours = getattr(step, name)[(step.height > 0) & (step.width > 0)]
        assert_alike(ours, [value for value, left_out in zip(theirs[one], none, strict=True) if not left_out])
    assert abs(float((step.height == 0).float().mean()) - sum(none) / NUM) < 0.1
    assert bool((step.height < height).all() & (step.width < width).all())


@pytest.mark.parametrize(
    "options",
    [
        {"brightness": 0.4, "contrast": 1.3, "saturation": (0.5, 0.7), "hue": 0.1},
        {"brightness": (0, 3), "contrast": 0.1, "saturation": 0.2, "hue": (-0.5, 0.2)},
    ],
)
def test_factors(options: dict[str, Any]):
    step: Any = views.color_jitter.draw(Shape(NUM, 3, 8, 8), **options, generator=seeded())
    theirs = asked(v2.ColorJitter(**options), 3, 8, 8)
    for place, name in enumerate(("brightness", "contrast", "saturation")):
        assert_alike(step.factors[:, place], theirs[f"{name}_factor"])
    assert_alike(step.hue, theirs["hue_factor"])
    counts = torch.bincount(step.order @ torch.tensor([64, 16, 4, 1]))
    counts = counts[counts > 0]
    assert len(counts) == 24
    assert chisquare(counts.numpy()).pvalue > SIGNIFICANCE
    together = torch.corrcoef(torch.cat([step.factors.T, step.hue[None]]))
    assert (together - torch.eye(4)).abs().max() < 4 / NUM**0.5  # drawn one by one


def test_sigmas():
    step: Any = views.gaussian_blur.draw(Shape(NUM, 3, 32, 32), sigma=(0.3, 1.7), generator=seeded())
    assert_alike(step.sigma, [sigma for sigma, _ in asked(v2.GaussianBlur(5, (0.3, 1.7)), 3, 32, 32)["sigma"]])


DRAW: dict[str, Callable[..., Any]] = {
    name: getattr(views, name).draw
    for name in ("horizontal_flip", "vertical_flip", "color_jitter", "grayscale", "gaussian_blur", "solarize", "random_erasing")
}


@pytest.mark.parametrize("name", DRAW)
@pytest.mark.parametrize("probability", [0.0, 0.1, 0.5, 0.97, 1.0])
def test_probability(name: str, probability: float):
    chosen = DRAW[name](Shape(4000, 3, 8, 8), probability=probability, generator=seeded()).chosen
    share = 1.0 if chosen is None else float(chosen.float().mean())
    assert abs(share - probability) <= 4 * (probability * (1 - probability) / 4000) ** 0.5
    assert (chosen is None) == (probability == 1)


DEFAULTS: dict[str, Any] = {
    "horizontal_flip": v2.RandomHorizontalFlip(),
    "vertical_flip": v2.RandomVerticalFlip(),
    "grayscale": v2.RandomGrayscale(),
    "solarize": v2.RandomSolarize(128),
    "random_erasing": v2.RandomErasing(),
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_default_probability(name: str):
    chosen = DRAW[name](Shape(4000, 3, 8, 8), generator=seeded()).chosen
    assert abs(float(chosen.float().mean()) - DEFAULTS[name].p) < 0.02


def test_every_integer_below_its_bound_is_equally_likely():
    draws = integers(torch.full((7000,), 7), seeded())
    assert chisquare(torch.bincount(draws, minlength=7).numpy()).pvalue > SIGNIFICANCE
    assert integers(torch.ones(9, dtype=torch.int64), seeded()).tolist() == [0] * 9
