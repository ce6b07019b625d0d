"""Views that take a part of each image, resize it or mirror it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn import functional as F
from typing_extensions import override

from sslkit.contract.errors import OptionError
from sslkit.views.resampling import Interpolation, crop_taps, resample
from sslkit.views.transform import RandomTransform, Shape, Transform, choose, height_width, integers, sides, view


@dataclass(frozen=True, kw_only=True)
class Crop(Transform):
    """A crop of each image, resized.

    Attributes:
        top, left, height, width: (N,) int64, in pixels.
        size: height and width of the result.
        interpolation: how it is resized.
    """

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor
    size: tuple[int, int]
    interpolation: Interpolation

    @override
    def shape(self, shape: Shape) -> Shape:
        return Shape(shape.num_images, shape.num_chs, *self.size)

    @override
    def apply(self, images: Tensor) -> Tensor:
        vertical = crop_taps(self.top, self.height, self.size[0], images.shape[2], self.interpolation)
        horizontal = crop_taps(self.left, self.width, self.size[1], images.shape[3], self.interpolation)
        return _in_range(resample(images, vertical, horizontal), self.interpolation)


@view
def random_resized_crop(
    images: Shape,
    *,
    size: int | tuple[int, int],
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    interpolation: Interpolation = "bilinear",
    generator: Generator,
) -> Transform:
    """Resize a random window of each image, antialiased where it shrinks.

    Szegedy et al. 2015 (arXiv:1409.4842); the draws are those of torchvision's RandomResizedCrop.

    Args:
        images: (N, C, H, W) uint8 or float in [0, 1].
        size: of the result: the side of a square, or (height, width), in pixels.
        scale: the window's share of the image's area.
        ratio: its width over its height; its logarithm is uniform.
        interpolation: ``bilinear`` or ``bicubic``.
        generator: where the draws come from.

    Returns:
        (N, C, height, width) of the same dtype.

    Raises:
        OptionError: a size or an interval is out of range.
    """
    size = height_width(size)
    height, width = images.height, images.width
    widths, heights = sides(images, scale, ratio, generator)
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    first = fits.int().argmax(dim=0, keepdim=True)  # the first try that fits
    # Where none fits: the largest window in the middle whose ratio is allowed.
    widest, highest = min(width, max(1, round(height * ratio[1]))), min(height, max(1, round(width / ratio[0])))
    fits = fits.any(dim=0)
    crop_width = torch.where(fits, widths.gather(0, first)[0], widest)
    crop_height = torch.where(fits, heights.gather(0, first)[0], highest)
    top, left = integers(height - crop_height + 1, generator), integers(width - crop_width + 1, generator)
    top, left = torch.where(fits, top, (height - highest) // 2), torch.where(fits, left, (width - widest) // 2)
    return Crop(top=top, left=left, height=crop_height, width=crop_width, size=size, interpolation=interpolation)


def multi_crop(
    images: Tensor,
    *,
    size: Sequence[int | tuple[int, int]],
    num_crops: Sequence[int],
    scale: Sequence[tuple[float, float]],
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    interpolation: Interpolation = "bilinear",
    generator: Generator,
) -> list[Tensor]:
    """Take several random resized crops of each image, of several sizes: few large ones and many small ones.

    Caron et al. 2020 (SwAV, arXiv:2006.09882): ``size=(224, 96), num_crops=(2, 6), scale=((0.14, 1.0), (0.05, 0.14))``.

    Args:
        images: (N, C, H, W) uint8 or float in [0, 1].
        size: of the crops of each kind: the side of a square, or (height, width), in pixels.
        num_crops: of each kind.
        scale: the windows' share of the image's area, of each kind.
        ratio: a window's width over its height.
        interpolation: ``bilinear`` or ``bicubic``.
        generator: where the draws come from.

    Returns:
        A tensor for each size, (num_crops * N, C, height, width): row ``i`` is made from image ``i % N``.

    Raises:
        OptionError: a size, a number or an interval is out of range, or there are not as many of each.
    """
    if not len(size) == len(num_crops) == len(scale):
        found = tuple(map(len, (size, num_crops, scale)))
        raise OptionError("num_crops", "goes with size and scale", found=found, allowed="as many sizes as numbers and scales")
    if any(num < 1 for num in num_crops):
        raise OptionError("num_crops", "is out of range", found=tuple(num_crops), allowed="1 or more of each size")
    kinds = zip(size, num_crops, scale, strict=True)
    return [
        torch.cat(
            [
                random_resized_crop(images, size=one, scale=share, ratio=ratio, interpolation=interpolation, generator=generator)
                for _ in range(num)
            ]
        )
        for one, num, share in kinds
    ]


@dataclass(frozen=True, kw_only=True)
class Flip(RandomTransform):
    """The chosen images, mirrored along a dimension."""

    dim: int

    @override
    def change(self, images: Tensor) -> Tensor:
        return images.flip(self.dim)


@view
def horizontal_flip(images: Shape, *, probability: float = 0.5, generator: Generator) -> Transform:
    """Mirror left and right.

    Args:
        images: (N, C, H, W) uint8 or float in [0, 1].
        probability: of each image to be mirrored.
        generator: where the draws come from.

    Returns:
        Images of the same shape and dtype.

    Raises:
        OptionError: the probability is out of range.
    """
    return Flip(chosen=choose(images.num_images, probability, generator), dim=3)


@view
def vertical_flip(images: Shape, *, probability: float = 0.5, generator: Generator) -> Transform:
    """Mirror top and bottom.

    Args:
        images: (N, C, H, W) uint8 or float in [0, 1].
        probability: of each image to be mirrored.
        generator: where the draws come from.

    Returns:
        Images of the same shape and dtype.

    Raises:
        OptionError: the probability is out of range.
    """
    return Flip(chosen=choose(images.num_images, probability, generator), dim=2)


@dataclass(frozen=True, kw_only=True)
class CenterCrop(Transform):
    """The centre of each image, padded with zeros where the image is smaller."""

    size: tuple[int, int]

    @override
    def shape(self, shape: Shape) -> Shape:
        return Shape(shape.num_images, shape.num_chs, *self.size)

    @override
    def apply(self, images: Tensor) -> Tensor:
        missing = [max(size - side, 0) for size, side in zip(self.size, images.shape[2:], strict=True)]
        (above, below), (before, after) = [(num // 2, (num + 1) // 2) for num in missing]
        images = F.pad(images, [before, after, above, below])
        top, left = (round((side - size) / 2) for size, side in zip(self.size, images.shape[2:], strict=True))
        return images[:, :, top : top + self.size[0], left : left + self.size[1]]


@view
def center_crop(images: Shape, *, size: int | tuple[int, int]) -> Transform:
    """Crop the centre of each image; smaller images are padded with zeros.

    Args:
        images: (N, C, H, W) uint8 or float in [0, 1].
        size: of the result: the side of a square, or (height, width), in pixels.

    Returns:
        (N, C, height, width) of the same dtype.

    Raises:
        OptionError: a side is not positive.
    """
    del images
    return CenterCrop(size=height_width(size))


@dataclass(frozen=True, kw_only=True)
class Resize(Transform):
    """All images resized."""

    size: tuple[int, int]
    interpolation: Interpolation

    @override
    def shape(self, shape: Shape) -> Shape:
        return Shape(shape.num_images, shape.num_chs, *self.size)

    @override
    def apply(self, images: Tensor) -> Tensor:
        return _in_range(F.interpolate(images, self.size, mode=self.interpolation, antialias=True), self.interpolation)


@view
def resize(images: Shape, *, size: int | tuple[int, int], interpolation: Interpolation = "bilinear") -> Transform:
    """Resize images, antialiased where they shrink.

    Args:
        images: (N, C, H, W) uint8 or float in [0, 1].
        size: of the result: the side of a square, or (height, width), in pixels.
        interpolation: ``bilinear`` or ``bicubic``.

    Returns:
        (N, C, height, width) of the same dtype.

    Raises:
        OptionError: a side is not positive.
    """
    del images
    return Resize(size=height_width(size), interpolation=interpolation)


def _in_range(images: Tensor, interpolation: Interpolation) -> Tensor:
    """A cubic filter overshoots at edges."""
    return images.clamp_(0, 1) if interpolation == "bicubic" else images
