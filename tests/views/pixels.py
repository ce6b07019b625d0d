"""Images to change, and torchvision's functions to compare with: one image at a time, with the parameters that were drawn."""

from typing import Any

import torch
from torch import Generator, Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as reference

from sslkit.views.color import ColorJitter, Grayscale, Solarize
from sslkit.views.crops import Crop, Flip
from sslkit.views.patches import Blur, Erasing

DTYPES = (torch.uint8, torch.float32)

OPTIONS: dict[str, dict[str, Any]] = {
    "random_resized_crop": {"size": (9, 12)},
    "multi_crop": {"size": (12, 6), "num_crops": (2, 3), "scale": ((0.3, 1.0), (0.05, 0.3))},
    "horizontal_flip": {},
    "vertical_flip": {},
    "color_jitter": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1, "probability": 0.8},
    "grayscale": {"probability": 0.5},
    "gaussian_blur": {"probability": 0.5},
    "solarize": {},
    "random_erasing": {},
    "center_crop": {"size": (30, 9)},
    "resize": {"size": (9, 30)},
}
"""Of every function, what it is tried with."""


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def pictures(num_images: int, *, num_chs: int = 3, height: int = 24, width: int = 20, dtype: torch.dtype = torch.uint8) -> Tensor:
    """Smooth shapes with noise on them, and among their values all extremes."""
    coarse = torch.rand(num_images, num_chs, 4, 4, generator=seeded(1))
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    images = (1.6 * smooth - 0.3 + 0.1 * torch.randn(smooth.shape, generator=seeded(2))).clamp(0, 1)
    return images if dtype == torch.float32 else (images * 255).round().to(dtype)


def distance(images: Tensor, others: Tensor) -> float:
    """The largest difference of two pixels, in levels of uint8."""
    assert images.dtype == others.dtype
    assert images.shape == others.shape
    return float((images.double() - others.double()).abs().max()) * (255 if images.is_floating_point() else 1)


def _interpolation(name: str) -> InterpolationMode:
    return InterpolationMode[name.upper()]


def crop(image: Tensor, step: Crop) -> Tensor:
    window = [int(values[0]) for values in (step.top, step.left, step.height, step.width)]
    done = reference.resized_crop(image, *window, size=list(step.size), interpolation=_interpolation(step.interpolation), antialias=True)
    return done.clamp(0, 1) if done.is_floating_point() else done


def flip(image: Tensor, step: Flip) -> Tensor:
    return (reference.horizontal_flip if step.dim == 3 else reference.vertical_flip)(image)


def jitter(image: Tensor, step: ColorJitter) -> Tensor:
    brightness, contrast, saturation = step.factors[0].tolist()
    for kind in step.order[0].tolist():
        if kind == 0:
            image = reference.adjust_brightness(image, brightness)
        elif kind == 1:
            image = reference.adjust_contrast(image, contrast)
        elif kind == 2:
            image = reference.adjust_saturation(image, saturation)
        elif step.hue is not None:
            image = reference.adjust_hue(image, float(step.hue[0]))
    return image


def without_colors(image: Tensor, _: Grayscale) -> Tensor:
    return reference.rgb_to_grayscale(image, num_output_channels=len(image))


def inverted(image: Tensor, step: Solarize) -> Tensor:
    return reference.solarize(image, step.threshold / 255 if image.is_floating_point() else step.threshold)


def blurred(image: Tensor, step: Blur) -> Tensor:
    return reference.gaussian_blur(image, [step.kernel_size] * 2, [float(step.sigma[0])] * 2)


def erased(image: Tensor, step: Erasing) -> Tensor:
    top, left, height, width = (int(values[0]) for values in (step.top, step.left, step.height, step.width))
    value = step.value[0]
    if value.shape[1:] != (1, 1):
        value = value[:, top : top + height, left : left + width]
    value = value.float() / 255 if image.is_floating_point() else value.to(image.dtype)
    return reference.erase(image, top, left, height, width, value)
