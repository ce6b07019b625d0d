"""The tables of every run: what was run, what came out, what each stage took."""

import json
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, fields
from itertools import pairwise, product, zip_longest
from typing import Any, NamedTuple

from sslkit.contract.errors import OptionError
from sslkit.recipe.stages import StageKey, parse_key
from sslkit.report.metrics import duration, parse_metric
from sslkit.report.run_folder import RunFolder, StageFolder
from sslkit.report.table import Cell, Column, Layout, Table, cells
from sslkit.run.results import Row
from sslkit.storage.identity import plain
from sslkit.storage.json_files import SavedArtifact
from sslkit.views.presets import PRESETS
from sslkit.views.view import OPTIONS, View

_VIEW = f"{View.__module__}:{View.__qualname__}"

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
"""What is shown of an environment: labels by key."""


def facts_table(run: RunFolder) -> Table:
    """What was run, on what, and what it took."""
    finished = [stage for stage in run.stages if stage.artifact.seconds]
    environments = [environment for stage in run.stages for environment in stage.artifact.environments]
    identities = [stage.artifact.identity for stage in run.stages]
    tasks = [_described(identity.task.cls, identity.task.model_extra) for identity in identities if identity.task]
    backbones = [_described(identity.backbone.spec, identity.backbone.options) for identity in identities if identity.backbone]
    seconds = defaultdict[str, float](float)
    for stage in finished:
        seconds[stage.artifact.device] += stage.artifact.seconds
    speeds = [(stage.key, stage.throughput) for stage in finished if stage.pretrains]
    facts = {
        "data": "; ".join(_data(run.recipe)),
        "images": ", ".join(_images(finished)),
        "pretext task": "; ".join(dict.fromkeys(tasks)),
        "backbone": "; ".join(dict.fromkeys(backbones)),
        "learning rate": "; ".join(f"{stage.key}.{rate}" for stage in finished for rate in stage.artifact.scaled_rates),
        "variants": ", ".join(run.variants),
        "stages": f"{len(finished)} finished" + ("" if run.finished else f", still to run: {', '.join(run.results.pending) or 'unknown'}"),
        "extended": "; ".join(
            f"{stage.key}: {' + '.join(_parts(stage.artifact))} epochs" for stage in run.stages if stage.artifact.extended
        ),
        "started": min((environment.started for environment in environments if environment.started), default=""),
        "device time": "; ".join(f"{duration(spent)} on {device}" for device, spent in seconds.items()),
        "throughput": "; ".join(f"{key} {speed:,.0f} images/s" for key, speed in speeds if speed is not None),
        "commit": ", ".join(dict.fromkeys(environment.commit for environment in environments if environment.commit)),
        "folder": str(run.folder),
    }
    return _facts("run", "What was run", facts)


def _data(recipe: Mapping[str, Any]) -> Iterator[str]:
    """The recipe's data, and what stages have of their own, with their names."""

    def described(data: Any) -> str:
        return _described(data.get("name"), data) if isinstance(data, Mapping) else str(data or "")

    yield described(recipe.get("data"))
    own: dict[str, list[str]] = {}
    stages = recipe.get("stages")
    for name, stage in stages.items() if isinstance(stages, Mapping) else ():
        if isinstance(stage, Mapping) and "data" in stage:
            own.setdefault(described(stage["data"]), []).append(str(name))
    yield from (f"{', '.join(names)}: {data}" for data, names in own.items())


def _images(stages: Sequence[StageFolder]) -> Iterator[str]:
    """How many images the stages were given, with their names where they differ: ``90 (pretrain), 60 (probe) to train on``."""
    for use in ("to train on", "held out"):
        names: dict[int, dict[str, None]] = {}
        for stage in stages:
            if count := stage.artifact.num_images if use == "to train on" else stage.artifact.num_test_images:
                names.setdefault(count, {})[parse_key(stage.key).name] = None
        if names:
            yield ", ".join(f"{count:,}" + (f" ({', '.join(each)})" if len(names) > 1 else "") for count, each in names.items()) + f" {use}"


def _parts(artifact: SavedArtifact) -> list[str]:
    """The epochs of each part of a training that was continued: 100 + 50."""
    reached = [0, *(part.epochs for part in artifact.extended), artifact.identity.training.epochs if artifact.identity.training else 0]
    return [str(after - before) for before, after in pairwise(reached)]


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
        tuple(cells(name or "", train, test) for name, train, test in rows),
        layout="sortable" if len(names) <= 12 else "folded",
    )


def recall_table(run: RunFolder) -> Table | None:
    """Recall per class of each stage's best classifier; None where nothing was classified."""
    stages = [stage for stage in run.stages if stage.artifact.recall]
    if not stages:
        return None
    classes = stages[0].artifact.classes
    columns, best = [Column("class")], []
    for stage in stages:
        if stage.artifact.classes == classes:
            top1 = {name: stage.metrics.get(f"{name}.top1", 0.0) for name in stage.artifact.recall}
            name = max(top1, key=top1.__getitem__)
            columns.append(Column(f"{stage.key}, {name}", "figure"))
            best.append(stage.artifact.recall[name])
    return Table(
        "recall",
        "Accuracy by class",
        tuple(columns),
        tuple(cells(name or "", *values) for name, *values in zip_longest(classes, *best)),
        note="Recall per class, in percent, of the most accurate classifier of each stage.",
        layout="folded",
    )


def environment_table(run: RunFolder) -> Table | None:
    """Hardware and versions, with their stages where they differ; None where nothing was computed yet."""
    facts = {}
    for key, name in _ENVIRONMENT.items():
        stages: dict[str, dict[str, None]] = {}
        for stage in run.stages:
            for environment in stage.artifact.environments:  # those of earlier starts first
                if value := _one_line(getattr(environment, key) or ""):
                    stages.setdefault(value, {})[stage.key] = None
        if stages:
            facts[name] = "; ".join(f"{value} ({', '.join(users)})" if len(stages) > 1 else value for value, users in stages.items())
    return _facts("environment", "Environment", facts) if facts else None


def margins_table(run: RunFolder) -> Table | None:
    """The differences that the recipe asks for; None without any."""
    rows = [cells(margin.label, margin.difference, f"{margin.first} minus {margin.second}") for margin in run.results.differences()]
    columns = (Column("margin"), Column("difference", "signed"), Column("of"))
    return Table("margins", "Margins", columns, tuple(rows), layout="cards") if rows else None


def results_table(run: RunFolder, layout: Layout = "sortable") -> Table | None:
    """Every metric of every finished stage; None where nothing was measured."""
    rows = run.results.rows()
    if not rows:
        return None
    columns = (
        Column("stage"),
        Column("metric", "code"),
        Column("ours", "figure"),
        Column("paper", "figure"),
        Column("difference", "signed"),
    )
    shown = len(columns) if any(row.paper is not None for row in rows) else 3
    note = "Accuracies (top1, top5, balanced) are in percent after the last epoch, from exact counts over all test images."
    if missing := run.results.missing():
        note += f" Results of the paper without a metric of this run: {', '.join(missing)}."
    lines = tuple(cells(*row, row.difference)[:shown] for row in rows)
    return Table("results", "Every metric", columns[:shown], lines, note=note, layout=layout)


def stages_table(run: RunFolder) -> Table | None:
    """Each stage's time and speed, and the proof that a frozen backbone stayed frozen; None before the first stage."""
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
    rows = []
    for stage in run.stages:
        artifact, proof = stage.artifact, stage.artifact.frozen_backbone
        images, seconds, finished = artifact.num_images or None, artifact.seconds or None, artifact.finished[:16].replace("T", " ")
        backbone = f"unchanged, {proof.sha256_after[:12]}" if proof else "trained" if seconds else ""
        rows.append(cells(stage.key, artifact.kind, images, seconds, stage.throughput, artifact.device, finished, backbone))
    note = (
        "Images are those a stage was given; images/s is the median while it trained. Seconds of earlier, interrupted starts of a stage are"
        " not known. A frozen backbone is hashed before and after."
    )
    return Table("stages", "Stages", columns, tuple(rows), note=note) if rows else None


class FewLabels(NamedTuple):
    """A layer's accuracy with few labels: the mean over subsets, their standard deviation where there are several, the paper's result."""

    top1: float
    std: float | None
    paper: float | None


def find_few_labels(run: RunFolder) -> dict[tuple[str, str], dict[int, FewLabels]]:
    """By stage and layer, then by labels per class. Snapshots are left out: they have a chart of their own."""
    found: dict[tuple[str, str], dict[int, FewLabels]] = {}
    for row in run.results.rows():
        name = parse_metric(row.metric)
        if name.measure == "top1" and name.labels is not None and parse_key(row.stage).epoch is None:
            std = run.results.stages[row.stage].get(f"{row.metric}_std")
            found.setdefault((row.stage, name.layer), {})[name.labels] = FewLabels(row.value, std, row.paper)
    return found


def few_labels_table(run: RunFolder) -> Table | None:
    """A row per layer, a column per number of labels; None where nothing was trained with few labels."""
    found = find_few_labels(run)
    counts = sorted({count for reached in found.values() for count in reached})
    columns = (Column("stage"), Column("layer", "code"), *(Column(f"{count:,}", "figure") for count in counts))
    rows = []
    for (stage, layer), reached in found.items():
        values = [Cell(reached[count].top1, std=reached[count].std) if count in reached else Cell() for count in counts]
        rows.append((Cell(stage), Cell(layer), *values))
    note = "Percent; with several random subsets the mean ± the standard deviation."
    return Table("few_labels", "Top-1 accuracy by labels per class", columns, tuple(rows), note=note) if rows else None


def pivot_tables(run: RunFolder) -> Iterator[Table]:
    """For each stage of several snapshots a column per epoch; for each stage of several variants a row per variant, a column per metric."""
    by_name: dict[str, list[tuple[StageKey, Row]]] = {}
    for row in run.results.rows():
        key = parse_key(row.stage)
        by_name.setdefault(key.name, []).append((key, row))
    for name, rows in by_name.items():
        lines: dict[tuple[str, str], dict[Any, float]] = {}
        if len({key.epoch for key, _ in rows}) > 1:
            for key, row in rows:
                lines.setdefault((key.variant, row.metric), {})[key.epoch] = row.value
            headings, epochs = (Column("variant"), Column("metric", "code")), sorted({key.epoch or 0 for key, _ in rows})
            yield _pivot(f"{name}_by_epoch", f"{name}, by epoch of pretraining", headings, lines, epochs)
        elif len({key.variant for key, _ in rows}) > 1:
            with_paper = any(row.paper is not None for _, row in rows)
            for key, row in rows:
                lines.setdefault((key.variant, "ours" if with_paper else ""), {})[row.metric] = row.value
                if row.paper is not None:
                    lines.setdefault((key.variant, "paper"), {})[row.metric] = row.paper
            headings, metrics = (Column("variant"), Column("metrics")), dict.fromkeys(row.metric for _, row in rows)
            yield _pivot(f"{name}_by_variant", f"{name}, by variant", headings, lines, metrics)


def _pivot(
    key: str, title: str, headings: Sequence[Column], lines: Mapping[tuple[str, ...], Mapping[Any, float]], columns: Collection[Any]
) -> Table:
    """A row for each line; a heading that is empty in every line is left out."""
    kept = [i for i in range(len(headings)) if any(line[i] for line in lines)]
    shown = (*(headings[i] for i in kept), *(Column(str(column), "figure") for column in columns))
    rows = (cells(*(line[i] for i in kept), *(values.get(column) for column in columns)) for line, values in lines.items())
    return Table(key, title, shown, tuple(rows))


def _facts(key: str, title: str, facts: Mapping[str, str]) -> Table:
    rows = tuple(cells(name, text) for name, text in facts.items() if text)
    return Table(key, title, (Column("fact"), Column("value")), rows, layout="facts")


def _one_line(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {version}" for name, version in value.items())
    return " ".join(value) if isinstance(value, list) else str(value)


def _described(name: Any, options: Mapping[str, Any] | None) -> str:
    """``nin, num_blocks = 4, width = 0.25`` or ``RotNet, angles = [0, 90, 180, 270]``."""
    given = {key: value for key, value in (options or {}).items() if key != "name" and value is not None}
    return ", ".join([str(name or "").rpartition(":")[2], *(f"{key} = {_toml(value)}" for key, value in given.items())])


def _toml(value: Any) -> str:
    """As a recipe says it, in one line."""
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, Mapping):
        if value.get("class") == _VIEW and isinstance(value.get("options"), Mapping):
            return _toml(_view(value, value["options"]))
        named = {"name": str(value["class"]).rpartition(":")[2]} if "class" in value else {}
        entries = {**named, **{key: entry for key, entry in value.items() if key != "class" and entry is not None}}
        return f"{{ {', '.join(f'{key} = {_toml(entry)}' for key, entry in entries.items())} }}" if entries else "{}"
    return f"{value:g}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False, default=str)


def _view(saved: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
    """What a recipe says of a view: a preset, of another size perhaps, or its functions with what differs from their defaults."""
    functions = {str(name): given for name, given in options.items() if isinstance(given, Mapping)}
    sizes = (tuple(size) if isinstance(size := given["size"], list) else size for given in functions.values() if "size" in given)
    for name, size in product(PRESETS, (None, next(sizes, None))):
        with suppress(OptionError, TypeError, ValueError):  # a file may say anything
            if plain(View(name, size=size)) == saved:
                return name if size is None else {"name": name, "size": plain(size)}
    shown = {}
    for name, given in functions.items():
        defaults = (
            {each.name: plain(each.default) for each in fields(OPTIONS[name]) if each.default is not MISSING} if name in OPTIONS else {}
        )
        shown[name] = {key: value for key, value in given.items() if key != "class" and (key not in defaults or value != defaults[key])}
    return shown
