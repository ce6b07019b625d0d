"""Grids of images side by side, with text around them: what most pictures of a report are.

Lengths are in pixels of the figure, two for each pixel of a page, for sharp text. The background is light: an embedded image cannot know
whether the page is light or dark.
"""

import math
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.patches import Rectangle
from torch import Tensor
from torchvision.utils import make_grid

from sslkit.report.picture import drawing_style

DPI = 192
MAX_WIDTH = 1920
"""The width of a page's text, 960 of its own pixels."""

_GROUND_LEVEL = 246
GROUND = "#f6f6f6"
INK, FAINT = "#1d1d1f", "#5f6368"
BLUE, ORANGE = "#0072B2", "#D55E00"
"""Okabe & Ito's blue and vermilion: distinguishable with any colour vision."""

MAX_DETAIL = 170_000
"""Pixels of all images in one picture before they are enlarged, which decide its size: so many take less than 500 kB."""

TITLE: dict[str, Any] = {"fontsize": 10, "fontweight": "bold", "color": INK, "parse_math": False}
TEXT: dict[str, Any] = {"fontsize": 7.5, "color": INK, "parse_math": False}  # a class may be called $5
NOTE = {**TEXT, "color": FAINT}

_LETTER, _TITLE_LETTER = 12, 17
"""Width of a letter, on average."""

_LINE, _TITLE_LINE = 28, 38
_MARGIN, _SPACE, _GAP, _FRAME = 24, 28, 6, 4


class Panel(NamedTuple):
    """A grid of (M, C, h, w) gray or rgb images, uint8 or float in [0, 1], row by row, with text around it."""

    images: Tensor
    num_columns: int
    title: str = ""  # above the grid, in bold
    notes: Sequence[str] = ()  # lines below the title
    headings: Sequence[str] = ()  # one above each column
    labels: Sequence[str] = ()  # one to the left of each row
    captions: Sequence[str] = ()  # one below each image
    agrees: Tensor | None = None  # (M,) bool, which images have a blue frame; the others have an orange one and a cross

    @property
    def header(self) -> int:
        """Height of the text above the grid."""
        return _TITLE_LINE * bool(self.title) + _LINE * (len(self.notes) + bool(self.headings))

    @property
    def min_width(self) -> int:
        """Width of the text above a single column, which may be wider than the column."""
        return min(320, _LETTER * max(map(len, self.notes), default=0)) if self.num_columns == 1 else 0

    @property
    def label_width(self) -> int:
        """Width of the text to the left of the grid."""
        return min(160, _LETTER * max(map(len, self.labels), default=0))


class Sheet(NamedTuple):
    """Panels side by side, with their rows aligned, below a title and a note."""

    panels: Sequence[Panel]
    title: str = ""
    note: str = ""


def draw_sheets(*sheets: Sheet, max_side: int = 160) -> Figure:
    """Draw sheets one below the other; no image is larger than ``max_side``."""
    num_images = sum(len(panel.images) for sheet in sheets for panel in sheet.panels)
    layouts = [_Layout(sheet, max_side, math.isqrt(MAX_DETAIL // num_images)) for sheet in sheets]
    width, height = max(layout.width for layout in layouts), sum(layout.height for layout in layouts)
    with drawing_style():
        figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor=GROUND)
        top = 0
        for layout in layouts:
            layout.draw(figure, (width, height), top)
            top += layout.height
    return figure


class _Layout:
    """The sizes of a sheet's parts. Images with sides longer than ``detail`` are shown with fewer pixels."""

    def __init__(self, sheet: Sheet, max_side: int, detail: int) -> None:
        self.sheet, panels = sheet, sheet.panels
        self.gap = 3 * _FRAME if any(panel.agrees is not None for panel in panels) else _GAP
        words = sum(panel.label_width + _SPACE for panel in panels) - _SPACE
        room = (MAX_WIDTH - 2 * _MARGIN - words) // sum(panel.num_columns for panel in panels)
        tiles = [enlarged(panel.images, min(max_side, room - self.gap), detail) for panel in panels]
        self.side = max(max(images.shape[-2:]) for images in tiles)
        below = _LINE if any(panel.captions for panel in panels) else 0
        self.grids = [_grid(images, panel.num_columns, self.side, below, self.gap) for images, panel in zip(tiles, panels, strict=True)]
        self.step = self.side + below + self.gap
        self.top = _MARGIN + _TITLE_LINE * bool(sheet.title) + _LINE * bool(sheet.note) + max(panel.header for panel in panels)
        self.widths = [max(grid.shape[2], panel.min_width) for grid, panel in zip(self.grids, panels, strict=True)]
        longest = max(words + sum(self.widths), _TITLE_LETTER * len(sheet.title), _LETTER * len(sheet.note))
        self.width = min(MAX_WIDTH, longest + 2 * _MARGIN)
        self.height = self.top + max(grid.shape[1] for grid in self.grids) + _MARGIN

    def draw(self, figure: Figure, size: tuple[int, int], top: int) -> None:
        """Draw it below ``top`` into a figure of this width and height."""
        width, height = size
        room, y = self.width - 2 * _MARGIN, top + _MARGIN
        if self.sheet.title:
            figure.text(_MARGIN / width, 1 - y / height, fit(self.sheet.title, room, _TITLE_LETTER), verticalalignment="top", **TITLE)
            figure.text(_MARGIN / width, 1 - (y + _TITLE_LINE) / height, fit(self.sheet.note, room), verticalalignment="top", **NOTE)
        left = _MARGIN
        for panel, grid, extent in zip(self.sheet.panels, self.grids, self.widths, strict=True):
            left += panel.label_width
            rows, columns = grid.shape[1:]
            axes = figure.add_axes((left / width, 1 - (top + self.top + rows) / height, columns / width, rows / height))
            axes.imshow(grid.permute(1, 2, 0).numpy(), extent=(0, columns, rows, 0), interpolation="none")
            self._write_around(axes, panel, extent)
            for index in range(len(panel.images)):
                self._write_beside(axes, panel, index)
            left += extent + _SPACE

    def _write_around(self, axes: Axes, panel: Panel, width: int) -> None:
        """Title, notes, headings and labels."""
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0, pad=4, labeltop=True, labelbottom=False)
        step, middle = self.side + self.gap, self.side / 2
        headings, labels = [fit(text, step) for text in panel.headings], [fit(text, panel.label_width) for text in panel.labels]
        axes.set_xticks([column * step + middle for column in range(len(headings))], headings, **TEXT)
        axes.set_yticks([row * self.step + middle for row in range(len(labels))], labels, **TEXT)
        axes.xaxis.set_label_position("top")
        axes.set_xlabel("\n".join(fit(note, width) for note in panel.notes), loc="left", labelpad=3 if panel.agrees is None else 5, **NOTE)
        axes.set_title(fit(panel.title, width, _TITLE_LETTER), loc="left", pad=5, **TITLE)

    def _write_beside(self, axes: Axes, panel: Panel, index: int) -> None:
        """The caption and the frame of one image."""
        row, column = divmod(index, panel.num_columns)
        x, y, step = column * (self.side + self.gap), row * self.step, self.side + self.gap
        if panel.captions:
            caption = fit(panel.captions[index], step)
            axes.text(x + self.side / 2, y + self.side, caption, horizontalalignment="center", verticalalignment="top", **TEXT)
        if panel.agrees is not None:
            color, extent = BLUE if panel.agrees[index] else ORANGE, self.side + _FRAME
            corner, width = (x - _FRAME / 2, y - _FRAME / 2), _FRAME * 72 / DPI
            axes.add_patch(Rectangle(corner, extent, extent, fill=False, edgecolor=color, linewidth=width, clip_on=False))
            if not panel.agrees[index]:  # for readers who cannot distinguish the colours, and for print
                box, words = {"facecolor": ORANGE, "edgecolor": "none", "pad": 0.5}, {**TITLE, "fontsize": 7, "color": "white"}
                axes.text(x, y, "×", horizontalalignment="left", verticalalignment="top", bbox=box, **words)


def _grid(tiles: Tensor, num_columns: int, side: int, below: int, gap: int) -> Tensor:
    """Put tiles into the middle of squares with room for a caption below, and these side by side: (3, H, W) uint8."""
    height, width = tiles.shape[-2:]
    top, left = (side - height) // 2, (side - width) // 2
    squares = F.pad(tiles, (left, side - width - left, top, side - height - top + below), value=_GROUND_LEVEL)
    grid = make_grid(squares, num_columns, padding=gap, pad_value=_GROUND_LEVEL)
    return grid if len(tiles) == 1 else grid[:, gap:-gap, gap:-gap]  # a single one has no padding around it


def enlarged(images: Tensor, limit: int, detail: int) -> Tensor:
    """Scale images up by a whole factor, so that their pixels stay square, to sides of at most ``limit``; those with more than ``detail``
    pixels a side down first, to half the resolution. (M, C, H, W) uint8, or float in [0, 1] -> (M, 3, h, w) uint8.
    """
    pixels = images.float() / 255 if images.dtype == torch.uint8 else images.float().clamp(0, 1)
    longest = max(images.shape[-2:])
    if longest > min(detail, limit // 2):
        scale = min(detail, limit // 2) / longest
        size = [max(1, round(edge * scale)) for edge in images.shape[-2:]]
        pixels, factor = F.interpolate(pixels, size=size, mode="bilinear", antialias=True).clamp(0, 1), 2
    else:
        factor = limit // longest
    levels = (pixels * 255).round().to(torch.uint8).expand(-1, 3, -1, -1)
    return levels.repeat_interleave(factor, dim=2).repeat_interleave(factor, dim=3)


def drawable(images: Tensor, num_chs: int, display: Sequence[int] = ()) -> Tensor:
    """The channels of (M, C, h, w) images to draw, one or three: of images as the data has them, with ``num_chs`` channels, those that are to
    be displayed; else all of gray and rgb images, and of bands the first three, or of fewer the first.
    """
    found = images.shape[1]
    if display and found == num_chs:
        return images[:, list(display)]
    return images if found in (1, 3) else images[:, : 3 if found > 3 else 1]


def fit(text: str, width: float, letter: int = _LETTER) -> str:
    """Cut the middle out of a line that is wider than ``width``; letters that the font lacks become question marks."""
    room = max(3, int(width / letter))
    shown = text if len(text) <= room else f"{text[: room // 2]}…{text[len(text) - (room - 1) // 2 :]}"
    return "".join(letter if ord(letter) in _letters() else "?" for letter in shown)


@cache
def _letters() -> frozenset[int]:
    """What the default font can draw: anything else would be a box, and a warning."""
    return frozenset(get_font(findfont("DejaVu Sans")).get_charmap())
