"""A contact sheet: a few images, each in a row with the views that a method made of it."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from sslkit.report.pictures.canvas import FAINT, HEADING, LINE, MAX_WIDTH, SMALL, Canvas, elided, text_width, tile_side
from sslkit.report.pictures.views import View, Views

MAX_TILE = 160
MAX_COLUMNS = 16
"""Of one view; more are left out."""

_MARGIN, _GAP, _WIDE_GAP = 32, 8, 32
_LINE = round(LINE * SMALL)


class Sheet(NamedTuple):
    """The views of one task.

    Attributes:
        title: what they are; empty where the words around the picture tell.
        views: to be shown.
    """

    title: str
    views: Views

    @property
    def note(self) -> str:
        """What the pictures do not show."""
        others = ", ".join(f"{name} {shape}" for name, shape in self.views.others.items())
        cut = ", ".join(
            f"{block.title}: {MAX_COLUMNS} of {block.num_columns}" for block in _blocks(self.views) if block.num_columns > MAX_COLUMNS
        )
        return "; ".join(part for part in (f"also made: {others}" if others else "", f"shown of {cut}" if cut else "") if part)


class _Block(NamedTuple):
    """One name's images: row by row, one an image that went in.

    Attributes:
        title: above all columns.
        images: (num_rows * num_columns, C, h, w), row after row; the last row may be shorter.
        captions: one an image, or none at all.
        num_columns: how many images a row has, shown or not.
    """

    title: str
    images: Tensor
    captions: tuple[str, ...]
    num_columns: int

    @property
    def num_shown(self) -> int:
        """Columns that are drawn."""
        return min(self.num_columns, MAX_COLUMNS)

    @property
    def headings(self) -> list[str]:
        """What all captions of a column say; empty where they differ."""
        columns = [set(self.captions[column :: self.num_columns]) for column in range(self.num_shown)]
        return [column.pop() for column in columns] if all(len(column) == 1 for column in columns) else []


def draw_sheets(sheets: Sequence[Sheet]) -> Canvas:
    """Draw sheets one below the other."""
    blocks = [_blocks(sheet.views) for sheet in sheets]
    num_tiles = sum(len(sheet.views.images) * block.num_shown for sheet, of_sheet in zip(sheets, blocks, strict=True) for block in of_sheet)
    sides = [_sides(of_sheet, num_tiles) for of_sheet in blocks]
    layouts = list(zip(sheets, blocks, sides, strict=True))
    width = max(_width(sheet, of_sheet, of_sides) for sheet, of_sheet, of_sides in layouts)
    canvas = Canvas(min(MAX_WIDTH, width), sum(_height(sheet, of_sheet, max(of_sides)) for sheet, of_sheet, of_sides in layouts) + _MARGIN)
    y = 0
    for sheet, of_sheet, of_sides in layouts:
        _draw_sheet(canvas, sheet, of_sheet, of_sides, y)
        y += _height(sheet, of_sheet, max(of_sides))
    return canvas


def _blocks(views: Views) -> list[_Block]:
    return [_Block("image", views.images, (), 1), *(_block(view, len(views.images)) for view in views.views)]


def _block(view: View, num_rows: int) -> _Block:
    height, width = view.images.shape[-2:]
    title = f"{view.name}, {height} x {width}" if view.by_image else f"{view.name}, {height} x {width}, in their own order"
    return _Block(title, view.images, view.captions, -(-len(view.images) // num_rows))


def _sides(blocks: Sequence[_Block], num_tiles: int) -> list[int]:
    """Of each block's tiles, so that all fit beside each other."""
    num_columns = sum(block.num_shown for block in blocks)
    room = MAX_WIDTH - 2 * _MARGIN - _GAP * num_columns - _WIDE_GAP * (len(blocks) - 1)
    limit = min(MAX_TILE, room // num_columns)
    return [tile_side(max(block.images.shape[-2:]), limit, num_tiles) for block in blocks]


def _step(block: _Block, side: int) -> int:
    """From one column to the next. A single column is as wide as its title."""
    return side + _GAP if block.num_shown > 1 else max(side + _GAP, round(text_width(block.title, SMALL)))


def _width(sheet: Sheet, blocks: Sequence[_Block], sides: Sequence[int]) -> int:
    tiles = sum(_step(block, side) * block.num_shown for block, side in zip(blocks, sides, strict=True)) + _WIDE_GAP * (len(blocks) - 1)
    words = max(text_width(sheet.title, HEADING, bold=True), text_width(sheet.note, SMALL))
    return 2 * _MARGIN + max(tiles, round(words))


def _top(sheet: Sheet, blocks: Sequence[_Block]) -> int:
    """Where the first row begins, below all headings."""
    title = round(LINE * HEADING) + (_LINE if sheet.note else 0) + _GAP if sheet.title else 0
    return _MARGIN + title + _LINE * (1 + any(block.headings for block in blocks)) + _GAP


def _row_height(blocks: Sequence[_Block], side: int) -> int:
    captioned = any(block.captions and not block.headings for block in blocks)
    return side + _GAP + (_LINE if captioned else 0)


def _height(sheet: Sheet, blocks: Sequence[_Block], side: int) -> int:
    return _top(sheet, blocks) + _row_height(blocks, side) * len(sheet.views.images)


def _draw_sheet(canvas: Canvas, sheet: Sheet, blocks: Sequence[_Block], sides: Sequence[int], y: int) -> None:
    if sheet.title:
        room = canvas.pixels.shape[1] - 2 * _MARGIN
        canvas.write(elided(sheet.title, room, HEADING, bold=True), _MARGIN, y + _MARGIN + LINE * HEADING / 2, size=HEADING, bold=True)
        canvas.write(elided(sheet.note, room, SMALL), _MARGIN, y + _MARGIN + LINE * HEADING + _LINE / 2, color=FAINT)
    x, top = _MARGIN, y + _top(sheet, blocks)
    for block, side in zip(blocks, sides, strict=True):
        _draw_block(canvas, block, x, top, side, _row_height(blocks, max(sides)))
        x += _step(block, side) * block.num_shown + _WIDE_GAP


def _draw_block(canvas: Canvas, block: _Block, left: int, top: int, side: int, row_height: int) -> None:
    step, headings = _step(block, side), block.headings
    title_y = top - _GAP - _LINE * (1.5 if headings else 0.5)
    canvas.write(elided(block.title, step * block.num_shown, SMALL), left, title_y, color=FAINT)
    for column, heading in enumerate(headings):
        canvas.write(elided(heading, step, SMALL), left + column * step + side / 2, top - _GAP - _LINE / 2, align="center")
    for place, image in enumerate(block.images):
        row, column = divmod(place, block.num_columns)
        x, y = left + column * step, top + row * row_height
        if column < block.num_shown:
            canvas.paste(image, x, y, side)
            if block.captions and not headings:
                caption = elided(block.captions[place], step, SMALL)
                canvas.write(caption, x + side / 2, y + side + _LINE / 2, align="center")
