"""The tables of every run: what was run, what came out, what each stage took."""

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any

from sslkit.recipe.stages import parse_key
from sslkit.report.formatting import duration
from sslkit.report.run_folder import RunFolder, StageFolder
from sslkit.report.tables.table import Cell, Column, Layout, Table
from sslkit.run.results import Row

_MANY_CLASSES = 12
"""Beyond so many the table of classes is folded."""


def facts_table(run: RunFolder) -> Table:
    """What was run, on what, and what it took."""
    return _facts("run", "What was run", _facts_of(run))


def classes_table(run: RunFolder) -> Table | None:
    """The classes of the labelled images, with how many each has; None where nothing was evaluated with labels."""
    found = (stage.artifact for stage in run.stages if any(stage.artifact.images_per_class.values()))
    if (artifact := next(found, None)) is None:
        return None
    names, counts = artifact.classes, artifact.images_per_class
    rows = zip_longest(names, counts.get("train", []), counts.get("test", []))
    return Table(
        "classes",
        "Classes",
        (Column("class"), Column("training images", "count"), Column("test images", "count")),
        tuple((Cell(name or ""), Cell(train), Cell(test)) for name, train, test in rows),
        layout="sortable" if len(names) <= _MANY_CLASSES else "folded",
    )


def recall_table(run: RunFolder) -> Table | None:
    """How much of each class a stage's best classifier recognises; None where nothing was classified."""
    stages = [stage for stage in run.stages if stage.artifact.recall]
    if not stages:
        return None
    classes = stages[0].artifact.classes
    best = {stage.key: _best_recall(stage) for stage in stages if stage.artifact.classes == classes}
    rows = zip_longest(classes, *(values for _, values in best.values()))
    return Table(
        "recall",
        "Accuracy by class",
        (Column("class"), *(Column(f"{key}, {name}", "figure") for key, (name, _) in best.items())),
        tuple((Cell(name or ""), *map(Cell, values)) for name, *values in rows),
        note="The percentage of a class's test images that was recognised, by the classifier of each stage that is right most often.",
        layout="folded",
    )


def _best_recall(stage: StageFolder) -> tuple[str, list[float | None]]:
    found = stage.artifact.recall
    name = max(found, key=lambda name: stage.metrics.get(f"{name}.top1", 0.0))
    return name, found[name]


def environment_table(run: RunFolder) -> Table | None:
    """Hardware and versions; None where nothing was computed yet."""
    facts = list(_environments_of(run))
    return _facts("environment", "Environment", iter(facts)) if facts else None


def margins_table(run: RunFolder) -> Table | None:
    """The differences that the recipe asks for; None without any."""
    rows = [
        (Cell(margin.label), Cell(margin.difference), Cell(f"{margin.first} minus {margin.second}")) for margin in run.results.differences()
    ]
    columns = (Column("margin"), Column("difference", "signed"), Column("of"))
    return Table("margins", "Margins", columns, tuple(rows), layout="cards") if rows else None


def results_table(run: RunFolder, layout: Layout = "sortable") -> Table | None:
    """Every metric of every finished stage; None where nothing was measured."""
    rows = run.results.rows()
    if not rows:
        return None
    with_paper = any(row.paper is not None for row in rows)
    published = (Column("paper", "figure"), Column("difference", "signed")) if with_paper else ()
    note = "Accuracies (top1, top5, balanced) are in percent after the last epoch, from exact counts over all test images."
    if missing := run.results.missing():
        note += f" The paper's results that have none of ours beside them: {', '.join(missing)}."
    return Table(
        "results",
        "Every metric",
        (Column("stage"), Column("metric", "code"), Column("ours", "figure"), *published),
        tuple(
            (
                Cell(row.stage),
                Cell(row.metric),
                Cell(row.value),
                *((Cell(row.paper), Cell(row.difference)) if with_paper else ()),
            )
            for row in rows
        ),
        note=note,
        layout=layout,
    )


def stages_table(run: RunFolder) -> Table | None:
    """What each stage took, and the proof that a frozen backbone stayed frozen; None before the first stage."""
    columns = (
        Column("stage"),
        Column("kind"),
        Column("images", "count"),
        Column("seconds", "seconds"),
        Column("images/s", "count"),
        Column("device"),
        Column("finished"),
        Column("backbone"),
    )
    rows = tuple(
        (
            Cell(stage.key),
            Cell(stage.artifact.kind),
            Cell(stage.artifact.num_images or None),
            Cell(stage.artifact.seconds or None),
            Cell(_throughput(stage)),
            Cell(stage.artifact.device),
            Cell(stage.artifact.finished[:16].replace("T", " ")),
            Cell(_backbone(stage)),
        )
        for stage in run.stages
    )
    note = (
        "Images are those a stage was given; images/s is the median while it trained. Seconds of earlier, interrupted starts of a stage are"
        " not known. A frozen backbone is hashed before and after."
    )
    return Table("stages", "Stages", columns, rows, note=note) if rows else None


def pivot_tables(run: RunFolder) -> Iterator[Table]:
    """A row a variant and a column a metric, or a column an epoch, of each stage that several variants or snapshots have."""
    rows = run.results.rows()
    for name in dict.fromkeys(parse_key(row.stage).name for row in rows):
        own = [row for row in rows if parse_key(row.stage).name == name]
        if len({parse_key(row.stage).epoch for row in own}) > 1:
            yield _by_epoch(name, own)
        elif len({parse_key(row.stage).variant for row in own}) > 1:
            yield _by_variant(name, own)


def _facts(key: str, title: str, facts: Iterator[tuple[str, str]]) -> Table:
    rows = tuple((Cell(name), Cell(text)) for name, text in facts if text)
    return Table(key, title, (Column("fact"), Column("value")), rows, layout="facts")


def _facts_of(run: RunFolder) -> Iterator[tuple[str, str]]:
    finished = [stage for stage in run.stages if stage.artifact.seconds]
    environments = [environment for stage in run.stages for environment in stage.environments]
    data, identities = run.recipe.get("data"), [stage.artifact.identity for stage in run.stages]
    tasks = [_described(identity.task.cls, identity.task.model_extra) for identity in identities if identity.task]
    backbones = [_described(identity.backbone.spec, identity.backbone.options) for identity in identities if identity.backbone]
    yield "data", _described(data.get("name"), data) if isinstance(data, Mapping) else str(data or "")
    yield "images", _images(finished)
    yield "pretext task", "; ".join(dict.fromkeys(tasks))
    yield "backbone", "; ".join(dict.fromkeys(backbones))
    yield "variants", ", ".join(run.variants)
    yield "stages", f"{len(finished)} finished" + ("" if run.finished else f", still to run: {', '.join(run.results.pending) or 'unknown'}")
    yield "started", min((environment.started for environment in environments if environment.started), default="")
    yield "device time", "; ".join(f"{duration(seconds)} on {device}" for device, seconds in _cost(finished).items())
    speeds = [(stage.key, _throughput(stage)) for stage in finished if stage.pretrains]
    yield "throughput", "; ".join(f"{key} {speed:,.0f} images/s" for key, speed in speeds if speed is not None)
    yield "commit", ", ".join(dict.fromkeys(environment.commit for environment in environments if environment.commit))
    yield "folder", str(run.folder)


_ENVIRONMENT = {
    "platform": "platform",
    "device": "device",
    "threads": "threads",
    "python": "Python",
    "versions": "packages",
    "plugins": "plugins",
    "command": "command",
    "commit": "commit",
}
"""What is shown of an environment, by its key, and what it is called."""


def _environments_of(run: RunFolder) -> Iterator[tuple[str, str]]:
    """What the stages were computed with; where they differ, each value with its stages."""
    for key, name in _ENVIRONMENT.items():
        stages: dict[str, dict[str, None]] = {}
        for stage in run.stages:
            for environment in stage.environments:
                stages.setdefault(_one_line(getattr(environment, key) or ""), {})[stage.key] = None
        stages.pop("", None)
        if len(stages) == 1:
            yield name, next(iter(stages))
        elif stages:
            yield name, "; ".join(f"{value} ({', '.join(users)})" for value, users in stages.items())


def _one_line(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {version}" for name, version in value.items())
    return " ".join(value) if isinstance(value, list) else str(value)


def _described(name: Any, options: Mapping[str, Any] | None) -> str:
    """``nin, num_blocks = 4, width = 0.25`` or ``RotNet, angles = [0, 90, 180, 270]``."""
    given = {key: value for key, value in (options or {}).items() if key != "name" and value is not None}
    return ", ".join([str(name or "").rpartition(":")[2], *(f"{key} = {_toml(value)}" for key, value in given.items())])


def _toml(value: Any) -> str:
    """A value in one line."""
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return f"{value:g}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False, default=str)


def _images(stages: list[StageFolder]) -> str:
    counts = [
        f"{count:,} {word}"
        for stage in stages
        for count, word in ((stage.artifact.num_images, "to train on"), (stage.artifact.num_test_images, "held out"))
        if count
    ]
    return ", ".join(dict.fromkeys(counts))


def _cost(stages: list[StageFolder]) -> dict[str, float]:
    cost: dict[str, float] = {}
    for stage in stages:
        cost[stage.artifact.device] = cost.get(stage.artifact.device, 0.0) + stage.artifact.seconds
    return cost


def _throughput(stage: StageFolder) -> float | None:
    speeds = [line["images_per_second"] for line in stage.log if "images_per_second" in line]
    return statistics.median(speeds) if speeds else None


def _backbone(stage: StageFolder) -> str:
    if stage.artifact.frozen_backbone is not None:
        return f"unchanged, {stage.artifact.frozen_backbone.sha256_after[:12]}"
    return "trained" if stage.artifact.seconds else ""


def _by_variant(name: str, rows: Sequence[Row]) -> Table:
    variants = dict.fromkeys(parse_key(row.stage).variant for row in rows)
    metrics = dict.fromkeys(row.metric for row in rows)
    by_column = {(parse_key(row.stage).variant, row.metric): row for row in rows}
    with_paper = any(row.paper is not None for row in rows)
    lines = []
    for variant in variants:
        own = [by_column.get((variant, metric)) for metric in metrics]
        lines.append((Cell(variant), *([Cell("ours")] if with_paper else []), *(Cell(row.value if row else None) for row in own)))
        if any(row is not None and row.paper is not None for row in own):
            lines.append((Cell(variant), Cell("paper"), *(Cell(row.paper if row else None) for row in own)))
    return Table(
        f"{name}_by_variant",
        f"{name}, by variant",
        (Column("variant"), *([Column("figures")] if with_paper else []), *(Column(metric, "figure") for metric in metrics)),
        tuple(lines),
    )


def _by_epoch(name: str, rows: Sequence[Row]) -> Table:
    epochs = sorted({parse_key(row.stage).epoch or 0 for row in rows})
    lines = dict.fromkeys((parse_key(row.stage).variant, row.metric) for row in rows)
    by_column = {(parse_key(row.stage).variant, row.metric, parse_key(row.stage).epoch): row.value for row in rows}
    swept = any(variant for variant, _ in lines)
    return Table(
        f"{name}_by_epoch",
        f"{name}, by epoch of pretraining",
        (*([Column("variant")] if swept else []), Column("metric", "code"), *(Column(str(epoch), "figure") for epoch in epochs)),
        tuple(
            (
                *([Cell(variant)] if swept else []),
                Cell(metric),
                *(Cell(by_column.get((variant, metric, epoch))) for epoch in epochs),
            )
            for variant, metric in lines
        ),
    )
