"""The stages of a recipe: from their tables and back, where each may take its weights from, and what their keys mean."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from sslkit.catalog.catalog import Catalog
from sslkit.contract.errors import RecipeError, did_you_mean
from sslkit.contract.evaluator import Evaluator
from sslkit.contract.images import Dataset
from sslkit.contract.objective import PretextTask
from sslkit.contract.runtime import Runtime
from sslkit.recipe.build import build, construct, refusing
from sslkit.recipe.datasets import Datasets, describe_data, stage_table
from sslkit.recipe.describe import BackboneOptions, build_backbone_options, describe
from sslkit.recipe.schema import EVALUATE_KEYS, NAME, PRETRAIN_KEYS, RECIPE_KEYS, RUNTIME_KEYS, TRAINING_KEYS, build_keys
from sslkit.recipe.weights import Source, find_source, is_outside, saved_network
from sslkit.training.options import TrainingOptions, check_epochs

RANDOM = "random"
"""Untrained weights, whatever ``[backbone]`` says of pretrained ones."""

AS_BUILT = "backbone"
"""The weights that ``[backbone]`` builds, pretrained ones where it asks for them."""

BEGINNINGS = (RANDOM, AS_BUILT)
"""The weights that no earlier stage, run or file provides."""

OUTSIDE = ("run:PATH#stage", "file:PATH")
"""The weights that a run or a file provides, as messages say it."""

EACH = "each"
"""``<stage>@each``: every snapshot of a stage, one after the other."""

_EPOCH = re.compile(r"epoch=(\d+)")


@dataclass(frozen=True, kw_only=True)
class _Stage:
    """What every stage has."""

    name: str  # what the recipe calls it; part of its random seeds
    key: str  # unique in the recipe, and its folder: the name, below the variant's where a sweep makes several stages of it
    seed: int
    weights: str  # the key of an earlier stage, ``random``, ``backbone``, ``run:PATH#stage`` or ``file:PATH``
    snapshot: int | None  # the epoch of the earlier stage whose network is taken; None: the final one
    backbone: BackboneOptions  # the recipe's, that of the earlier stage, or the stage's own
    runtime: Runtime
    data: Dataset | None = None  # its own; None: the recipe's
    source: Source | None = None  # of weights from another run, or a file

    @property
    def earlier(self) -> str | None:
        """The key of the stage that left the weights; None where no stage of this recipe did."""
        return None if self.weights in BEGINNINGS or self.source else self.weights


@dataclass(frozen=True, kw_only=True)
class PretrainStage(_Stage):
    """A stage that pretrains."""

    task: PretextTask
    training: TrainingOptions
    evaluate_every: int | None  # epochs between measurements on held-out images; None: ten times
    snapshot_epochs: tuple[int, ...] = ()  # after which the network is kept too
    quality_epochs: tuple[int, ...] | None = None  # after which its quality is measured; None: at most ten times


@dataclass(frozen=True, kw_only=True)
class EvaluateStage(_Stage):
    """A stage that evaluates."""

    evaluator: Evaluator


Stage = PretrainStage | EvaluateStage


class StageParser:
    """The stages of one recipe without a sweep, or of one variant; what it has in common with others was checked before."""

    def __init__(self, table: Mapping[str, Any], data: Dataset, datasets: Datasets, catalog: Catalog, foreign: Catalog) -> None:
        self._table, self._datasets, self._catalog, self._foreign = table, datasets, catalog, foreign
        given = build_keys(RECIPE_KEYS, table, "", catalog)
        self._seed = given.get("seed", 0)
        self._common = data  # of the recipe, whose variants may draw other parts of it
        self._data = datasets.build(given["data"], "data", self._seed)
        self._runtime = {key: value for key, value in given.items() if key in RUNTIME_KEYS}
        with refusing(""):  # before a stage is to blame
            construct(Runtime, (), self._runtime)
        self._named: dict[str, Stage] = {}
        self.stages: dict[str, Stage] = {}  # by key
        # By the dotted path of a backbone that asks for pretrained weights: whether any stage begins with them.
        self.pretrained: dict[str, bool] = {}
        if "stages" not in given:
            raise RecipeError("stages: missing; required")
        if not given["stages"]:
            raise RecipeError("stages: is empty", fix="add a [stages.pretrain] table")
        for name, stage in given["stages"].items():
            path = f"stages.{name}"
            for parsed in self._parse(build(NAME, name, path, catalog), build(Mapping[str, Any], stage, path, catalog), path):
                self.stages[parsed.key] = self._named[name] = parsed

    def resolved(self) -> dict[str, Any]:
        """The recipe with every default filled in, as plain values: loading it gives equal stages."""
        own = {key: self._table[key] for key in RUNTIME_KEYS if key in self._table}
        table = {"name": self._table["name"], "seed": self._seed, **own, "data": describe_data(self._data, self._catalog)}
        if "observers" in self._table:
            table["observers"] = self._table["observers"]
        return {**table, "stages": {name: self._resolved_stage(name, stage) for name, stage in self._named.items()}}

    def _parse(self, name: str, table: Mapping[str, Any], path: str) -> Iterator[Stage]:
        """A stage; one that takes each snapshot of another becomes a stage for each."""
        if name in ("tables", "variants"):
            raise RecipeError(f"{path}: is a folder that every run has", found=name, fix="choose another name")
        if name == AS_BUILT:
            raise RecipeError(f"{path}: in weights, this word means what [backbone] builds", fix="choose another name")
        if "task" in table and "evaluator" in table:
            raise RecipeError(f"{path}: has a task and an evaluator", allowed="one of them", fix="make two stages of it")
        if "task" not in table and "evaluator" not in table:
            raise RecipeError(f"{path}: needs a task, to pretrain, or an evaluator", found=sorted(table))
        if "task" in table:
            given = build_keys(PRETRAIN_KEYS, table, path, self._catalog)
            with refusing(path):
                training = construct(TrainingOptions, (), {key: value for key, value in given.items() if key in TRAINING_KEYS})
                epochs = {
                    option: tuple(check_epochs(option, given[option], training.epochs))
                    for option in ("snapshot_epochs", "quality_epochs")
                    if option in given
                }
            stage = partial(PretrainStage, task=given["task"], training=training, evaluate_every=given.get("evaluate_every"), **epochs)
        else:
            fixes = {key: f"write {path}.evaluator.{key}" for key in TRAINING_KEYS}
            given = build_keys(EVALUATE_KEYS, table, path, self._catalog, fixes)
            stage = partial(EvaluateStage, evaluator=given["evaluator"])
            if "weights" not in table:
                fix = 'name an earlier stage, "random", "backbone", "run:PATH#stage" or "file:PATH"'
                raise RecipeError(f"{path}.weights: missing; required", fix=fix)
        with refusing(path):
            runtime = construct(Runtime, (), self._runtime | {key: value for key, value in given.items() if key in RUNTIME_KEYS})
        weights, snapshots = self._weights(name, given.get("weights", RANDOM))
        allow_missing, source, record = given.get("allow_missing", ()), None, {}
        if is_outside(weights):
            source, record = find_source(weights, f"{path}.weights", allow_missing)
        elif allow_missing:
            raise RecipeError(f"{path}.allow_missing: is for weights from a file", found=list(allow_missing), fix="leave it out")
        if "evaluator" in given and given["evaluator"].from_scratch and weights != RANDOM:
            raise RecipeError(f"{path}.weights: this evaluator trains from scratch", found=given["weights"], allowed='"random"')
        backbone = self._backbone(table, weights, record, path)
        data = self._data
        if "data" in given:
            data = self._datasets.build(stage_table(given["data"], self._table["data"]), f"{path}.data", self._seed)
        stage = partial(stage, data=None if data is self._common else data, source=source)
        for snapshot in snapshots:
            key = f"{name}/epoch={snapshot}" if str(given.get("weights")).endswith(f"@{EACH}") else name
            yield stage(name=name, key=key, seed=self._seed, weights=weights, snapshot=snapshot, backbone=backbone, runtime=runtime)

    def _weights(self, name: str, weights: Any) -> tuple[str, tuple[int | None, ...]]:
        """``random``, ``backbone``, or an earlier stage that leaves a backbone, and the snapshots to take of it: None is the final network."""
        path = f"stages.{name}.weights"
        if weights in BEGINNINGS or is_outside(weights):
            return weights, (None,)
        tables, earlier = self._table["stages"], self._named
        stage, at, snapshot = weights.partition("@") if isinstance(weights, str) else (weights, "", "")
        if not isinstance(stage, str) or stage not in tables:
            known = [*earlier, *BEGINNINGS]
            fix = did_you_mean(str(stage), known) or ("for a file write 'file:PATH'" if re.search(r"[/\\.]", str(weights)) else "")
            raise RecipeError(f"{path}: no such stage", found=weights, allowed=[*known, *OUTSIDE], fix=fix)
        if stage not in earlier:
            if cycle := find_cycle(name, tables):
                raise RecipeError(f"{path}: stages wait for each other in a cycle", found=" -> ".join(cycle))
            raise RecipeError(f"{path}: must be an earlier stage", found=weights, fix=f"move [stages.{stage}] above [stages.{name}]")
        if not _leaves_backbone(earlier[stage]):
            exporting = [stage.name for stage in earlier.values() if _leaves_backbone(stage)]
            raise RecipeError(f"{path}: that stage leaves no backbone", found=weights, allowed=[*exporting, *BEGINNINGS, *OUTSIDE])
        kept = begun.snapshot_epochs if isinstance(begun := earlier[stage], PretrainStage) else ()
        if not at or (snapshot == EACH and kept):
            return stage, kept if at else (None,)
        if snapshot.isdecimal() and int(snapshot) in kept:
            return stage, (int(snapshot),)
        raise RecipeError(
            f"{path}: that stage keeps no such snapshot",
            found=weights,
            allowed=[f"{stage}@{epoch}" for epoch in (*kept, *((EACH,) if kept else ()))] or stage,
            fix="" if kept else f"give [stages.{stage}] snapshot_epochs",
        )

    def _backbone(self, table: Mapping[str, Any], weights: str, record: Mapping[str, Any], path: str) -> BackboneOptions:
        """The stage's network; ``record`` describes that of another run, if the stage begins with its weights."""
        if weights not in BEGINNINGS and not is_outside(weights):
            if "backbone" in table:
                fix = 'leave it out, or set weights = "random"'
                raise RecipeError(f"{path}.backbone: the backbone comes from stage {weights!r}", fix=fix)
            return self._named[weights].backbone
        common, where = self._table.get("backbone"), "backbone"
        if "backbone" in table:
            own, where = table["backbone"], f"{path}.backbone"
            # [stages.x.backbone] overrides single options of [backbone], unless it names another class.
            if isinstance(own, Mapping) and isinstance(common, Mapping) and own.get("name", common.get("name")) == common.get("name"):
                own = {**common, **own}
            common = own
        elif common is None and not record:
            raise RecipeError("backbone: missing; required", fix='for example backbone = { name = "nin" }')
        options = None if common is None else build_backbone_options(common, where, self._catalog)
        if options is not None and options.pretrained:
            self.pretrained[where] = self.pretrained.get(where, False) or weights == AS_BUILT
        if record:
            return saved_network(record, options, f"{path}.weights", self._foreign)
        assert options is not None
        return options if weights == AS_BUILT else options.without_downloads()

    def _resolved_stage(self, name: str, stage: Stage) -> dict[str, Any]:
        given = self._table["stages"][name]
        table: dict[str, Any] = {key: given[key] for key in RUNTIME_KEYS if key in given}
        if stage.earlier is None:
            table["backbone"] = {"name": stage.backbone.name, **stage.backbone.options}
        table["weights"] = given.get("weights", RANDOM)
        if "allow_missing" in given:
            table["allow_missing"] = list(given["allow_missing"])
        if "data" in given:
            table["data"] = describe_data(stage.data or self._common, self._catalog)
        if isinstance(stage, EvaluateStage):
            return {**table, "evaluator": describe(stage.evaluator, self._catalog)}
        if stage.evaluate_every is not None:
            table["evaluate_every"] = stage.evaluate_every
        if stage.snapshot_epochs:
            table["snapshot_epochs"] = list(stage.snapshot_epochs)
        if stage.quality_epochs is not None:
            table["quality_epochs"] = list(stage.quality_epochs)
        return {**table, "task": describe(stage.task, self._catalog), **describe(stage.training, self._catalog)}


def find_cycle(start: str, tables: Mapping[str, Any]) -> list[str]:
    """The stages from ``start`` back to itself along ``weights``; empty if there is no way back."""
    walk = [start]
    while True:
        table = tables[walk[-1]]
        following = table.get("weights") if isinstance(table, Mapping) else None
        following = following.partition("@")[0] if isinstance(following, str) else None
        if following is None or following not in tables or following in walk[1:]:
            return []
        walk.append(following)
        if following == start:
            return walk


def _leaves_backbone(stage: Stage) -> bool:
    """Whether a stage leaves one network: one that is run on each snapshot of another leaves several."""
    return stage.key == stage.name and (isinstance(stage, PretrainStage) or stage.evaluator.exports_backbone)


def training_of(stage: Stage) -> tuple[str, TrainingOptions] | None:
    """How a stage trains, and the dotted path of the table that says so; None where it trains nothing."""
    if isinstance(stage, PretrainStage):
        return f"stages.{stage.name}", stage.training
    return (f"stages.{stage.name}.evaluator", stage.evaluator) if isinstance(stage.evaluator, TrainingOptions) else None


class StageKey(NamedTuple):
    """A stage's key taken apart: ``blocks3/object/epoch=10`` is the stage ``object`` of a sweep's variant, on a snapshot."""

    variant: str  # empty for a stage that all variants share
    name: str
    epoch: int | None = None  # of the snapshot that it measures; None for a final network

    @property
    def series(self) -> str:
        """The key without the epoch: what the stages on one network's snapshots have in common."""
        return f"{self.variant}/{self.name}" if self.variant else self.name


def parse_key(key: str) -> StageKey:
    """Take a key apart."""
    rest, _, last = key.rpartition("/")
    epoch = _EPOCH.fullmatch(last)
    if epoch is None or not rest:
        return StageKey(rest, last)
    variant, _, name = rest.rpartition("/")
    return StageKey(variant, name, int(epoch[1]))


def labels(keys: Iterable[str]) -> dict[str, str]:
    """What distinguishes several stages: the variant if all have one name, else the whole key. Snapshots are not distinguished."""
    parsed = {key: parse_key(key) for key in keys}
    one_name = len({stage.name for stage in parsed.values()}) == 1
    return {key: stage.variant if one_name and stage.variant else stage.series for key, stage in parsed.items()}
