"""How pretraining went: every metric of its log against the epoch."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from matplotlib.axes import Axes

from sslkit.recipe.stages import labels
from sslkit.report.charts.chart import Series, draw_chart, whole_epochs
from sslkit.report.pictures.picture import Picture
from sslkit.report.pictures.spread import spread
from sslkit.report.run_folder import RunFolder, StageFolder

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
    "images_per_second": ("Throughput", "images per second", "Images of the data set, before a task makes several views of each."),
}


def draw_curves(run: RunFolder) -> Iterator[Picture]:
    """A chart for each metric, with all pretraining stages in it; nothing where no stage has logged any."""
    stages = [stage for stage in run.stages if stage.pretrains and stage.log]
    for name in _names(stages):
        yield _draw(name, stages)


def _names(stages: Sequence[StageFolder]) -> list[str]:
    """Losses first, then what the method reports, then the machinery."""
    found = dict.fromkeys(name for stage in stages for line in stage.log for name in line if name not in _NO_METRICS)
    return sorted(found, key=lambda name: (name in _LAST, not name.endswith("loss")))


def _draw(name: str, stages: Sequence[StageFolder]) -> Picture:
    told = labels(stage.key for stage in stages)
    limit = max(2, min(MAX_POINTS, _MAX_TOGETHER // len(stages)))
    lines: list[Series] = []
    marks: list[Series] = []
    for style, stage in enumerate(stages):
        train, heldout = (spread(_points(stage.log, name, split), limit) for split in ("train", "heldout"))
        lines.append(Series(label=told[stage.key], points=train, style=style, marker=False))
        marks.append(Series(label=f"{told[stage.key]}, held out", points=heldout, style=style, line=0))
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


def _points(log: Sequence[dict[str, Any]], name: str, split: str) -> list[tuple[float, float]]:
    return [(line["epoch"], line[name]) for line in log if line["split"] == split and name in line]
