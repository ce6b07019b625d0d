"""Charts of the features during pretraining: their quality, and whether they collapse."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import NamedTuple

from matplotlib.axes import Axes

from sslkit.recipe.stages import labels
from sslkit.report.chart import Panel, Series, draw_panels, whole_epochs
from sslkit.report.picture import INK, Picture
from sslkit.report.pictures.sample import spread
from sslkit.report.run_charts import points_of_each
from sslkit.report.run_folder import RunFolder
from sslkit.training.representation import LIMITS


class _Shown(NamedTuple):
    """A measure's label on the y axis, the height of a dotted line, and whether the axis begins at 0."""

    label: str
    line: float | None = None
    from_zero: bool = True


_QUALITY = {
    "knn.top1": _Shown("kNN top-1 (%)", from_zero=False),
    "rankme": _Shown("RankMe"),
    "alpha_req": _Shown("alpha-ReQ", line=1.0, from_zero=False),
}
_COLLAPSE = {
    "std": _Shown("std", line=LIMITS["std"]),
    "cosine": _Shown("cosine", from_zero=False),
    "rankme": _Shown("RankMe"),
    "entropy": _Shown("entropy", line=LIMITS["entropy"]),
}
_CHARTS = {
    "quality": (
        "Quality of the features",
        "Of the deepest layer, on a part of the images: accuracy of nearest neighbours, effective rank, and decay of the spectrum, which is"
        " good near the dotted line.",
        _QUALITY,
    ),
    "collapse": (
        "Collapse",
        "On one fixed batch: standard deviation of normalised features (1: they point everywhere, 0: collapsed), mean cosine of all pairs,"
        " effective rank, and evenness of cluster assignments. What has fallen below a dotted line has collapsed.",
        _COLLAPSE,
    ),
}
"""Title, caption and measures, by the first word of the metrics' names."""

Lines = dict[str, list[tuple[float, float]]]


def alarms_note(run: RunFolder) -> str:
    """The collapses that were reported, with their stages; empty where there were none."""
    return " ".join(f"{stage.key}: {alarm}." for stage in run.stages for alarm in stage.artifact.alarms)


def draw_features(run: RunFolder) -> Iterator[Picture]:
    """A chart of the quality and one of the signs of collapse, with all pretraining stages in each."""
    for group, (title, caption, measures) in _CHARTS.items():
        found = _collect(run, group, measures)
        order = {label: style for style, label in enumerate(dict.fromkeys(label for lines in found.values() for label in lines))}
        panels = [
            Panel(
                shown.label,
                [Series(label=label, points=points, style=order[label], marker=len(points) <= 20) for label, points in found[name].items()],
                partial(_finish, shown=shown),
            )
            for name, shown in measures.items()
            if name in found
        ]
        if panels:
            yield draw_panels(f"{title} during pretraining", caption, panels, x="epoch")


def _collect(run: RunFolder, group: str, measures: Mapping[str, _Shown]) -> dict[str, Lines]:
    """By measure, then by label; a label names what was measured, where a method has more than features."""
    stages = [stage for stage in run.stages if stage.pretrains and stage.log]
    names = labels(stage.key for stage in stages)
    found: dict[str, Lines] = {}
    for stage in stages:
        for line in stage.log:
            for metric in line if line["split"] == "features" else ():
                _, _, rest = metric.partition(f"{group}.")
                name = next((name for name in measures if rest == name or rest.endswith(f".{name}")), None)
                if name is not None and metric.startswith(f"{group}."):
                    what = rest.removesuffix(name).rstrip(".")
                    label = f"{names[stage.key]}, {what}" if what else names[stage.key]
                    found.setdefault(name, {}).setdefault(label, []).append((line["epoch"], line[metric]))
    limit = points_of_each(len(stages))
    return {name: {label: spread(points, limit) for label, points in lines.items()} for name, lines in found.items()}


def _finish(axes: Axes, shown: _Shown) -> None:
    whole_epochs(axes)
    if shown.from_zero:
        axes.set_ylim(0, 1.04 * axes.get_ylim()[1])  # with room for a marker
    if shown.line is not None:
        axes.axhline(shown.line, color=INK, linewidth=0.8, linestyle=":")
