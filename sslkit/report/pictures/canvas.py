"""A canvas of pixels: images, colours and words at whole pixels, drawn with two pixels for each pixel of a page, for sharp text.

The ground is a light colour of its own: an embedded image cannot know whether it lies on a light or a dark page.
"""

import math
from collections.abc import Iterable
from functools import cache
from typing import Literal

import matplotlib as mpl
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from torch import Tensor

DPI = 192
"""Pixels an inch: two for each of the 96 that a page counts."""

MAX_WIDTH = 1920
"""Pixels: the width of a page's text, 960 of its own pixels."""

GROUND = "#f6f6f4"
INK = "#1d1d1f"
FAINT = "#5f6368"
BLUE, ORANGE = "#0072B2", "#D55E00"
"""Okabe & Ito's blue and vermilion: told apart with any colour vision."""

HEADING, SMALL = 26, 20
"""Heights of text in pixels; the page shows half of that."""

MAX_DETAIL = 170_000
"""Pixels of images in one picture, before they are enlarged: what makes a file large. These take less than 500 kB."""

_SHADES = 64
"""Of each colour channel of an image: nobody can tell them from 256 at this size, and files are a fifth smaller."""

LINE = 1.3
"""Distance between lines of text, in heights."""

_FONT = "DejaVu Sans"
Align = Literal["left", "center", "right"]


class Canvas:
    """A picture that is put together at whole pixels, x to the right, y downwards.

    Args:
        width: in pixels.
        height: in pixels.
    """

    def __init__(self, width: int, height: int) -> None:
        self.pixels = np.empty((height, width, 3), dtype=np.uint8)
        self.pixels[:] = rgb(GROUND)
        self._figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor=GROUND)

    def fill(self, x: int, y: int, width: int, height: int, color: str | Iterable[int]) -> None:
        """Paint a rectangle."""
        self.pixels[y : y + height, x : x + width] = rgb(color) if isinstance(color, str) else np.asarray(color, dtype=np.uint8)

    def paste(self, image: Tensor, x: int, y: int, side: int) -> None:
        """Put an image into the middle of a square.

        Args:
            image: (C, H, W) uint8, or float in [0, 1]; gray (C = 1) or rgb (C = 3).
            x: left edge of the square.
            y: upper edge of the square.
            side: of the square.
        """
        tile = fitted(image, side)
        height, width = tile.shape[:2]
        top, left = y + (side - height) // 2, x + (side - width) // 2
        self.pixels[top : top + height, left : left + width] = tile

    def write(
        self,
        text: str,
        x: float,
        y: float,
        *,
        size: int = SMALL,
        color: str = INK,
        align: Align = "left",
        bold: bool = False,
        upright: bool = False,
    ) -> None:
        """Write a line.

        Args:
            text: taken as it is; letters that the font lacks become question marks.
            x: left end, middle or right end, as ``align`` says.
            y: middle of the line; where it is upright, ``align`` tells its place along y instead, from the bottom to the top.
            size: height of the letters in pixels.
            color: of the letters.
            align: which point of the text stands at (x, y).
            bold: write it in bold.
            upright: write it from the bottom to the top.
        """
        horizontal, vertical = (
            (align, "center_baseline") if not upright else ("center", {"left": "bottom", "right": "top"}.get(align, align))
        )
        height, width = self.pixels.shape[:2]
        self._figure.text(
            x / width,
            1 - y / height,
            _printable(text),
            fontsize=size * 72 / DPI,
            fontfamily=_FONT,
            fontweight="bold" if bold else "normal",
            color=color,
            horizontalalignment=horizontal,
            verticalalignment=vertical,
            rotation=90 if upright else 0,
            parse_math=False,  # a class may well be called $5
        )

    def figure(self) -> Figure:
        """The drawing, at its own size and resolution."""
        self._figure.figimage(self.pixels, origin="upper")
        return self._figure


def fitted(image: Tensor, side: int) -> np.ndarray:
    """Scale an image so that its longer edge is near ``side``: up by a whole factor, so that its pixels stay square; down at half the
    resolution, which a page shows whole and which keeps files small.

    Args:
        image: (C, H, W) uint8, or float in [0, 1]; C is 1 or 3.
        side: in pixels.

    Returns:
        (h, w, 3) uint8, at most ``side`` on each edge.
    """
    pixels = image.float() / 255 if image.dtype == torch.uint8 else image.float().clamp(0, 1)
    longest = max(pixels.shape[-2:])
    factor = side // longest
    if factor < 2:
        factor, scale = 2, side // 2 / longest
        size = [max(1, round(edge * scale)) for edge in pixels.shape[-2:]]
        pixels = F.interpolate(pixels[None], size=size, mode="bilinear", antialias=True)[0].clamp(0, 1)
    pixels = pixels.expand(3, -1, -1).repeat_interleave(factor, dim=1).repeat_interleave(factor, dim=2)
    shades = (pixels * (_SHADES - 1)).round() * (255 / (_SHADES - 1))
    return shades.round().to(torch.uint8).permute(1, 2, 0).numpy()


def tile_side(edge: int, limit: int, num_tiles: int) -> int:
    """The side of a square that images fill without a margin.

    Args:
        edge: the longest edge of an image, in pixels.
        limit: of the side.
        num_tiles: how many images the picture holds; many large ones are shown smaller.
    """
    detail = min(limit // 2, math.isqrt(MAX_DETAIL // num_tiles))
    return edge * (limit // edge) if edge <= detail else 2 * detail


def text_width(text: str, size: int, *, bold: bool = False) -> float:
    """How many pixels a line of letters of this height takes."""
    font = get_font(findfont(FontProperties(family=_FONT, weight="bold" if bold else "normal")))
    font.set_size(size * 72 / DPI, DPI)
    font.set_text(_printable(text))
    return font.get_width_height()[0] / 64


def elided(text: str, width: float, size: int, *, bold: bool = False) -> str:
    """Cut the middle out of a line that is wider than ``width`` pixels; three letters are always left."""
    shown = text
    for num_kept in range(len(text) - 1, 1, -1):
        if text_width(shown, size, bold=bold) <= width:
            break
        head = (num_kept + 1) // 2
        shown = f"{text[:head]}…{text[len(text) - (num_kept - head) :]}"
    return shown


def rgb(color: str) -> np.ndarray:
    """``#rrggbb`` -> (3,) uint8."""
    return np.frombuffer(bytes.fromhex(color.removeprefix("#")), dtype=np.uint8)


@cache
def viridis() -> Tensor:
    """A perceptually uniform colour map as a table: (256, 3) float in [0, 1], from dark blue over green to yellow."""
    return torch.from_numpy(mpl.colormaps["viridis"](np.arange(256))[:, :3]).float()


def _printable(text: str) -> str:
    """A missing letter would be drawn as a box, with a warning for each."""
    return "".join(letter if ord(letter) in _letters() else "?" for letter in text)


@cache
def _letters() -> frozenset[int]:
    return frozenset(get_font(findfont(_FONT)).get_charmap())
