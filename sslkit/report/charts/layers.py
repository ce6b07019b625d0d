"""Accuracy by layer: how far each depth of a network serves a classifier."""

from collections.abc import Iterator, Mapping, Sequence

from matplotlib.axes import Axes

from sslkit.recipe.stages import labels
from sslkit.report.charts.chart import Series, draw_chart, plain
from sslkit.report.metric_name import parse_metric
from sslkit.report.pictures.picture import Picture
from sslkit.report.run_folder import RunFolder


def draw_layers(run: RunFolder) -> Picture | None:
    """A line for each stage that measures several layers; None where none does."""
    found = {stage.key: _by_layer(stage.metrics) for stage in run.stages if stage.parts.epoch is None}
    found = {key: top1 for key, top1 in found.items() if len(top1) > 1}
    if not found:
        return None
    paper = {key: _by_layer(_published(run, key)) for key in found}
    order = _order([*found.values(), *paper.values()])
    rings = any(paper.values())

    def finish(axes: Axes) -> None:
        axes.set_xticks(range(len(order)), [plain(layer) for layer in order])

    return draw_chart(
        "layers",
        "Accuracy by layer",
        "Classifiers on the frozen features of each layer, shallow to deep." + (" Rings are the paper's figures." if rings else ""),
        list(_series(found, paper, order)),
        x="layer",
        y="top-1 accuracy (%)",
        finish=finish,
    )


def _by_layer(metrics: Mapping[str, float]) -> dict[str, float]:
    parsed = {parse_metric(metric): value for metric, value in metrics.items()}
    return {name.layer: value for name, value in parsed.items() if name.measure == "top1" and name.labels is None and name.layer}


def _published(run: RunFolder, stage: str) -> dict[str, float]:
    return {key.removeprefix(f"{stage}."): value for key, value in run.results.paper.items() if key.startswith(f"{stage}.")}


def _order(layers: Sequence[Mapping[str, float]]) -> list[str]:
    """The deepest network's layers first: a recipe names them from shallow to deep, and shallower networks have the first of them."""
    return list(dict.fromkeys(layer for own in sorted(layers, key=len, reverse=True) for layer in own))


def _series(found: Mapping[str, dict[str, float]], paper: Mapping[str, dict[str, float]], order: Sequence[str]) -> Iterator[Series]:
    told = labels(found)
    for style, (key, top1) in enumerate(found.items()):
        yield Series(label=told[key], points=_points(top1, order), style=style)
        if paper[key]:
            yield Series(label=f"{told[key]}, paper", points=_points(paper[key], order), style=style, line=0, hollow=True)


def _points(top1: Mapping[str, float], order: Sequence[str]) -> list[tuple[float, float]]:
    return sorted((float(order.index(layer)), value) for layer, value in top1.items())
