"""Confusion matrices: which classes a classifier takes for which others."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from sslkit.recipe.recipe import Recipe
from sslkit.recipe.stages import EvaluateStage, PretrainStage, Stage
from sslkit.report.pictures.canvas import FAINT, HEADING, INK, LINE, MAX_WIDTH, SMALL, Canvas, elided, text_width, viridis
from sslkit.report.pictures.networks import finished
from sslkit.report.pictures.picture import Picture
from sslkit.report.pictures.spread import spread
from sslkit.run.artifacts import Predicted, load_predictions, read_artifact

MAX_MATRICES = 6
MIN_PRETEXT = 2
"""So many matrices of pretext tasks find a place beside any number of evaluations."""

MAX_CLASSES = 50
MAX_NUMBERED = 12
"""With more classes than this there is no room for numbers."""

_LIGHT = 0.65
"""From this level on, a cell's colour is so light that its number is dark."""

_MARGIN, _GAP, _MAX_LABEL, _MAX_GRID, _MAX_CELL = 40, 10, 170, 680, 100
_HEAD = round(LINE * (HEADING + SMALL)) + _GAP


class Matrix(NamedTuple):
    """What one classifier said.

    Attributes:
        stage: the key of its stage.
        name: the classifier's; a layer, where there are several.
        classes: names of the K classes.
        counts: (K, K) int64, images of each true class (rows) by the class that was chosen (columns).
    """

    stage: str
    name: str
    classes: tuple[str, ...]
    counts: Tensor

    @property
    def top1(self) -> float:
        """The share of right answers, in percent."""
        return 100 * float(self.counts.diagonal().sum() / self.counts.sum().clamp_min(1))


def confusion_matrix(predicted: Predicted, num_classes: int) -> Tensor:
    """Count: (K, K) int64, images of each true class (rows) by the class that was chosen (columns)."""
    pairs = predicted.targets * num_classes + predicted.classes
    return torch.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def row_percent(counts: Tensor) -> Tensor:
    """Each row as percentages of its sum: (K, K) float64; zeros for a class without images."""
    return 100 * counts.double() / counts.sum(dim=1, keepdim=True).clamp_min(1)


def draw_confusion(folder: Path, recipe: Recipe) -> Picture | None:
    """Draw the matrices of pretext tasks and of the best layer of each evaluation, at most six; None where nothing predicted a class."""
    every = list(read_matrices(folder, recipe))
    drawn = [matrix for matrix in every if len(matrix.classes) <= MAX_CLASSES]
    if not drawn:
        return None
    large = [f"{matrix.stage} ({len(matrix.classes)} classes)" for matrix in every if matrix not in drawn]
    left_out = f" Too large to be drawn: {', '.join(large)}." if large else ""
    return Picture(
        key="confusion",
        title="Confusion matrices",
        caption="What held-out images of each class (rows) were taken for (columns), in percent of the class. From dark blue, 0, to"
        " yellow, 100, the colour follows the square root, which brings out what is rare. Of an evaluation of several layers, the best"
        f" one.{left_out}",
        alt=f"Confusion matrices. {'; '.join(f'{matrix.stage} is right on {matrix.top1:.1f} percent' for matrix in drawn)}.",
        figure=_draw(drawn).figure(),
        raster=True,
    )


def read_matrices(folder: Path, recipe: Recipe) -> Iterable[Matrix]:
    """The best classifier of each stage, of at most six stages. Evaluations of snapshots are left out: they are many and much alike."""
    stages = [stage for stage in recipe.stages if finished(folder, stage)]
    pretext = _read(folder, [stage for stage in stages if isinstance(stage, PretrainStage)])
    evaluations = _read(folder, [stage for stage in stages if isinstance(stage, EvaluateStage) and stage.snapshot is None])
    pretext = spread(pretext, max(MIN_PRETEXT, MAX_MATRICES - len(evaluations)))
    return [*pretext, *spread(evaluations, MAX_MATRICES - len(pretext))]


def _read(folder: Path, stages: Iterable[Stage]) -> list[Matrix]:
    found = []
    for stage in stages:
        matrices = [_matrix(folder, stage, name, said) for name, said in load_predictions(folder / stage.key).items()]
        found += sorted(matrices, key=lambda matrix: -matrix.top1)[:1]
    return found


def _matrix(folder: Path, stage: Stage, name: str, predicted: Predicted) -> Matrix:
    names = read_artifact(folder / stage.key).get("classes", [])
    needed = 1 + int(torch.cat([predicted.classes, predicted.targets]).max())
    classes = tuple(names) if len(names) >= needed else tuple(str(label) for label in range(needed))
    return Matrix(stage.key, name, classes, confusion_matrix(predicted, len(classes)))


# --------------------------------------------------------------------------------------------------------------- drawing


class _Layout(NamedTuple):
    """Sizes of one matrix, in pixels.

    Attributes:
        cell: of one cell.
        letters: height of the classes' names.
        label: width of the classes' names.
        upright: whether those below the matrix are.
    """

    cell: int
    letters: int
    label: int
    upright: bool

    @classmethod
    def of(cls, matrix: Matrix) -> "_Layout":
        cell = min(_MAX_CELL, _MAX_GRID // len(matrix.classes))
        letters = min(SMALL, round(cell * 0.9))
        longest = math.ceil(max(text_width(name, letters) for name in matrix.classes))
        return cls(cell, letters, min(_MAX_LABEL, longest), upright=longest > cell - _GAP)

    def width(self, matrix: Matrix) -> int:
        return round(LINE * SMALL) + self.label + _GAP + self.cell * len(matrix.classes)

    def height(self, matrix: Matrix) -> int:
        labels = self.label if self.upright else round(LINE * SMALL)
        return _HEAD + self.cell * len(matrix.classes) + _GAP + labels + round(LINE * SMALL)


def _draw(matrices: Sequence[Matrix]) -> Canvas:
    rows = _rows([(matrix, _Layout.of(matrix)) for matrix in matrices])
    widths = [sum(layout.width(matrix) + _MARGIN for matrix, layout in row) for row in rows]
    heights = [max(layout.height(matrix) for matrix, layout in row) + _MARGIN for row in rows]
    canvas = Canvas(max(widths) + _MARGIN, sum(heights) + _MARGIN)
    y = _MARGIN
    for row, height in zip(rows, heights, strict=True):
        x = _MARGIN
        for matrix, layout in row:
            _draw_matrix(canvas, matrix, layout, x, y)
            x += layout.width(matrix) + _MARGIN
        y += height
    return canvas


def _rows(layouts: Iterable[tuple[Matrix, _Layout]]) -> list[list[tuple[Matrix, _Layout]]]:
    """As many beside each other as fit, each row with matrices of the same classes."""
    rows: list[list[tuple[Matrix, _Layout]]] = []
    room = 0
    for matrix, layout in layouts:
        needed = layout.width(matrix) + _MARGIN
        if not rows or needed > room or rows[-1][-1][0].classes != matrix.classes:
            rows.append([])
            room = MAX_WIDTH - _MARGIN
        rows[-1].append((matrix, layout))
        room -= needed
    return rows


def _draw_matrix(canvas: Canvas, matrix: Matrix, layout: _Layout, x: int, y: int) -> None:
    width, extent = layout.width(matrix), layout.cell * len(matrix.classes)
    canvas.write(elided(matrix.stage, width, HEADING, bold=True), x, y + LINE * HEADING / 2, size=HEADING, bold=True)
    subtitle = elided(f"{matrix.name}, {matrix.top1:.1f} % right", width, SMALL)
    canvas.write(subtitle, x, y + LINE * (HEADING + SMALL / 2), color=FAINT)
    left, top = x + width - extent, y + _HEAD
    canvas.write("true", x + LINE * SMALL / 2, top + extent / 2, color=FAINT, align="center", upright=True)
    canvas.write("chosen", left + extent / 2, y + layout.height(matrix) - LINE * SMALL / 2, color=FAINT, align="center")
    _draw_labels(canvas, matrix, layout, left, top)
    _draw_cells(canvas, matrix, layout, left, top)


def _draw_labels(canvas: Canvas, matrix: Matrix, layout: _Layout, left: int, top: int) -> None:
    size = layout.letters
    below = top + layout.cell * len(matrix.classes) + _GAP
    for place, name in enumerate(matrix.classes):
        middle = (place + 0.5) * layout.cell
        text = elided(name, layout.label, size)
        canvas.write(text, left - _GAP, top + middle, size=size, align="right")
        if layout.upright:
            canvas.write(text, left + middle, below, size=size, align="right", upright=True)
        else:
            canvas.write(text, left + middle, below + LINE * SMALL / 2, size=size, align="center")


def _draw_cells(canvas: Canvas, matrix: Matrix, layout: _Layout, left: int, top: int) -> None:
    numbered = len(matrix.classes) <= MAX_NUMBERED
    gap = 2 if numbered else 0
    colors = (viridis() * 255).round().to(torch.uint8)
    for row, values in enumerate(row_percent(matrix.counts).tolist()):
        for column, value in enumerate(values):
            x, y, level = left + column * layout.cell, top + row * layout.cell, math.sqrt(value / 100)
            canvas.fill(x, y, layout.cell - gap, layout.cell - gap, colors[round(level * 255)].tolist())
            if numbered and value > 0:
                color = INK if level > _LIGHT else "#ffffff"
                canvas.write(f"{value:.0f}", x + layout.cell / 2, y + layout.cell / 2, color=color, align="center")
