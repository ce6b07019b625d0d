"""Views that change colours and brightness, pixel by pixel."""

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from typing_extensions import override

from sslkit.contract.errors import OptionError
from sslkit.views.transform import RandomTransform, Shape, Transform, choose, interval, uniform, view

_LUMA = (0.2989, 0.587, 0.114)
"""Of red, green and blue: ITU-R BT.601, as torchvision has it."""
_CONTRAST, _SATURATION, _HUE = 1, 2, 3
"""What the numbers in an order stand for; 0 is brightness."""


@dataclass(frozen=True, kw_only=True)
class ColorJitter(RandomTransform):
    """Brightness, contrast, saturation and hue changed, in an order of each image's own.

    Attributes:
        factors: (N, 3) float32, of brightness, contrast and saturation; 1 changes nothing.
        hue: (N,) float32, in turns of the colour wheel, or None.
        order: (N, 4) int64, a permutation: 0 is brightness, 1 contrast, 2 saturation, 3 hue.
    """

    factors: Tensor
    hue: Tensor | None
    order: Tensor

    @override
    def change(self, images: Tensor) -> Tensor:
        # Brightness, contrast and saturation are one operation: a blend with black, with the mean, or with the grey image. Each image has
        # three of them, and its hue is shifted between any two. So that no image waits for another, all go through three blends, the shift
        # and three blends again, of which three have a weight of 1.
        place = (self.order == _HUE).int().argmax(dim=1, keepdim=True)  # (N, 1)
        turn = torch.arange(3, device=images.device)
        blends = self.order.gather(1, turn + (turn >= place))  # (N, 3), without the hue
        weights = self.factors.gather(1, blends)
        if self.hue is None or images.shape[1] == 1:
            return _blend(images, blends, weights)
        images = _blend(images, blends, torch.where(turn < place, weights, 1))
        images = shift_hue(images, self.hue)
        return _blend(images, blends, torch.where(turn < place, 1, weights))


@view
def color_jitter(
    images: Shape,
    *,
    brightness: float | tuple[float, float] = 0.0,
    contrast: float | tuple[float, float] = 0.0,
    saturation: float | tuple[float, float] = 0.0,
    hue: float | tuple[float, float] = 0.0,
    probability: float = 1.0,
    generator: Generator,
) -> Transform:
    """Change brightness, contrast, saturation and hue by random factors, in a random order.

    As torchvision's ColorJitter, but uint8 images are rounded once, not after each change.

    Args:
        images: (N, C, H, W) uint8 or float in [0, 1]. Other than 1 or 3 channels have no saturation and hue, and the contrast of all together.
        brightness: a factor is drawn between 1 - b and 1 + b, or from (low, high).
        contrast: likewise; the mean grey value stays.
        saturation: likewise; the grey value of each pixel stays.
        hue: a shift is drawn between -h and h, or from (low, high), in turns of the colour wheel: at most 0.5.
        probability: of each image to be changed.
        generator: where the draws come from.

    Returns:
        Images of the same shape and dtype.

    Raises:
        OptionError: an option is out of range, or images without colours should change their saturation or hue.
    """
    num_images = images.num_images
    chosen = choose(num_images, probability, generator)
    ranges = {"brightness": _around_one("brightness", brightness), "contrast": _around_one("contrast", contrast)}
    ranges["saturation"] = _around_one("saturation", saturation)
    shift = interval("hue", (-hue, hue) if isinstance(hue, int | float) else hue, -0.5, 0.5)
    if images.num_chs not in (1, 3) and (ranges["saturation"] != (1, 1) or shift != (0, 0)):
        raise _needs_colors("color_jitter", images, fix="set saturation = 0 and hue = 0")
    factors = torch.stack([uniform(num_images, *span, generator) for span in ranges.values()], dim=1)
    order = torch.rand(num_images, 4, generator=generator, device=generator.device).argsort(dim=1)
    turns = None if shift == (0, 0) else uniform(num_images, *shift, generator)
    return ColorJitter(chosen=chosen, factors=factors, hue=turns, order=order)


@dataclass(frozen=True, kw_only=True)
class Grayscale(RandomTransform):
    """The chosen images in shades of grey."""

    @override
    def change(self, images: Tensor) -> Tensor:
        return images.copy_(gray(images))


@view
def grayscale(images: Shape, *, probability: float = 0.1, generator: Generator) -> Transform:
    """Convert images to grey; the number of channels stays, and all channels become equal.

    Args:
        images: (N, 3, H, W) uint8 or float in [0, 1], or (N, 1, H, W), which are grey already.
        probability: of each image to become grey.
        generator: where the draws come from.

    Returns:
        Images of the same shape and dtype.

    Raises:
        OptionError: the probability is out of range, or the images have no colours.
    """
    if images.num_chs not in (1, 3):
        raise _needs_colors("grayscale", images, fix="leave it out")
    return Grayscale(chosen=choose(images.num_images, probability, generator))


@dataclass(frozen=True, kw_only=True)
class Solarize(RandomTransform):
    """The chosen images with their high values inverted.

    Attributes:
        threshold: the lowest value that is inverted, in 0..255.
    """

    threshold: float

    @override
    def change(self, images: Tensor) -> Tensor:
        return torch.where(images >= self.threshold / 255, 1 - images, images)


@view
def solarize(images: Shape, *, threshold: float = 128, probability: float = 0.5, generator: Generator) -> Transform:
    """Invert all values that are at or above a threshold.

    Args:
        images: (N, C, H, W) uint8 or float in [0, 1].
        threshold: in 0..255, whatever the dtype.
        probability: of each image to be changed.
        generator: where the draws come from.

    Returns:
        Images of the same shape and dtype.

    Raises:
        OptionError: the threshold or the probability is out of range.
    """
    if not 0 <= threshold <= 255:
        raise OptionError("threshold", "is out of range", found=threshold, allowed="0 to 255")
    return Solarize(chosen=choose(images.num_images, probability, generator), threshold=threshold)


def gray(images: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, 1, H, W): the luma of three channels, the mean of others."""
    if images.shape[1] != 3:
        return images.mean(dim=1, keepdim=True)
    red, green, blue = images.split(1, dim=1)
    return red.mul(_LUMA[0]).add_(green, alpha=_LUMA[1]).add_(blue, alpha=_LUMA[2])


def shift_hue(images: Tensor, turns: Tensor) -> Tensor:
    """Turn the colour wheel of (N, 3, H, W) images, which are overwritten, by (N,) ``turns``; value and saturation stay.

    Smith 1978, "Color gamut transform pairs" (doi:10.1145/965139.807361).
    """
    red, green, blue = images.split(1, dim=1)
    least = images.amin(dim=1, keepdim=True)
    chroma = images.amax(dim=1, keepdim=True).sub_(least)
    # The hue without asking which channel is largest: from red over yellow and green to cyan, this rises from -2 over -1 and 1 to 2, on
    # straight lines. Whether it is this half of the wheel or the other, which mirrors it, green and blue tell.
    from_red = (green + blue).add_(red, alpha=-2).div_(chroma.clamp(min=1e-12))
    sector = from_red.sub_(from_red.clamp(-1, 1).mul_(0.5)).add_(1.5).copysign_(green - blue)  # 0 is red, 2 green, 3 cyan, -2 blue
    sector.add_(turns.to(images.dtype)[:, None, None, None], alpha=6)
    sector.sub_((sector / 6).floor_().mul_(6))  # 0 is red, 2 green, 4 blue; remainder_ is several times slower
    shares = (sector - 3).abs_().sub_(1), (sector - 2).abs_().neg_().add_(2), (sector - 4).abs_().neg_().add_(2)  # in the chroma
    for channel, share in zip((red, green, blue), shares, strict=True):
        torch.addcmul(least, chroma, share.clamp_(0, 1), out=channel)
    return images


def _blend(images: Tensor, blends: Tensor, weights: Tensor) -> Tensor:
    """Overwrite images by one blend after another, of a kind of each image's own: both (N, 3)."""
    of_mean, of_gray = (torch.where(blends == one, 1 - weights, 0) for one in (_CONTRAST, _SATURATION))
    for columns in zip(*(values.to(images.dtype).T for values in (weights, of_mean, of_gray)), strict=True):
        of_image, of_mean, of_gray = (column[:, None, None, None] for column in columns)
        grays = gray(images)
        mean = grays.mean(dim=(2, 3), keepdim=True)
        images.mul_(of_image).add_(grays.mul_(of_gray).add_(mean * of_mean)).clamp_(0, 1)
    return images


def _around_one(name: str, value: float | tuple[float, float]) -> tuple[float, float]:
    if isinstance(value, int | float):
        if value < 0:
            raise OptionError(name, "must not be negative", found=value, allowed="0 or more, or (low, high)")
        return max(0.0, 1 - value), 1.0 + value
    return interval(name, value, 0, math.inf)


def _needs_colors(name: str, images: Shape, *, fix: str) -> OptionError:
    return OptionError(name, "needs images with colours", found=f"{images.num_chs} channels", allowed="3 channels, or 1", fix=fix)
