"""Accuracy by layer, and against labels per class as a chart and as a table."""

from collections.abc import Mapping
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from sslkit.recipe.stages import labels
from sslkit.report.charts.chart import Series, draw_chart, plain
from sslkit.report.metric_name import parse_metric
from sslkit.report.pictures.picture import Picture
from sslkit.report.run_folder import RunFolder
from sslkit.report.tables.table import Cell, Column, Table


def draw_layers(run: RunFolder) -> Picture | None:
    """How far each depth of a network serves a classifier: a line for each stage that measures several layers; None where none does."""
    found = {stage.key: _by_layer(stage.metrics) for stage in run.stages if stage.parts.epoch is None}
    found = {key: top1 for key, top1 in found.items() if len(top1) > 1}
    if not found:
        return None
    published = [(key, metric, value) for key in found for metric, value in run.results.paper.items() if metric.startswith(f"{key}.")]
    paper = {key: _by_layer({m.removeprefix(f"{key}."): value for own, m, value in published if own == key}) for key in found}
    # The deepest network's layers first: a recipe names them from shallow to deep, and shallower networks have the first of them.
    order = list(dict.fromkeys(layer for own in sorted([*found.values(), *paper.values()], key=len, reverse=True) for layer in own))

    def points(top1: Mapping[str, float]) -> list[tuple[float, float]]:
        return sorted((float(order.index(layer)), value) for layer, value in top1.items())

    def finish(axes: Axes) -> None:
        axes.set_xticks(range(len(order)), [plain(layer) for layer in order])

    names, series = labels(found), list[Series]()
    for style, (key, top1) in enumerate(found.items()):
        series.append(Series(label=names[key], points=points(top1), style=style))
        if paper[key]:
            series.append(Series(label=f"{names[key]}, paper", points=points(paper[key]), style=style, line=0, hollow=True))
    return draw_chart(
        "layers",
        "Accuracy by layer",
        "Classifiers on the frozen features of each layer, shallow to deep." + (" Rings are the paper's results." if published else ""),
        series,
        x="layer",
        y="top-1 accuracy (%)",
        finish=finish,
    )


def _by_layer(metrics: Mapping[str, float]) -> dict[str, float]:
    parsed = {parse_metric(metric): value for metric, value in metrics.items()}
    return {name.layer: value for name, value in parsed.items() if name.measure == "top1" and name.labels is None and name.layer}


class FewLabels(NamedTuple):
    """What one layer of one stage reaches.

    Attributes:
        stage: its key.
        layer: where it was measured.
        top1: by labels per class.
        std: over several subsets, by labels per class; empty where there was one.
        paper: published results by labels per class.
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

    names, series = labels(one.stage for one in found), list[Series]()
    for style, one in enumerate(found):
        label, points = f"{names[one.stage]}, {one.layer}", sorted(one.top1.items())
        series.append(Series(label=label, points=points, style=style, std=[one.std.get(count, 0.0) for count, _ in points]))
        if one.paper:
            series.append(Series(label=f"{label}, paper", points=sorted(one.paper.items()), style=style, line=0, hollow=True))
    return draw_chart(
        "few-labels",
        "Few labels",
        "Each mark is a mean over random subsets where the recipe asks for several, with its standard deviation."
        + (" Rings are the paper's results." if any(one.paper for one in found) else ""),
        series,
        x="labels per class",
        y="top-1 accuracy (%)",
        finish=finish,
    )


def _counts(found: list[FewLabels]) -> list[int]:
    return sorted({count for one in found for count in (*one.top1, *one.paper)})
