"""Confusion matrices: which classes a classifier takes for which others."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from sslkit.recipe.recipe import Recipe
from sslkit.recipe.stages import EvaluateStage, PretrainStage, Stage
from sslkit.report.picture import Picture, drawing_style
from sslkit.report.pictures.grid import DPI, GROUND, INK, MAX_WIDTH, NOTE, TEXT, TITLE, fit
from sslkit.report.pictures.networks import finished
from sslkit.report.pictures.sample import spread
from sslkit.run.artifacts import load_predictions, read_artifact

MAX_MATRICES = 6
MAX_CLASSES = 50
_COLUMNS = 2


class Matrix(NamedTuple):
    """What one classifier, named after its layer, predicted in a stage: the names of K classes, and (K, K) int64 counts of test images by true
    class (rows) and predicted class (columns).
    """

    stage: str
    name: str
    classes: tuple[str, ...]
    counts: np.ndarray

    @property
    def top1(self) -> float:
        """The accuracy, in percent."""
        return 100 * float(self.counts.trace() / max(1, self.counts.sum()))

    @property
    def percent(self) -> np.ndarray:
        """Each row as percentages of its sum: (K, K) float64; zeros for a class without images."""
        return 100 * self.counts / self.counts.sum(axis=1, keepdims=True).clip(min=1)


def draw_confusion(folder: Path, recipe: Recipe) -> Picture | None:
    """Draw the matrices of pretext tasks and of the best layer of each evaluation, at most six; None where nothing predicted a class."""
    every = read_matrices(folder, recipe)
    drawn = [matrix for matrix in every if len(matrix.classes) <= MAX_CLASSES]
    if not drawn:
        return None
    large = [f"{matrix.stage} ({len(matrix.classes)} classes)" for matrix in every if len(matrix.classes) > MAX_CLASSES]
    left_out = f" Too large to be drawn: {', '.join(large)}." if large else ""
    return Picture(
        title="Confusion matrices",
        caption="What held-out images of each class (rows) were taken for (columns), in percent of the class. From dark blue, 0, to"
        " yellow, 100, the colour follows the square root, which brings out what is rare. Of an evaluation of several layers, the best"
        f" one.{left_out}",
        alt=f"Confusion matrices. {'; '.join(f'{matrix.stage} is right on {matrix.top1:.1f} percent' for matrix in drawn)}.",
        figure=_draw(drawn),
        raster=True,
    )


def read_matrices(folder: Path, recipe: Recipe) -> list[Matrix]:
    """The best classifier of each stage, of at most six stages. Evaluations of snapshots are left out: they are many and much alike."""
    stages = [stage for stage in recipe.stages if finished(folder, stage)]
    pretext = _read(folder, [stage for stage in stages if isinstance(stage, PretrainStage)])
    evaluations = _read(folder, [stage for stage in stages if isinstance(stage, EvaluateStage) and stage.snapshot is None])
    pretext = spread(pretext, max(2, MAX_MATRICES - len(evaluations)))  # two with any number of evaluations
    return [*pretext, *spread(evaluations, MAX_MATRICES - len(pretext))]


def _read(folder: Path, stages: Iterable[Stage]) -> list[Matrix]:
    from sklearn.metrics import confusion_matrix

    found = []
    for stage in stages:
        names, matrices = read_artifact(folder / stage.key).get("classes", []), list[Matrix]()
        for name, predicted in load_predictions(folder / stage.key).items():
            needed = 1 + int(torch.cat([predicted.classes, predicted.targets]).max())
            classes = tuple(names) if len(names) >= needed else tuple(map(str, range(needed)))
            counts = confusion_matrix(predicted.targets, predicted.classes, labels=range(len(classes)))
            matrices.append(Matrix(stage.key, name, classes, counts))
        if matrices:
            found.append(max(matrices, key=lambda matrix: matrix.top1))
    return found


def _draw(matrices: Sequence[Matrix]) -> Figure:
    num_rows, num_columns = -(-len(matrices) // _COLUMNS), min(_COLUMNS, len(matrices))
    side = MAX_WIDTH / DPI / _COLUMNS
    with drawing_style():
        figure = Figure(figsize=(side * num_columns, side * num_rows), dpi=DPI, facecolor=GROUND)
        every = figure.subplots(num_rows, num_columns, squeeze=False).flatten()
        for matrix, axes in zip(matrices, every, strict=False):
            _draw_matrix(axes, matrix)
        for axes in every[len(matrices) :]:
            axes.set_axis_off()
        ConstrainedLayoutEngine(w_pad=0.14, h_pad=0.14).execute(figure)  # once: it would move a little with every rendering
    return figure


def _draw_matrix(axes: Axes, matrix: Matrix) -> None:
    from sklearn.metrics import ConfusionMatrixDisplay

    numbered, upright = len(matrix.classes) <= 12, max(map(len, matrix.classes)) * len(matrix.classes) > 40
    display = ConfusionMatrixDisplay(matrix.percent, display_labels=[fit(name, 240) for name in matrix.classes])
    display.plot(
        ax=axes,
        include_values=numbered,
        values_format=".0f",
        xticks_rotation="vertical" if upright else "horizontal",
        colorbar=False,
        im_kw={"norm": PowerNorm(0.5, 0, 100)},
        text_kw=TEXT,
    )
    texts = [] if display.text_ is None else display.text_.flat
    for text, percent in zip(texts, matrix.percent.flat, strict=False):
        text.set(visible=percent > 0, color=INK if percent > 42 else "white")  # dark on light colours
    axes.spines[:].set_visible(False)
    axes.tick_params(which="both", length=0)
    if numbered:
        between = np.arange(0.5, len(matrix.classes) - 1)
        axes.set_xticks(between, minor=True)
        axes.set_yticks(between, minor=True)
        axes.grid(which="minor", color=GROUND, linewidth=0.8)
    for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        label.set(parse_math=False, fontsize=min(7.5, 250 / len(matrix.classes)))
    axes.set_xlabel("chosen", **NOTE)
    axes.set_ylabel("true", **NOTE)
    axes.set_title(fit(matrix.stage, 800, 17), loc="left", pad=18, **TITLE)
    subtitle = fit(f"{matrix.name}, {matrix.top1:.1f} % right", 800)
    axes.annotate(subtitle, (0, 1), xytext=(0, 5), xycoords="axes fraction", textcoords="offset points", **NOTE)
