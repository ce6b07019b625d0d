"""A recipe: a TOML file, loaded into a frozen value of checked, typed parts."""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from sslkit.engine.device import Runtime
from sslkit.engine.training import Training
from sslkit.errors import RecipeError, did_you_mean
from sslkit.events import Observer
from sslkit.interfaces import Dataset, Evaluator, PretextTask
from sslkit.options import BackboneOptions, build, build_backbone_options, describe
from sslkit.plugins import Catalog, load_catalog
from sslkit.recipe_stages import RANDOM, EvaluateStage, PretrainStage, Stage, check_weights
from sslkit.recipe_table import apply_override, read_table

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_RUNTIME_KEYS = tuple(option.name for option in fields(Runtime))
_TRAINING_KEYS = tuple(option.name for option in fields(Training))
_TOP_KEYS = ("name", "seed", "data", "backbone", "stages", "paper", "margins", "observers", *_RUNTIME_KEYS)
_COMMON_STAGE_KEYS = ("weights", "backbone", *_RUNTIME_KEYS)
_PRETRAIN_KEYS = ("task", "evaluate_every", *_TRAINING_KEYS, *_COMMON_STAGE_KEYS)
_EVALUATE_KEYS = ("evaluator", *_COMMON_STAGE_KEYS)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything a run needs to know.

    Attributes:
        name: of the recipe and its run folder.
        seed: of all randomness.
        data: where the images come from.
        stages: in order.
        paper: published figures by ``<stage>.<metric>``, in percent, to stand beside ours.
        margins: named differences between two metrics, ``(<stage>.<metric>, <stage>.<metric>)``.
        observers: that the recipe asks for.
        table: the whole recipe as plain values, every default filled in.
        versions: of the distributions whose classes it names.
    """

    name: str
    seed: int
    data: Dataset
    stages: tuple[Stage, ...]
    paper: Mapping[str, float] = field(default_factory=dict)
    margins: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    observers: tuple[Observer, ...] = ()
    table: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def stage(self, name: str) -> Stage:
        """One stage by name."""
        return next(stage for stage in self.stages if stage.name == name)


def load_recipe(path: str | os.PathLike[str], overrides: Iterable[str] = (), *, catalog: Catalog | None = None) -> Recipe:
    """Read and check a recipe. Nothing is computed, no pixel is read.

    Args:
        path: the TOML file.
        overrides: ``dotted.key=value``, the value as TOML (bare words are strings).
        catalog: where names are looked up; None: all installed plugins.

    Raises:
        RecipeError: starts with the dotted path of the key at fault.
        PluginError: a class that the recipe names is in a broken plugin.
    """
    table = read_table(Path(path))
    for override in overrides:
        apply_override(table, override)
    return parse_recipe(table, catalog or load_catalog())


def parse_recipe(table: Mapping[str, Any], catalog: Catalog) -> Recipe:
    """Check a recipe's table and build its parts.

    Raises:
        RecipeError: starts with the dotted path of the key at fault.
    """
    return _Parser(table, catalog).recipe()


class _Parser:
    """One recipe's table on the way to a :class:`Recipe`."""

    def __init__(self, table: Mapping[str, Any], catalog: Catalog) -> None:
        self._table = table
        self._catalog = catalog
        self._stages: dict[str, Stage] = {}

    def recipe(self) -> Recipe:
        table = self._table
        _check_keys(table, _TOP_KEYS, "")
        name = _name(_required(table, "name", ""), "name")
        seed = _integer(table.get("seed", 0), "seed")
        data = build(Dataset, _required(table, "data", ""), "data", self._catalog)
        stages = _table(_required(table, "stages", ""), "stages")
        if not stages:
            raise RecipeError("stages: is empty", fix="add a [stages.pretrain] table")
        for stage_name, stage in stages.items():
            self._stages[stage_name] = self._stage(_name(stage_name, f"stages.{stage_name}"), _table(stage, f"stages.{stage_name}"))
        observers = table.get("observers", [])
        if not isinstance(observers, list):
            raise RecipeError("observers: must be an array of tables", found=observers, allowed='[{ name = "..." }]')
        return Recipe(
            name=name,
            seed=seed,
            data=data,
            stages=tuple(self._stages.values()),
            paper=self._paper(),
            margins=self._margins(),
            observers=tuple(build(Observer, entry, f"observers[{i}]", self._catalog) for i, entry in enumerate(observers)),
            table=self._resolved(name, seed, data),
            versions={stage.name: self._versions(stage, data) for stage in self._stages.values()},
        )

    def _stage(self, name: str, table: Mapping[str, Any]) -> Stage:
        path = f"stages.{name}"
        if "task" in table and "evaluator" in table:
            raise RecipeError(f"{path}: has a task and an evaluator", allowed="one of them", fix="make two stages of it")
        if "task" not in table and "evaluator" not in table:
            raise RecipeError(f"{path}: needs a task, to pretrain, or an evaluator", found=sorted(table))
        _check_keys(table, _PRETRAIN_KEYS if "task" in table else _EVALUATE_KEYS, path)
        runtime = self._runtime(table, path)
        if "task" in table:
            task = build(PretextTask, table["task"], f"{path}.task", self._catalog)
            weights = check_weights(name, table.get("weights", RANDOM), self._table["stages"], self._stages)
            return PretrainStage(
                name=name,
                weights=weights,
                backbone=self._backbone(table, weights, path),
                runtime=runtime,
                task=task,
                training=build(Training, {key: table[key] for key in _TRAINING_KEYS if key in table}, path, self._catalog),
                evaluate_every=_positive(table.get("evaluate_every"), f"{path}.evaluate_every"),
            )
        evaluator = build(Evaluator, table["evaluator"], f"{path}.evaluator", self._catalog)
        weights = check_weights(
            name, _required(table, "weights", path, fix='name an earlier stage, or "random"'), self._table["stages"], self._stages
        )
        if evaluator.from_scratch and weights != RANDOM:
            raise RecipeError(f"{path}.weights: this evaluator trains from scratch", found=weights, allowed='"random"')
        return EvaluateStage(
            name=name, weights=weights, backbone=self._backbone(table, weights, path), runtime=runtime, evaluator=evaluator
        )

    def _backbone(self, table: Mapping[str, Any], weights: str, path: str) -> BackboneOptions:
        if weights != RANDOM:
            if "backbone" in table:
                raise RecipeError(
                    f"{path}.backbone: the backbone comes from stage {weights!r}", fix='leave it out, or set weights = "random"'
                )
            return self._stages[weights].backbone
        common = self._table.get("backbone")
        if "backbone" not in table:
            if common is None:
                raise RecipeError("backbone: missing; required", fix='for example backbone = { name = "nin" }')
            return build_backbone_options(common, "backbone", self._catalog)
        own = table["backbone"]
        # [stages.x.backbone] overrides single options of [backbone], unless it names another class.
        if isinstance(own, Mapping) and isinstance(common, Mapping) and own.get("name", common.get("name")) == common.get("name"):
            own = {**common, **own}
        return build_backbone_options(own, f"{path}.backbone", self._catalog)

    def _runtime(self, table: Mapping[str, Any], path: str) -> Runtime:
        """The top level's settings, then the stage's own. The first pass gives the top level's errors their own path."""
        common = {key: self._table[key] for key in _RUNTIME_KEYS if key in self._table}
        build(Runtime, common, "", self._catalog)
        return build(Runtime, {**common, **{key: table[key] for key in _RUNTIME_KEYS if key in table}}, path, self._catalog)

    def _paper(self) -> dict[str, float]:
        figures = _table(self._table.get("paper", {}), "paper")
        for key, value in figures.items():
            self._check_metric(key, "paper")
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise RecipeError(f'paper."{key}": must be a number in percent', found=value)
        return {key: float(value) for key, value in figures.items()}

    def _margins(self) -> dict[str, tuple[str, str]]:
        margins = _table(self._table.get("margins", {}), "margins")
        for label, pair in margins.items():
            if not isinstance(pair, list) or len(pair) != 2:
                raise RecipeError(f'margins."{label}": must be two metrics', found=pair, allowed='["<stage>.<metric>", "<stage>.<metric>"]')
            for key in pair:
                self._check_metric(key, f'margins."{label}"')
        return {label: (pair[0], pair[1]) for label, pair in margins.items()}

    def _check_metric(self, key: Any, path: str) -> None:
        stage = key.partition(".")[0] if isinstance(key, str) else ""
        if stage not in self._stages or key == stage:
            raise RecipeError(
                f"{path}: not a metric of a stage",
                found=key,
                allowed=[f"{name}.<metric>" for name in self._stages],
                fix="" if stage in self._stages else did_you_mean(stage, self._stages),
            )

    def _versions(self, stage: Stage, data: Dataset) -> dict[str, str]:
        """The plugins whose code decides a stage's outcome."""
        method = type(stage.task) if isinstance(stage, PretrainStage) else type(stage.evaluator)
        owners = [self._catalog.owner(cls) for cls in (method, stage.backbone.cls, type(data))]
        return {owner.distribution: owner.version for owner in owners if owner is not None}

    def _resolved(self, name: str, seed: int, data: Dataset) -> dict[str, Any]:
        """The recipe with every default filled in, as plain values: loading it gives an equal recipe."""
        table = {"name": name, "seed": seed, **{key: self._table[key] for key in _RUNTIME_KEYS if key in self._table}}
        table["data"] = describe(data, self._catalog)
        if "observers" in self._table:
            table["observers"] = self._table["observers"]
        table["stages"] = {stage.name: self._resolved_stage(stage) for stage in self._stages.values()}
        return {**table, **{key: dict(self._table[key]) for key in ("paper", "margins") if key in self._table}}

    def _resolved_stage(self, stage: Stage) -> dict[str, Any]:
        given = self._table["stages"][stage.name]
        table: dict[str, Any] = {key: given[key] for key in _RUNTIME_KEYS if key in given}
        if stage.weights == RANDOM:
            table["backbone"] = {"name": stage.backbone.name, **stage.backbone.options}
        table["weights"] = stage.weights
        if isinstance(stage, EvaluateStage):
            return {**table, "evaluator": describe(stage.evaluator, self._catalog)}
        if stage.evaluate_every is not None:
            table["evaluate_every"] = stage.evaluate_every
        return {**table, "task": describe(stage.task, self._catalog), **describe(stage.training, self._catalog)}


def _check_keys(table: Mapping[str, Any], allowed: Iterable[str], path: str) -> None:
    for key in table:
        if key not in allowed:
            dotted = f"{path}.{key}" if path else key
            inside = "evaluator" in allowed and key in _TRAINING_KEYS
            raise RecipeError(
                f"{dotted}: unknown key", allowed=allowed, fix=f"write {path}.evaluator.{key}" if inside else did_you_mean(key, allowed)
            )


def _required(table: Mapping[str, Any], key: str, path: str, fix: str = "") -> Any:
    if key not in table:
        raise RecipeError(f"{path}.{key}: missing; required" if path else f"{key}: missing; required", fix=fix)
    return table[key]


def _table(value: Any, path: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise RecipeError(f"{path}: must be a table", found=value)
    return value


def _name(value: Any, path: str) -> str:
    """A name that is also a folder's, on every system."""
    if not isinstance(value, str) or not _NAME.fullmatch(value) or value == RANDOM or len(value) > 100:
        raise RecipeError(f"{path}: not a name", found=value, allowed="letters, digits, _ and -, but not 'random'")
    return value


def _integer(value: Any, path: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise RecipeError(f"{path}: must be an integer, 0 or more", found=value)
    return value


def _positive(value: Any, path: str) -> int | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise RecipeError(f"{path}: must be an integer, 1 or more", found=value)
    return value
