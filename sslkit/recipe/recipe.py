"""A recipe: a TOML file, loaded into a frozen value of checked, typed parts."""

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sslkit.catalog.catalog import Catalog
from sslkit.catalog.discovery import load_catalog
from sslkit.catalog.source_code import SourceCode
from sslkit.contract.blame import blame_of, blaming
from sslkit.contract.class_address import one_line
from sslkit.contract.errors import RecipeError, SslkitError, did_you_mean
from sslkit.contract.events import Observer, warn
from sslkit.contract.images import Dataset
from sslkit.data.subset import whole
from sslkit.recipe.build import build
from sslkit.recipe.code_policy import RecipeCode, code_of, is_in_run, refuse_code
from sslkit.recipe.datasets import Datasets
from sslkit.recipe.schema import RECIPE_KEYS, build_keys
from sslkit.recipe.stages import PretrainStage, Stage, StageParser, training_of
from sslkit.recipe.sweep import expand, merge
from sslkit.recipe.toml import EXTENDS, apply_override, origin, read_recipe
from sslkit.training.handover import checked_notes

MAX_STAGES = 2000
"""Of all variants: each is a folder, and is checked before anything is computed."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything a run needs to know.

    Attributes:
        name: of the recipe and its run folder.
        data: where the images come from, but for stages that have their own.
        stages: in order; those of all variants where there is a sweep, each once.
        paper: published results by ``<stage>.<metric>``, in percent, to stand beside ours.
        margins: named differences between two metrics, ``(<stage>.<metric>, <stage>.<metric>)``.
        observers: that the recipe asks for.
        table: the whole recipe as plain values; every default is filled in, but where there is a sweep.
        variants: the recipe of each variant of a sweep, as plain values with every default filled in; empty without a sweep.
        versions: of the distributions whose classes a stage names, by the stage's key.
        sources: the code behind each stage that is not sslkit's own, by the stage's key: hashes by name.
        code: what is not sslkit's own; no part of what the recipe says.
        notes: what is probably not meant although it is allowed, and what is odd about the code, a sentence each.
    """

    name: str
    data: Dataset
    stages: tuple[Stage, ...]
    paper: Mapping[str, float] = field(default_factory=dict)
    margins: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    observers: tuple[Observer, ...] = ()
    table: Mapping[str, Any] = field(default_factory=dict)
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    versions: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    sources: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    code: RecipeCode = field(default_factory=RecipeCode, compare=False)
    notes: tuple[str, ...] = ()

    def stage(self, key: str) -> Stage:
        """One stage by its key."""
        return next(stage for stage in self.stages if stage.key == key)


def load_recipe(
    path: str | os.PathLike[str],
    overrides: Iterable[str] = (),
    *,
    device: str | None = None,
    catalog: Catalog | None = None,
    allow_code: bool | None = False,
) -> Recipe:
    """Read and check a recipe. Nothing is computed, no pixel is read.

    Args:
        path: the TOML file.
        overrides: ``dotted.key=value``, the value as TOML (bare words are strings).
        device: of every stage, whatever the recipe says; None: as it says.
        catalog: where names are looked up; None: all installed plugins.
        allow_code: import the classes that the recipe names as ``package.module:Class``. Only for recipes you trust. None: unless it lies in
            a run's folder, which others may have made.

    Raises:
        RecipeError: starts with the dotted path of the key at fault.
        PluginError: a class that the recipe names is in a broken plugin.
    """
    table, files = read_recipe(Path(path))
    for override in overrides:
        apply_override(table, override)
    catalog = catalog or load_catalog()
    if allow_code or (allow_code is None and not any(map(is_in_run, files))):
        catalog = replace(catalog, allow_code=True)
    try:
        return parse_recipe(table, catalog, device=device, trust_runs=bool(allow_code))
    except RecipeError as error:
        raise RecipeError(f"{error}{origin(table, files, str(error))}") from error.__cause__


def parse_recipe(table: Mapping[str, Any], catalog: Catalog, *, device: str | None = None, trust_runs: bool | None = None) -> Recipe:
    """Check a recipe as it is written, and build its parts; ``device`` is as in :func:`load_recipe`.

    ``trust_runs`` says whether classes may be imported that only the folder of another run names; None: as the catalog does.
    """
    if extending := [key for key in EXTENDS if key in table]:
        raise RecipeError(f"{extending[0]}: is for a recipe's file", found=table[extending[0]], fix="load_recipe reads files")
    table = _with_device(table, device)
    variants = [variant._replace(table=_with_device(variant.table, device)) for variant in expand(table)]
    refuse_code([variant.table for variant in variants], catalog)
    given = build_keys(RECIPE_KEYS, table, "", catalog)
    for key in ("name", "data"):
        if key not in given:
            raise RecipeError(f"{key}: missing; required")
    datasets, observers = Datasets(catalog), given.get("observers", [])
    data = datasets.build(given["data"], "data", given.get("seed", 0))
    if not isinstance(observers, list):
        raise RecipeError("observers: must be an array of tables", found=observers, allowed='[{ name = "..." }]')
    foreign = catalog if trust_runs is None else replace(catalog, allow_code=trust_runs)
    parsers: list[StageParser] = []
    for variant in variants:
        try:
            parsers.append(StageParser(variant.table, data, datasets, catalog, foreign))
        except RecipeError as error:
            if not variant.labels:
                raise
            raise RecipeError(f"{error} (in the sweep's variant {variant.name})") from error
    stages = merge(variants, [tuple(parser.stages.values()) for parser in parsers])
    if len(stages) > MAX_STAGES:
        what = f"stages: are {len(stages):,} with all variants and snapshots"
        raise RecipeError(what, allowed=f"{MAX_STAGES:,}", fix="write several recipes")
    paper, margins = given.get("paper", {}), given.get("margins", {})
    _check_metrics(paper, margins, [stage.key for stage in stages])
    sources = SourceCode()  # hashed here, right after the import: a file that is edited later is not what runs
    swept, resolved = "sweep" in table, [parser.resolved() for parser in parsers]
    watching = tuple(found for i, entry in enumerate(observers) if (found := _observer(entry, f"observers[{i}]", catalog)))
    code = code_of(resolved, catalog)  # once everything is built, and so imported
    return Recipe(
        name=given["name"],
        data=data,
        stages=stages,
        paper={key: float(value) for key, value in paper.items()},
        margins={label: (first, second) for label, (first, second) in margins.items()},
        observers=watching,
        table=table if swept else {**resolved[0], **{key: dict(table[key]) for key in ("paper", "margins") if key in table}},
        variants={variant.name: own for variant, own in zip(variants, resolved, strict=True)} if swept else {},
        versions={stage.key: _versions(stage, stage.data or data, catalog) for stage in stages},
        sources={
            stage.key: sources.of(*_method(stage), stage.backbone.cls, *stage.backbone.arguments.values(), stage.data or data)
            for stage in stages
        },
        code=code,
        notes=tuple(dict.fromkeys((*_notes(parsers), *code.notes))),
    )


def _with_device(table: Mapping[str, Any], device: str | None) -> dict[str, Any]:
    """The recipe, or a variant of it, with one device for all stages: their own would win otherwise, and so would a sweep's."""
    if device is None:
        return dict(table)
    stages = table.get("stages")
    if isinstance(stages, Mapping):
        own = [name for name, stage in stages.items() if isinstance(stage, Mapping) and "device" in stage]
        bare = {name: {key: value for key, value in stages[name].items() if key != "device"} for name in own}
        table = {**table, "stages": {**stages, **bare}}
    return {**table, "device": device}


def _notes(parsers: Sequence[StageParser]) -> Iterator[str]:
    """What is allowed, but probably not meant."""
    used: dict[str, bool] = {}
    for parser in parsers:
        used |= {path: used.get(path, False) or begins for path, begins in parser.pretrained.items()}
    for path, begins in used.items():
        if not begins:
            yield f'{path}.pretrained: no stage begins with these weights, as "random" ones are never pretrained; set weights = "backbone"'
    for stage in (stage for parser in parsers for stage in parser.stages.values()):
        if isinstance(stage, PretrainStage) and (stage.evaluate_every or 0) > stage.training.epochs:
            yield f"stages.{stage.name}.evaluate_every: {stage.evaluate_every} of {stage.training.epochs} epochs: measured only at the end"
        if found := training_of(stage):
            path, training = f"{found[0]}.schedule", found[1]
            with blaming(path):
                yield from (f"{path}.{note}" for note in checked_notes(training.schedule, training.epochs))
            yield from (f"{found[0]}.{note}" for note in training.rate_notes)


def _observer(entry: object, path: str, catalog: Catalog) -> Observer | None:
    """One observer. Watching a run never takes it down: where it cannot be made, and no option is at fault, it is left out."""
    try:
        return build(Observer, entry, path, catalog)
    except RecipeError as error:
        if error.__cause__ is None or isinstance(error.__cause__, SslkitError):
            raise
        why = str(error)
    except (Exception, SystemExit) as error:
        why = blame_of(error) or f"{path}: {one_line(error)}"
    warn(f"{why}; this observer is left out")
    return None


def _check_metrics(paper: Mapping[str, Any], margins: Mapping[str, Any], stages: Sequence[str]) -> None:
    for key, value in paper.items():
        _check_metric(key, "paper", stages)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise RecipeError(f'paper."{key}": must be a number in percent', found=value)
    for label, pair in margins.items():
        if not isinstance(pair, list) or len(pair) != 2:
            raise RecipeError(f'margins."{label}": must be two metrics', found=pair, allowed='["<stage>.<metric>", "<stage>.<metric>"]')
        for key in pair:
            _check_metric(key, f'margins."{label}"', stages)


def _check_metric(key: Any, path: str, stages: Sequence[str]) -> None:
    """A stage's key may hold dots (``gamma=0.2/probe``), so it is looked for before each of them."""
    if isinstance(key, str) and any(key[:end] in stages for end, letter in enumerate(key) if letter == "."):
        return
    folder, slash, rest = key.rpartition("/") if isinstance(key, str) else ("", "", "")
    given = folder + slash + rest.partition(".")[0]
    raise RecipeError(
        f"{path}: not a metric of a stage",
        found=key,
        allowed=[f"{stage}.<metric>" for stage in stages],
        fix="" if given in stages else did_you_mean(given, stages),
    )


def _method(stage: Stage) -> tuple[object, ...]:
    """What decides a stage's outcome beside the network and the data."""
    return (stage.task, stage.training) if isinstance(stage, PretrainStage) else (stage.evaluator,)


def _versions(stage: Stage, data: Dataset, catalog: Catalog) -> dict[str, str]:
    owners = [catalog.owner(cls) for cls in (type(_method(stage)[0]), stage.backbone.cls, type(whole(data)))]
    return {owner.distribution: owner.version for owner in owners if owner is not None}
