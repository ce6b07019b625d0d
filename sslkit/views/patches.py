"""Views that blur, or erase a part."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor
from typing_extensions import override

from sslkit.contract.errors import OptionError
from sslkit.views.resampling import blur_taps, resample
from sslkit.views.transform import RandomTransform, Shape, Transform, choose, integers, interval, sides, uniform, view


@dataclass(frozen=True, kw_only=True)
class Blur(RandomTransform):
    """The chosen images blurred.

    Attributes:
        sigma: (N,) float32, in pixels.
        kernel_size: in pixels.
    """

    sigma: Tensor
    kernel_size: int

    @override
    def change(self, images: Tensor) -> Tensor:
        vertical, horizontal = (blur_taps(self.sigma, self.kernel_size, side) for side in images.shape[2:])
        return resample(images, vertical, horizontal)


@view
def gaussian_blur(
    images: Shape,
    *,
    kernel_size: int | None = None,
    sigma: float | tuple[float, float] = (0.1, 2.0),
    probability: float = 1.0,
    generator: Generator,
) -> Transform:
    """Blur with a Gaussian, mirrored at the border.

    Args:
        images: (N, C, H, W) uint8 or float in [0, 1].
        kernel_size: side of the kernel in pixels, odd; None: three times the largest sigma on each side, or less where images are smaller.
        sigma: of the Gaussian, in pixels, or the interval that it is drawn from.
        probability: of each image to be blurred.
        generator: where the draws come from.

    Returns:
        Images of the same shape and dtype.

    Raises:
        OptionError: an option is out of range, or the kernel is too large for the images.
    """
    chosen = choose(images.num_images, probability, generator)
    low, high = interval("sigma", (sigma, sigma) if isinstance(sigma, int | float) else sigma, 0.01, math.inf)
    reach = min(images.height, images.width) - 1  # what can be mirrored
    if kernel_size is None:
        kernel_size = 2 * min(math.ceil(3 * high), reach) + 1
    if kernel_size < 1 or kernel_size % 2 == 0 or kernel_size // 2 > reach:
        raise OptionError("kernel_size", "does not fit", found=kernel_size, allowed=f"an odd number up to {2 * reach + 1}")
    return Blur(chosen=chosen, sigma=uniform(images.num_images, low, high, generator), kernel_size=kernel_size)


@dataclass(frozen=True, kw_only=True)
class Erasing(RandomTransform):
    """A rectangle of the chosen images overwritten.

    Attributes:
        top, left, height, width: (N,) int64, in pixels.
        value: (N, C, 1, 1) or (N, C, H, W), in 0..255.
    """

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor
    value: Tensor

    @override
    def change(self, images: Tensor) -> Tensor:
        height, width = images.shape[2:]
        rows, columns = _between(self.top, self.height, height), _between(self.left, self.width, width)
        return torch.where(rows[:, None, :, None] & columns[:, None, None, :], self.value.to(images.dtype) / 255, images)


@view
def random_erasing(
    images: Shape,
    *,
    scale: tuple[float, float] = (0.02, 0.33),
    ratio: tuple[float, float] = (0.3, 3.3),
    value: float | tuple[float, ...] | Literal["random"] = 0.0,
    probability: float = 0.5,
    generator: Generator,
) -> Transform:
    """Overwrite a random rectangle.

    Zhong et al. 2017 (arXiv:1708.04896); the draws are those of torchvision's RandomErasing.

    Args:
        images: (N, C, H, W) uint8 or float in [0, 1].
        scale: the rectangle's share of the image's area.
        ratio: its height over its width; its logarithm is uniform.
        value: what is written, in 0..255, for all channels or for each, or ``random``: uniform noise of each pixel and channel.
        probability: of each image to lose a rectangle.
        generator: where the draws come from.

    Returns:
        Images of the same shape and dtype.

    Raises:
        OptionError: an option is out of range.
    """
    num_images, num_chs, height, width = images
    chosen = choose(num_images, probability, generator)
    heights, widths = sides(images, scale, ratio, generator)
    fits = (heights < height) & (widths < width)
    first = fits.int().argmax(dim=0, keepdim=True)  # the first try that fits
    heights, widths = (torch.where(fits.any(dim=0), tries.gather(0, first)[0], 0) for tries in (heights, widths))  # none: nothing is erased
    top, left = integers(height - heights + 1, generator), integers(width - widths + 1, generator)
    if value == "random":
        values = torch.randint(0, 256, images, generator=generator, device=generator.device, dtype=torch.uint8)
    else:
        # One constant after the other: to copy a list to a GPU, the host waits for it.
        values = [torch.full((num_images, 1, 1), one, device=generator.device) for one in _checked(value, num_chs)]
        values = torch.stack(values, dim=1).expand(num_images, num_chs, 1, 1)
    return Erasing(chosen=chosen, top=top, left=left, height=heights, width=widths, value=values)


def _between(start: Tensor, extent: Tensor, length: int) -> Tensor:
    """(N, length) bool: which of the positions are in each interval."""
    positions = torch.arange(length, device=start.device)
    return (positions >= start[:, None]) & (positions < (start + extent)[:, None])


def _checked(value: float | tuple[float, ...] | str, num_chs: int) -> list[float]:
    values = [value] if isinstance(value, int | float) else list(value)
    if not all(isinstance(one, int | float) and 0 <= one <= 255 for one in values):
        raise OptionError("value", "is not a pixel value", found=value, allowed=f"0 to 255, {num_chs} of these, or 'random'")
    if len(values) not in (1, num_chs):
        counts = "1" if num_chs == 1 else f"1, or {num_chs}"
        raise OptionError("value", f"does not fit the images; found {len(values)} values", allowed=f"{counts}, one for each channel")
    return [float(one) for one in values]
