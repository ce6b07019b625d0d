"""The stages of a recipe: checked tables to typed values, and back."""

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from sslkit.catalog.catalog import Catalog
from sslkit.contract.errors import OptionError, RecipeError
from sslkit.contract.evaluator import Evaluator
from sslkit.contract.images import Dataset
from sslkit.contract.objective import PretextTask
from sslkit.contract.runtime import Runtime
from sslkit.recipe.build import build
from sslkit.recipe.describe import BackboneOptions, build_backbone_options, describe
from sslkit.recipe.stages import AS_BUILT, BEGINNINGS, RANDOM, EvaluateStage, PretrainStage, Stage, Weights, check_weights
from sslkit.recipe.toml import as_integer, as_name, as_table, check_keys, required
from sslkit.training.options import TrainingOptions, check_snapshots

RUNTIME_KEYS = tuple(option.name for option in fields(Runtime))
TRAINING_KEYS = tuple(option.name for option in fields(TrainingOptions))
_COMMON_KEYS = ("weights", "backbone", *RUNTIME_KEYS)
PRETRAIN_KEYS = ("task", "evaluate_every", "snapshot_epochs", *TRAINING_KEYS, *_COMMON_KEYS)
EVALUATE_KEYS = ("evaluator", *_COMMON_KEYS)


_TAKEN = ("tables", "variants")
"""Folders that a run makes beside those of its stages."""


class StageParser:
    """The stages of one recipe without a sweep, or of one variant.

    Attributes:
        stages: by key.
        pretrained: whether any stage begins with the weights of a backbone that asks for pretrained ones, by its dotted path.
    """

    def __init__(self, table: Mapping[str, Any], data: Dataset, catalog: Catalog) -> None:
        self._table = table
        self._data = data
        self._catalog = catalog
        self._seed = as_integer(table.get("seed", 0), "seed", 0)
        self._named: dict[str, Stage] = {}
        self.stages: dict[str, Stage] = {}
        self.pretrained: dict[str, bool] = {}
        stages = as_table(required(table, "stages", ""), "stages")
        if not stages:
            raise RecipeError("stages: is empty", fix="add a [stages.pretrain] table")
        for name, stage in stages.items():
            self._add(as_name(name, f"stages.{name}"), as_table(stage, f"stages.{name}"))

    def resolved(self) -> dict[str, Any]:
        """The recipe with every default filled in, as plain values: loading it gives equal stages."""
        own = {key: self._table[key] for key in RUNTIME_KEYS if key in self._table}
        table = {"name": self._table["name"], "seed": self._seed, **own, "data": describe(self._data, self._catalog)}
        if "observers" in self._table:
            table["observers"] = self._table["observers"]
        return {**table, "stages": {name: self._resolved_stage(name, stage) for name, stage in self._named.items()}}

    def _add(self, name: str, table: Mapping[str, Any]) -> None:
        """Parse a stage; one that takes each snapshot of another becomes a stage for each."""
        path = f"stages.{name}"
        if name in _TAKEN:
            raise RecipeError(f"{path}: is a folder that every run has", found=name, fix="choose another name")
        if name == AS_BUILT:
            raise RecipeError(f"{path}: in weights, this word means what [backbone] builds", fix="choose another name")
        if "task" in table and "evaluator" in table:
            raise RecipeError(f"{path}: has a task and an evaluator", allowed="one of them", fix="make two stages of it")
        if "task" not in table and "evaluator" not in table:
            raise RecipeError(f"{path}: needs a task, to pretrain, or an evaluator", found=sorted(table))
        inside = "" if "task" in table else f"{path}.evaluator"
        check_keys(
            table, EVALUATE_KEYS if inside else PRETRAIN_KEYS, path, elsewhere=dict.fromkeys(TRAINING_KEYS, inside) if inside else {}
        )
        parse = self._pretrain_stage if "task" in table else self._evaluate_stage
        for stage in parse(name, table, path):
            self.stages[stage.key] = self._named[name] = stage

    def _pretrain_stage(self, name: str, table: Mapping[str, Any], path: str) -> Iterator[Stage]:
        runtime = self._runtime(table, path)
        task = build(PretextTask, table["task"], f"{path}.task", self._catalog)
        weights = check_weights(name, table.get("weights", RANDOM), self._table["stages"], self._named)
        training = build(TrainingOptions, {key: table[key] for key in TRAINING_KEYS if key in table}, path, self._catalog)
        given = table.get("evaluate_every")
        evaluate_every = None if given is None else as_integer(given, f"{path}.evaluate_every", 1)
        for beginning in self._beginnings(name, weights, table, path):
            yield PretrainStage(
                **beginning,
                runtime=runtime,
                task=task,
                training=training,
                evaluate_every=evaluate_every,
                snapshot_epochs=_epochs(table.get("snapshot_epochs", []), training, path),
            )

    def _evaluate_stage(self, name: str, table: Mapping[str, Any], path: str) -> Iterator[Stage]:
        runtime = self._runtime(table, path)
        evaluator = build(Evaluator, table["evaluator"], f"{path}.evaluator", self._catalog)
        given = required(table, "weights", path, fix='name an earlier stage, "random" or "backbone"')
        weights = check_weights(name, given, self._table["stages"], self._named)
        if evaluator.from_scratch and weights.stage != RANDOM:
            raise RecipeError(f"{path}.weights: this evaluator trains from scratch", found=given, allowed='"random"')
        for beginning in self._beginnings(name, weights, table, path):
            yield EvaluateStage(**beginning, runtime=runtime, evaluator=evaluator)

    def _beginnings(self, name: str, weights: Weights, table: Mapping[str, Any], path: str) -> Iterator[dict[str, Any]]:
        """What a stage is called and begins with, once for each snapshot that it takes."""
        backbone = self._backbone(table, weights.stage, path)
        for snapshot in weights.snapshots:
            yield {
                "name": name,
                "key": f"{name}/epoch={snapshot}" if weights.each else name,
                "seed": self._seed,
                "weights": weights.stage,
                "snapshot": snapshot,
                "backbone": backbone,
            }

    def _backbone(self, table: Mapping[str, Any], weights: str, path: str) -> BackboneOptions:
        if weights not in BEGINNINGS:
            if "backbone" in table:
                raise RecipeError(
                    f"{path}.backbone: the backbone comes from stage {weights!r}", fix='leave it out, or set weights = "random"'
                )
            return self._named[weights].backbone
        options = self._backbone_options(table, path)
        if options.pretrained:
            self.pretrained[options.path] = self.pretrained.get(options.path, False) or weights == AS_BUILT
        return options.without_downloads() if weights == RANDOM else options

    def _backbone_options(self, table: Mapping[str, Any], path: str) -> BackboneOptions:
        """The recipe's backbone with what the stage changes of it."""
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
        common = {key: self._table[key] for key in RUNTIME_KEYS if key in self._table}
        build(Runtime, common, "", self._catalog)
        return build(Runtime, {**common, **{key: table[key] for key in RUNTIME_KEYS if key in table}}, path, self._catalog)

    def _resolved_stage(self, name: str, stage: Stage) -> dict[str, Any]:
        given = self._table["stages"][name]
        table: dict[str, Any] = {key: given[key] for key in RUNTIME_KEYS if key in given}
        if stage.weights in BEGINNINGS:
            table["backbone"] = {"name": stage.backbone.name, **stage.backbone.options}
        table["weights"] = given.get("weights", RANDOM)
        if isinstance(stage, EvaluateStage):
            return {**table, "evaluator": describe(stage.evaluator, self._catalog)}
        if stage.evaluate_every is not None:
            table["evaluate_every"] = stage.evaluate_every
        if stage.snapshot_epochs:
            table["snapshot_epochs"] = list(stage.snapshot_epochs)
        return {**table, "task": describe(stage.task, self._catalog), **describe(stage.training, self._catalog)}


def _epochs(value: Any, training: TrainingOptions, path: str) -> tuple[int, ...]:
    if not isinstance(value, list) or any(isinstance(epoch, bool) or not isinstance(epoch, int) for epoch in value):
        raise RecipeError(f"{path}.snapshot_epochs: must be an array of integers", found=value)
    try:
        return tuple(check_snapshots(value, training.epochs))
    except OptionError as error:
        raise RecipeError(f"{path}.{error}") from error
