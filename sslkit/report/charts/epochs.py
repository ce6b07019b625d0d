"""Metrics against the epoch: what pretraining logged, and what is measured on its snapshots."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from matplotlib.axes import Axes

from sslkit.recipe.stages import labels
from sslkit.report.charts.chart import INK, Series, draw_chart, whole_epochs
from sslkit.report.metric_name import parse_metric
from sslkit.report.pictures.picture import Picture
from sslkit.report.pictures.sample import spread
from sslkit.report.run_folder import RunFolder, StageFolder

Points = list[tuple[float, float]]

MAX_POINTS = 400
"""Of one line: more than its pixels show."""

_MAX_TOGETHER = 6_000
"""Points of all lines of one chart, which keeps a large sweep's page small."""

_NO_METRICS = {"split", "part", "step", "epoch"}
_LAST = ("lr", "images_per_second")
_MEANS = "Lines are means over training batches."
_WORDS = {
    "loss": ("Loss", "loss", _MEANS),
    "top1": ("Pretext accuracy", "top-1 accuracy (%)", _MEANS),
    "lr": ("Learning rate", "learning rate", "As the schedule sets it."),
    "images_per_second": ("Throughput", "images per second", "Images of the dataset, before a task makes several views of each."),
}

_ACCURACY = "top1"
_QUALITY = {
    "rankme": ("Effective rank of the features", "RankMe", "The effective rank of the pooled features, without labels: higher is better."),
    "alpha_req": (
        "Decay of the features' spectrum",
        "alpha-ReQ",
        "How fast the spectrum of the pooled features falls off, without labels: good near 1, the dotted line.",
    ),
}


def draw_curves(run: RunFolder) -> Iterator[Picture]:
    """A chart for each metric, with all pretraining stages in it; nothing where no stage has logged any."""
    stages = [stage for stage in run.stages if stage.pretrains and stage.log]
    found = dict.fromkeys(name for stage in stages for line in stage.log for name in line if name not in _NO_METRICS)
    # Losses first, then what the method reports, then the machinery.
    for name in sorted(found, key=lambda name: (name in _LAST, not name.endswith("loss"))):
        yield _draw_curve(name, stages)


def _draw_curve(name: str, stages: Sequence[StageFolder]) -> Picture:
    names = labels(stage.key for stage in stages)
    limit = max(2, min(MAX_POINTS, _MAX_TOGETHER // len(stages)))
    lines: list[Series] = []
    marks: list[Series] = []
    for style, stage in enumerate(stages):
        train, heldout = (spread(_points(stage.log, name, split), limit) for split in ("train", "heldout"))
        lines.append(Series(label=names[stage.key], points=train, style=style, marker=False))
        marks.append(Series(label=f"{names[stage.key]}, held out", points=heldout, style=style, line=0))
    measured = [mark for mark in marks if mark.points]
    title, axis, caption = _WORDS.get(name, (name, name, _MEANS))
    caption += " Marks are measured on all held-out images." if measured else ""
    legend = [replace(line, marker=bool(mark.points)) for line, mark in zip(lines, marks, strict=True)]
    series = [*lines, *measured]
    finish = _from_zero if name == "images_per_second" else whole_epochs
    return draw_chart(f"curve-{name}", f"{title} during pretraining", caption, series, x="epoch", y=axis, finish=finish, legend=legend)


def _from_zero(axes: Axes) -> None:
    axes.set_ylim(bottom=0)
    whole_epochs(axes)


def _points(log: Sequence[dict[str, Any]], name: str, split: str) -> Points:
    return [(line["epoch"], line[name]) for line in log if line["split"] == split and name in line]


def draw_trajectory(run: RunFolder) -> Iterator[Picture]:
    """Accuracies in one chart, then a chart for each other measure; nothing where no stage measures snapshots."""
    measured = _measured(run)
    if accuracies := measured.pop(_ACCURACY, None):
        yield _draw_accuracy(_pretext(run), accuracies)
    for measure, series in measured.items():
        yield _draw_quality(measure, series)


def _measured(run: RunFolder) -> dict[str, dict[str, Points]]:
    """By measure and label, the values by epoch."""
    found: dict[str, list[tuple[StageFolder, str, float]]] = {}
    for stage in run.stages:
        for metric, value in stage.metrics.items() if stage.parts.epoch is not None else ():
            name = parse_metric(metric)
            if not name.measure.endswith("_std"):
                where = name.layer if name.labels is None else f"{name.layer}, {name.labels} labels per class"
                found.setdefault(name.measure, []).append((stage, where, value))
    return {measure: _lines(values) for measure, values in found.items()}


def _lines(values: Sequence[tuple[StageFolder, str, float]]) -> dict[str, Points]:
    names = labels(stage.key for stage, _, _ in values)
    lines: dict[str, Points] = {}
    for stage, where, value in values:
        lines.setdefault(f"{names[stage.key]}, {where}", []).append((float(stage.parts.epoch or 0), value))
    return {label: sorted(points) for label, points in lines.items()}


def _pretext(run: RunFolder) -> dict[str, Points]:
    """The pretext task's accuracy on held-out images, of the stages that kept snapshots."""
    stages = [stage for stage in run.stages if stage.pretrains and stage.artifact.snapshot_epochs]
    names = labels(stage.key for stage in stages)
    found: dict[str, Points] = {}
    for stage in stages:
        for line in stage.log:
            for name in line if line["split"] == "heldout" else ():
                if name.endswith(_ACCURACY):
                    found.setdefault(f"{names[stage.key]}, pretext {name}", []).append((line["epoch"], line[name]))
    return found


def _draw_accuracy(pretext: dict[str, Points], accuracies: dict[str, Points]) -> Picture:
    return draw_chart(
        "trajectory-accuracy",
        "Accuracy during pretraining",
        "Object accuracy of classifiers on frozen snapshots"
        + (", and the pretext task's own, all on held-out images." if pretext else "."),
        _series({**pretext, **accuracies}),
        x="epoch of pretraining",
        y="top-1 accuracy (%)",
        finish=whole_epochs,
    )


def _draw_quality(measure: str, series: dict[str, Points]) -> Picture:
    title, axis, caption = _QUALITY.get(measure, (measure, measure, "Measured on snapshots."))

    def finish(axes: Axes) -> None:
        whole_epochs(axes)
        if measure == "alpha_req":
            axes.axhline(1.0, color=INK, linewidth=0.8, linestyle=":")

    return draw_chart(
        f"trajectory-{measure}",
        f"{title} during pretraining",
        caption,
        _series(series),
        x="epoch of pretraining",
        y=axis,
        finish=finish,
    )


def _series(lines: dict[str, Points]) -> Sequence[Series]:
    return [Series(label=label, points=points, style=style) for style, (label, points) in enumerate(lines.items())]
