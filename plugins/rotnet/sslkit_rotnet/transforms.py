"""Geometric transforms of whole uint8 batches, made so that only the content of a picture tells which one was applied, as far as possible.

Quarter turns and flips are bit-exact copies of pixels. As soon as one class of a set needs interpolation, every class is cut from a
window that contains no empty corner, of one size for all but ``scale``, and is interpolated back to the full size, once: otherwise the
network could distinguish the classes by the crop, or by which of them are sharp. What stays is the pattern that interpolation leaves,
which is another one on a turned grid: docs/audit.md measures it. The two careless ways are here too, as controls.

Shapes: N images, C channels, S the side of a square image, K transforms.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

MIN_SIDE = 8
"""Interpolating sets need images of at least so many pixels a side: below, an eighth of it is less than one pixel."""

Interpolation = Literal["common", "in_place", "one_sided"]
"""What becomes of a set that is not exact; see :func:`transform_all`."""

_WINDOW = 0.75
_ZOOM = 1.5


class Window(NamedTuple):
    """Which part of a square image a class is interpolated from. The default is the set's common, central, upright window.

    Attributes:
        angle: degrees in [0, 90) that the picture turns counter-clockwise.
        zoom: how much the picture grows beyond what the common window does.
        moved: the picture moves right and down by an eighth of its side, in whole pixels.
    """

    angle: float = 0.0
    zoom: float = 1.0
    moved: bool = False


class Transform(NamedTuple):
    """One class: interpolate from the window, mirror left to right, turn by quarters.

    Attributes:
        quarters: exact counter-clockwise quarter turns.
        mirrored: flip left to right before turning, exactly.
        window: what is interpolated; of no effect in a set whose windows are all the default one.
    """

    quarters: int = 0
    mirrored: bool = False
    window: Window = Window()


NAMED = {
    "identity": Transform(),
    "rotate90": Transform(quarters=1),
    "rotate180": Transform(quarters=2),
    "rotate270": Transform(quarters=3),
    "horizontal_flip": Transform(mirrored=True),
    "vertical_flip": Transform(quarters=2, mirrored=True),
    "transpose": Transform(quarters=1, mirrored=True),
    "scale": Transform(window=Window(zoom=_ZOOM)),
    "translate": Transform(window=Window(moved=True)),
}
"""Every transform that a recipe can name."""


def rotation(degrees: float) -> Transform:
    """Turn counter-clockwise. Whole quarters are exact; only the rest, if there is one, is interpolated."""
    quarters, rest = divmod(degrees % 360, 90)
    return Transform(quarters=int(quarters) % 4, window=Window(angle=rest))


def is_exact(transforms: Sequence[Transform]) -> bool:
    """Whether every transform only moves pixels, so that none of the set is interpolated."""
    return all(transform.window == Window() for transform in transforms)


def transform_all(images: Tensor, transforms: Sequence[Transform], interpolation: Interpolation = "common") -> Tensor:
    """Apply every transform to every image; images that are not square are cut to their central square first.

    Args:
        images: (N, C, H, W) uint8; S = min(H, W), at least ``MIN_SIDE`` unless the set is exact.
        transforms: K of them.
        interpolation: of no effect in an exact set. ``common``: every class is interpolated once, from a common window. The other two
            interpolate only the classes that cannot do without, and so give them away: ``in_place`` keeps the image's frame and fills
            with black what comes in from outside, as torchvision's ``rotate`` does; ``one_sided`` cuts each from the largest window
            that stays inside of the image.

    Returns:
        (K * N, C, S, S) uint8: all images under the first transform, then all under the second, ...
    """
    images = central_square(images)
    side = images.shape[-1]
    common = None if is_exact(transforms) or interpolation != "common" else common_fraction(transforms, side)
    # Classes that differ by quarter turns and flips alone share one interpolation, and so its rounding errors too.
    seen: dict[Window, Tensor] = {}
    for window in dict.fromkeys(transform.window for transform in transforms):
        if common is not None:
            seen[window] = _resample(images, window, common)
        elif window == Window():
            seen[window] = images
        elif interpolation == "in_place":
            seen[window] = _resample(images, window, 1.0, outside="zeros")
        else:
            seen[window] = _resample(images, window, _largest_fraction(window, side))
    views = []
    for transform in transforms:
        view = seen[transform.window].flip(-1) if transform.mirrored else seen[transform.window]
        views.append(torch.rot90(view, transform.quarters, (-2, -1)))
    return torch.cat(views)


def central_square(images: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, C, S, S) with S = min(H, W), a view."""
    height, width = images.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return images[..., top : top + side, left : left + side]


def common_fraction(transforms: Sequence[Transform], side: int) -> float:
    """The side of the largest window, as a fraction of the image's, that no transform of the set moves over the image's edge.

    Sets with ``scale`` or ``translate`` use at most 3/4, so that their upright classes are interpolated like the others.
    """
    windows = [transform.window for transform in transforms]
    fraction = min(_largest_fraction(window, side) for window in windows)
    return min(fraction, _WINDOW) if any(window.moved or window.zoom != 1 for window in windows) else fraction


def _largest_fraction(window: Window, side: int) -> float:
    """How large one window can be. A square turned by an angle a spans cos(a) + sin(a) of its side."""
    turned = 1 / (math.cos(math.radians(window.angle)) + math.sin(math.radians(window.angle)))
    return min(turned, 1 - 2 * _shift(side) / (side - 1)) if window.moved else turned


def _shift(side: int) -> int:
    """Whole pixels: a fraction would blur the moved class in another pattern than the rest."""
    return side // 8


def _resample(images: Tensor, window: Window, fraction: float, outside: Literal["border", "zeros"] = "border") -> Tensor:
    """Interpolate a window bilinearly to the full size, in one step.

    Args:
        images: (N, C, S, S) uint8.
        window: what to look at.
        fraction: side of the window before its zoom, as a fraction of the image's.
        outside: what lies around the image; of a window inside of it only rounding errors get there.

    Returns:
        (N, C, S, S) uint8, rounded.
    """
    num_images, _, side, _ = images.shape
    radians = math.radians(window.angle)
    # Built from an arange and Python numbers alone: a tensor copied from the CPU would stall a GPU on every step.
    axis = (torch.arange(side, device=images.device, dtype=torch.float32) - (side - 1) / 2) * (fraction / window.zoom)
    along, across = axis * math.cos(radians), axis * math.sin(radians)
    shift = _shift(side) if window.moved else 0
    x = along[None, :] - across[:, None] - shift
    y = across[None, :] + along[:, None] - shift
    # With align_corners, -1 and 1 are the centres of the outermost pixels.
    grid = torch.stack((x, y), dim=-1) * (2 / (side - 1))
    grid = grid.expand(num_images, side, side, 2)
    return F.grid_sample(images.float(), grid, mode="bilinear", padding_mode=outside, align_corners=True).round_().to(torch.uint8)
