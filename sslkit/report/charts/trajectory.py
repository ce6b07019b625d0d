"""How a network changes while it is pretrained: what is measured on its snapshots, against the epoch."""

from collections.abc import Iterator, Sequence

from matplotlib.axes import Axes

from sslkit.recipe.stages import labels
from sslkit.report.charts.chart import INK, Series, draw_chart, whole_epochs
from sslkit.report.metric_name import parse_metric
from sslkit.report.pictures.picture import Picture
from sslkit.report.run_folder import RunFolder, StageFolder

Points = list[tuple[float, float]]

_ACCURACY = "top1"
_QUALITY = {
    "rankme": ("Effective rank of the features", "RankMe", "The effective rank of the pooled features, without labels: higher is better."),
    "alpha_req": (
        "Decay of the features' spectrum",
        "alpha-ReQ",
        "How fast the spectrum of the pooled features falls off, without labels: good near 1, the dotted line.",
    ),
}


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
                place = name.layer if name.labels is None else f"{name.layer}, {name.labels} labels a class"
                found.setdefault(name.measure, []).append((stage, place, value))
    return {measure: _lines(values) for measure, values in found.items()}


def _lines(values: Sequence[tuple[StageFolder, str, float]]) -> dict[str, Points]:
    told = labels(stage.key for stage, _, _ in values)
    lines: dict[str, Points] = {}
    for stage, place, value in values:
        lines.setdefault(f"{told[stage.key]}, {place}", []).append((float(stage.parts.epoch or 0), value))
    return {label: sorted(points) for label, points in lines.items()}


def _pretext(run: RunFolder) -> dict[str, Points]:
    """The pretext task's accuracy on held-out images, of the stages that kept snapshots."""
    stages = [stage for stage in run.stages if stage.pretrains and stage.artifact.get("snapshot_epochs")]
    told = labels(stage.key for stage in stages)
    found: dict[str, Points] = {}
    for stage in stages:
        for line in stage.log:
            for name in line if line["split"] == "heldout" else ():
                if name.endswith(_ACCURACY):
                    found.setdefault(f"{told[stage.key]}, pretext {name}", []).append((line["epoch"], line[name]))
    return found


def _draw_accuracy(pretext: dict[str, Points], accuracies: dict[str, Points]) -> Picture:
    return draw_chart(
        "trajectory-accuracy",
        "Accuracy as pretraining goes on",
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
        f"{title} as pretraining goes on",
        caption,
        _series(series),
        x="epoch of pretraining",
        y=axis,
        finish=finish,
    )


def _series(lines: dict[str, Points]) -> Sequence[Series]:
    return [Series(label=label, points=points, style=style) for style, (label, points) in enumerate(lines.items())]
