"""What all view functions share: the random parameters of a whole batch are drawn first, then its images are changed chunk by chunk."""

import dataclasses
import functools
import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Concatenate, NamedTuple, ParamSpec, Protocol, Self, cast

import torch
from torch import Generator, Tensor

from sslkit.contract.errors import OptionError

Options = ParamSpec("Options")

_VALUES = {"cpu": 2**20}
"""Pixel values per chunk: on a CPU, what its cache holds."""
_VALUES_ELSEWHERE = 2**27
"""On other devices, what bounds the temporary memory (0.5 GiB a tensor) and still keeps them busy."""


class Shape(NamedTuple):
    """What is known of a batch of images before a pixel is read."""

    num_images: int
    num_chs: int
    height: int
    width: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Transform(ABC):
    """A view function with its random parameters, drawn for a batch: every tensor among its fields has a row per image."""

    def rows(self, rows: Tensor | slice) -> Self:
        """The transform of some of the images."""
        return dataclasses.replace(self, **{name: value[rows] for name, value in self._tensors().items()})

    def to(self, device: torch.device) -> Self:
        """The transform with its parameters on the images' device."""
        return dataclasses.replace(self, **{name: value.to(device, non_blocking=True) for name, value in self._tensors().items()})

    def shape(self, shape: Shape) -> Shape:
        """The shape of the result for images of ``shape``."""
        return shape

    @abstractmethod
    def apply(self, images: Tensor) -> Tensor:
        """Change (N, C, H, W) float images in [0, 1], which may be overwritten."""

    def _tensors(self) -> dict[str, Tensor]:
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in fields.items() if isinstance(value, Tensor)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomTransform(Transform):
    """A transform that is applied to some of the images only.

    Attributes:
        chosen: (N,) bool, or None for all of them.
    """

    chosen: Tensor | None

    @abstractmethod
    def change(self, images: Tensor) -> Tensor:
        """Change all (N, C, H, W) float images in [0, 1], which may be overwritten, to others of the same size."""

    def apply(self, images: Tensor) -> Tensor:
        """Change the chosen images."""
        if self.chosen is None:
            return self.change(images)
        if not _is_host(images.device):  # a number of images that only the device knows would make the host wait for it
            return torch.where(self.chosen[:, None, None, None], self.change(images.clone()), images)
        chosen = self.chosen.nonzero().squeeze(1)
        if len(chosen) == len(images):
            return self.change(images)
        return images.index_copy_(0, chosen, self.rows(chosen).change(images.index_select(0, chosen)))


def _is_host(device: torch.device) -> bool:
    return device.type == "cpu"


class ViewFunction(Protocol[Options]):
    """A function of images, ``draw``, which draws its random parameters, and whether that takes a ``generator``."""

    draw: Callable[Concatenate[Shape, Options], Transform]
    random: bool
    __name__: str

    def __call__(self, images: Tensor, /, *args: Options.args, **options: Options.kwargs) -> Tensor:
        """Change (N, C, H, W) images."""
        ...


def view(draw: Callable[Concatenate[Shape, Options], Transform]) -> ViewFunction[Options]:
    """Decorate a function that draws a transform for images of a shape: the result also applies the transform, to images."""

    @functools.wraps(draw)
    def function(images: Tensor, /, *args: Options.args, **options: Options.kwargs) -> Tensor:
        return apply_transforms([draw(_shape_of(images), *args, **options)], images)

    signature = inspect.signature(draw)
    images, *options = signature.parameters.values()
    signature = signature.replace(parameters=[images.replace(annotation=Tensor), *options], return_annotation=Tensor)
    function.__annotations__ = {**draw.__annotations__, "images": Tensor, "return": Tensor}
    vars(function).update(draw=draw, random="generator" in signature.parameters, __signature__=signature)
    return cast("ViewFunction[Options]", function)


def compose(views: Iterable[tuple[ViewFunction[...], Mapping[str, Any]]], images: Tensor, generator: Generator) -> Tensor:
    """Apply several view functions in order: faster than calling each of them, and uint8 images are rounded only once.

    Args:
        views: functions and their options, without ``generator``.
        images: (N, C, H, W) uint8 or float in [0, 1].
        generator: where the draws come from.

    Returns:
        Images of the same dtype.

    Raises:
        OptionError: an option is out of range, or a function cannot take such images.
    """
    transforms, shape = [], _shape_of(images)
    for view, options in views:
        transforms.append(view.draw(shape, **options, **({"generator": generator} if view.random else {})))
        shape = transforms[-1].shape(shape)
    return apply_transforms(transforms, images)


def _shape_of(images: Tensor) -> Shape:
    if images.ndim != 4:
        raise OptionError(
            "images", "must be a batch", found=tuple(images.shape), allowed="(N, C, H, W)", fix="images[None] makes a batch of one"
        )
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise OptionError("images", "must be pixels", found=images.dtype, allowed="torch.uint8, or float in [0, 1]")
    return Shape(*images.shape)


@torch.no_grad()
def apply_transforms(transforms: Sequence[Transform], images: Tensor) -> Tensor:
    """Change (N, C, H, W) images, uint8 or float in [0, 1], by one transform after another.

    All of them are applied to a chunk of the batch that fits the cache before the next chunk is read, in float32 without rounding in between.
    """
    transforms = [transform.to(images.device) for transform in transforms]
    shapes = [Shape(*images.shape)]
    for transform in transforms:
        shapes.append(transform.shape(shapes[-1]))
    result = images.new_empty(shapes[-1])
    largest = max(shape.num_chs * shape.height * shape.width for shape in shapes)
    size = max(1, _VALUES.get(images.device.type, _VALUES_ELSEWHERE) // max(1, largest))
    for start in range(0, len(images), size):
        part = slice(start, start + size)
        pixels = to_float(images[part])
        for transform in transforms:
            pixels = transform.rows(part).apply(pixels)
        # A sum of weights is 1 but for rounding.
        result[part] = pixels.clamp_(0, 1) if images.is_floating_point() else pixels.mul_(255).round_()
    return result


def to_float(images: Tensor) -> Tensor:
    """A copy to overwrite: float in [0, 1], float64 if the images are, contiguous."""
    dtype = images.dtype if images.dtype == torch.float64 else torch.float32
    pixels = images.to(dtype, copy=True, memory_format=torch.contiguous_format)
    return pixels if images.is_floating_point() else pixels.div_(255)


def uniform(shape: int | tuple[int, ...], low: float, high: float, generator: Generator) -> Tensor:
    """Float32 in [low, high), for each of N images or more."""
    return torch.rand(shape, generator=generator, device=generator.device).mul_(high - low).add_(low)


def integers(high: Tensor, generator: Generator) -> Tensor:
    """One int64 in [0, high) for each int64 ``high``."""
    draws = torch.rand(high.shape, generator=generator, device=generator.device).mul_(high).long()
    return torch.minimum(draws, high - 1)  # a product just below ``high`` may be rounded to it


def choose(num_images: int, probability: float, generator: Generator) -> Tensor | None:
    """Draw which images are changed: (N,) bool. None: all of them, and then nothing is drawn.

    Raises:
        OptionError: the probability is out of range.
    """
    if not 0 <= probability <= 1:
        raise OptionError("probability", "is out of range", found=probability, allowed="0 to 1")
    return None if probability == 1 else torch.rand(num_images, generator=generator, device=generator.device) < probability


def sides(images: Shape, scale: tuple[float, float], ratio: tuple[float, float], generator: Generator) -> tuple[Tensor, Tensor]:
    """Draw the sides of random rectangles.

    Args:
        images: that they are drawn for.
        scale: their share of an image's area.
        ratio: of their first side to the second; its logarithm is uniform.
        generator: where the draws come from.

    Returns:
        First and second sides, (10, N) int64 each, in pixels: as in torchvision, ten tries per image to find a rectangle that fits.
    """
    shape = (10, images.num_images)
    (low, high), share = interval("ratio", ratio, 0.001, 1000), interval("scale", scale, 0, 1)
    area = uniform(shape, *share, generator).mul_(images.height * images.width)
    aspect = uniform(shape, math.log(low), math.log(high), generator).exp_()
    return (area * aspect).sqrt_().round_().long(), (area / aspect).sqrt_().round_().long()


def interval(name: str, value: tuple[float, float], least: float, most: float) -> tuple[float, float]:
    """Check that a pair is in ascending order and within bounds.

    Raises:
        OptionError: it is not.
    """
    low, high = value
    if not least <= low <= high <= most:
        bounds = f"low >= {least:g}" if most == math.inf else f"both within {least:g} and {most:g}"
        raise OptionError(name, "is not an interval within bounds", found=tuple(value), allowed=f"(low, high) with low <= high, {bounds}")
    return low, high


def height_width(size: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) of a size, in which an int is the side of a square.

    Raises:
        OptionError: a side is not positive.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if height < 1 or width < 1:
        raise OptionError("size", "must be positive", found=size, allowed="pixels of a square, or (height, width)")
    return height, width
