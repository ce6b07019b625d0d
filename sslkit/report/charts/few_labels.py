"""Accuracy against labels per class: as a chart, and as a table."""

from collections.abc import Iterator
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from sslkit.recipe.stages import labels
from sslkit.report.charts.chart import Series, draw_chart
from sslkit.report.metric_name import parse_metric
from sslkit.report.pictures.picture import Picture
from sslkit.report.run_folder import RunFolder
from sslkit.report.tables.table import Cell, Column, Table


class FewLabels(NamedTuple):
    """What one layer of one stage reaches.

    Attributes:
        stage: its key.
        layer: where it was measured.
        top1: by labels per class.
        std: over several subsets, by labels per class; empty where there was one.
        paper: published figures by labels per class.
    """

    stage: str
    layer: str
    top1: dict[int, float]
    std: dict[int, float]
    paper: dict[int, float]


def find_few_labels(run: RunFolder) -> list[FewLabels]:
    """Every layer of every stage that was trained with few labels; snapshots have a chart of their own."""
    found: dict[tuple[str, str], FewLabels] = {}
    for row in run.results.rows():
        name = parse_metric(row.metric)
        if name.labels is None or "/epoch=" in row.stage:
            continue
        own = found.setdefault((row.stage, name.layer), FewLabels(row.stage, name.layer, {}, {}, {}))
        if name.measure == "top1":
            own.top1[name.labels] = row.value
            if row.paper is not None:
                own.paper[name.labels] = row.paper
        elif name.measure == "top1_std":
            own.std[name.labels] = row.value
    return [one for one in found.values() if one.top1]


def few_labels_table(run: RunFolder) -> Table | None:
    """A row a layer, a column a number of labels."""
    found = find_few_labels(run)
    counts = _counts(found)
    if not counts:
        return None
    return Table(
        "few_labels",
        "Top-1 accuracy by labels per class",
        (Column("stage"), Column("layer", "code"), *(Column(f"{count:,}", "figure") for count in counts)),
        tuple(
            (Cell(one.stage), Cell(one.layer), *(Cell(one.top1.get(count), std=one.std.get(count)) for count in counts)) for one in found
        ),
        note="Percent; with several random subsets the mean ± the standard deviation.",
    )


def draw_few_labels(run: RunFolder) -> Picture | None:
    """A line a layer, with error bars; None where nothing was trained with few labels."""
    found = find_few_labels(run)
    counts = _counts(found)
    if not counts:
        return None

    def finish(axes: Axes) -> None:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(counts))
        axes.xaxis.set_major_formatter(FixedFormatter([f"{count:,}" for count in counts]))
        axes.xaxis.set_minor_locator(NullLocator())

    return draw_chart(
        "few-labels",
        "Few labels",
        "Each mark is a mean over random subsets where the recipe asks for several, with its standard deviation."
        + (" Rings are the paper's figures." if any(one.paper for one in found) else ""),
        list(_series(found)),
        x="labels per class",
        y="top-1 accuracy (%)",
        finish=finish,
    )


def _counts(found: list[FewLabels]) -> list[int]:
    return sorted({count for one in found for count in (*one.top1, *one.paper)})


def _series(found: list[FewLabels]) -> Iterator[Series]:
    told = labels(one.stage for one in found)
    for style, one in enumerate(found):
        points = sorted(one.top1.items())
        stds = [one.std.get(count, 0.0) for count, _ in points]
        label = f"{told[one.stage]}, {one.layer}"
        yield Series(label=label, points=points, style=style, std=stds)
        if one.paper:
            yield Series(label=f"{label}, paper", points=sorted(one.paper.items()), style=style, line=0, hollow=True)
