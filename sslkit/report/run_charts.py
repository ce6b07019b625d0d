"""The charts of every run: accuracy by layer and by labels per class, and metrics against the epoch of pretraining."""

from collections.abc import Iterator, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from sslkit.recipe.stages import labels
from sslkit.report.chart import Series, draw_chart, plain, whole_epochs
from sslkit.report.metrics import parse_metric
from sslkit.report.picture import INK, Picture
from sslkit.report.pictures.sample import spread
from sslkit.report.run_folder import RunFolder, StageFolder
from sslkit.report.run_tables import find_few_labels

Points = list[tuple[float, float]]

MAX_POINTS = 400
"""Of one line: more than its pixels show."""

_TOP1 = "top-1 accuracy (%)"

_LAST = ("lr", "images_per_second")
_MEANS = "Lines are means over training batches."
_LOGGED = {
    "loss": ("Loss", "loss", _MEANS),
    "top1": ("Pretext accuracy", _TOP1, _MEANS),
    "lr": ("Learning rate", "learning rate", "As the schedule sets it."),
    "images_per_second": ("Throughput", "images per second", "Images of the dataset, before a task makes several views of each."),
}
_ON_SNAPSHOTS = {
    "top1": ("Accuracy", _TOP1, "Object accuracy of classifiers on frozen snapshots."),
    "rankme": ("Effective rank of the features", "RankMe", "The effective rank of the pooled features, without labels: higher is better."),
    "alpha_req": (
        "Decay of the features' spectrum",
        "alpha-ReQ",
        "How fast the spectrum of the pooled features falls off, without labels: good near 1, the dotted line.",
    ),
}
"""Title, axis and caption of the charts, by metric."""


def draw_layers(run: RunFolder) -> Picture | None:
    """Accuracy by depth: a line for each stage that measures several layers; None where none does."""
    found = {stage.key: _by_layer(stage.metrics) for stage in run.stages if stage.parts.epoch is None}
    found = {key: top1 for key, top1 in found.items() if len(top1) > 1}
    if not found:
        return None
    published = run.results.paper.items()
    paper = {key: _by_layer({m.removeprefix(f"{key}."): top1 for m, top1 in published if m.startswith(f"{key}.")}) for key in found}
    # The deepest network's layers first: a recipe names them from shallow to deep, and shallower networks have the first of them.
    order = list(dict.fromkeys(layer for own in sorted([*found.values(), *paper.values()], key=len, reverse=True) for layer in own))

    def points(top1: Mapping[str, float]) -> Points:
        return sorted((float(order.index(layer)), value) for layer, value in top1.items())

    names, series = labels(found), list[Series]()
    for style, (key, top1) in enumerate(found.items()):
        series += _with_paper(names[key], style, points(top1), points(paper[key]))
    return draw_chart(
        "Accuracy by layer",
        "Classifiers on the frozen features of each layer, shallow to deep.",
        series,
        x="layer",
        y=_TOP1,
        finish=lambda axes: axes.set_xticks(range(len(order)), [plain(layer) for layer in order]),
    )


def draw_few_labels(run: RunFolder) -> Picture | None:
    """A line per layer, with error bars; None where nothing was trained with few labels."""
    found = find_few_labels(run)
    if not found:
        return None
    counts = sorted({count for reached in found.values() for count in reached})

    def finish(axes: Axes) -> None:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(counts))
        axes.xaxis.set_major_formatter(FixedFormatter([f"{count:,}" for count in counts]))
        axes.xaxis.set_minor_locator(NullLocator())

    names, series = labels(stage for stage, _ in found), list[Series]()
    for style, ((stage, layer), reached) in enumerate(found.items()):
        points = sorted((count, value.top1) for count, value in reached.items())
        paper = sorted((count, value.paper) for count, value in reached.items() if value.paper is not None)
        stds = [reached[count].std or 0.0 for count, _ in points]
        series += _with_paper(f"{names[stage]}, {layer}", style, points, paper, stds)
    return draw_chart(
        "Few labels",
        "Each mark is a mean over random subsets where the recipe asks for several, with its standard deviation.",
        series,
        x="labels per class",
        y=_TOP1,
        finish=finish,
    )


def draw_curves(run: RunFolder) -> Iterator[Picture]:
    """A chart for each metric, with all pretraining stages in it; nothing where no stage has logged any."""
    stages = [stage for stage in run.stages if stage.pretrains and stage.log]
    lines = (line for stage in stages for line in stage.log if line["split"] != "features")  # which have charts of their own
    found = dict.fromkeys(name for line in lines for name in line if name not in {"split", "part", "step", "epoch"})
    # Losses first, then what the method reports, then the machinery.
    for name in sorted(found, key=lambda name: (name in _LAST, not name.endswith("loss"))):
        yield _draw_curve(name, stages)


def draw_trajectory(run: RunFolder) -> Iterator[Picture]:
    """Accuracies in one chart, then a chart for each other measure; nothing where no stage measures snapshots."""
    found: dict[str, list[tuple[StageFolder, str, float]]] = {}
    for stage in run.stages:
        for metric, value in stage.metrics.items() if stage.parts.epoch is not None else ():
            name = parse_metric(metric)
            if not name.measure.endswith("_std"):
                where = name.layer if name.labels is None else f"{name.layer}, {name.labels} labels per class"
                found.setdefault(name.measure, []).append((stage, where, value))
    for measure in sorted(found, key=lambda measure: measure != "top1"):
        title, axis, caption = _ON_SNAPSHOTS.get(measure, (measure, measure, "Measured on snapshots."))
        lines: dict[str, Points] = {}
        if measure == "top1" and (lines := _pretext_accuracy(run)):
            caption = f"{caption.removesuffix('.')}, and the pretext task's own, all on held-out images."
        names = labels(stage.key for stage, _, _ in found[measure])
        for stage, where, value in found[measure]:
            lines.setdefault(f"{names[stage.key]}, {where}", []).append((float(stage.parts.epoch or 0), value))

        def finish(axes: Axes, measure: str = measure) -> None:
            whole_epochs(axes)
            if measure == "alpha_req":
                axes.axhline(1.0, color=INK, linewidth=0.8, linestyle=":")

        series = [Series(label=label, points=sorted(points), style=style) for style, (label, points) in enumerate(lines.items())]
        yield draw_chart(f"{title} during pretraining", caption, series, x="epoch of pretraining", y=axis, finish=finish)


def points_of_each(num_lines: int) -> int:
    """How many points at most of each of so many lines: all together keep a large sweep's page small."""
    return max(2, min(MAX_POINTS, 6_000 // max(1, num_lines)))


def _by_layer(metrics: Mapping[str, float]) -> dict[str, float]:
    parsed = {parse_metric(metric): value for metric, value in metrics.items()}
    return {name.layer: value for name, value in parsed.items() if name.measure == "top1" and name.labels is None and name.layer}


def _with_paper(
    label: str, style: int, ours: Sequence[tuple[float, float]], paper: Sequence[tuple[float, float]], std: Sequence[float] = ()
) -> Iterator[Series]:
    """A line, and the paper's results for it as rings where there are any."""
    yield Series(label=label, points=ours, style=style, std=std)
    if paper:
        yield Series(label=f"{label}, paper", points=paper, style=style, line=0, hollow=True)


def _draw_curve(name: str, stages: Sequence[StageFolder]) -> Picture:
    names = labels(stage.key for stage in stages)
    limit = points_of_each(len(stages))
    lines: list[Series] = []
    marks: list[Series] = []
    for style, stage in enumerate(stages):
        label = names[stage.key]
        train, heldout = (
            spread([(line["epoch"], line[name]) for line in stage.log if line["split"] == split and name in line], limit)
            for split in ("train", "heldout")
        )
        lines.append(Series(label=label, points=train, style=style, marker=False))
        if heldout:
            marks.append(Series(label=f"{label}, held out", points=heldout, style=style, line=0, beside=label))
    title, axis, caption = _LOGGED.get(name, (name, name, _MEANS))
    caption += " Marks are measured on all held-out images." if marks else ""

    def finish(axes: Axes) -> None:
        whole_epochs(axes)
        if name == "images_per_second":
            axes.set_ylim(bottom=0)

    return draw_chart(f"{title} during pretraining", caption, [*lines, *marks], x="epoch", y=axis, finish=finish)


def _pretext_accuracy(run: RunFolder) -> dict[str, Points]:
    """Of the pretext task on held-out images, by label, of the stages that kept snapshots."""
    stages = [stage for stage in run.stages if stage.pretrains and stage.artifact.snapshot_epochs]
    names = labels(stage.key for stage in stages)
    found: dict[str, Points] = {}
    for stage in stages:
        for line in stage.log:
            for name in line if line["split"] == "heldout" else ():
                if name.endswith("top1"):
                    found.setdefault(f"{names[stage.key]}, pretext {name}", []).append((line["epoch"], line[name]))
    return found
