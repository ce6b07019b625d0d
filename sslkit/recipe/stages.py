"""The stages of a recipe, what their keys mean, and where each may take its weights from."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from sslkit.contract.errors import RecipeError, did_you_mean
from sslkit.contract.evaluator import Evaluator
from sslkit.contract.objective import PretextTask
from sslkit.contract.runtime import Runtime
from sslkit.recipe.describe import BackboneOptions
from sslkit.training.options import TrainingOptions

RANDOM = "random"
"""Untrained weights, whatever ``[backbone]`` says of pretrained ones."""

AS_BUILT = "backbone"
"""The weights that ``[backbone]`` builds, pretrained ones where it asks for them."""

BEGINNINGS = (RANDOM, AS_BUILT)
"""What a stage may begin with that no earlier stage left."""

EACH = "each"
"""``<stage>@each``: every snapshot of a stage, one after the other."""

_EPOCH = re.compile(r"epoch=(\d+)")


@dataclass(frozen=True, kw_only=True)
class _Stage:
    """What every stage has.

    Attributes:
        name: what the recipe calls it; part of its random seeds.
        key: unique in the recipe, and its folder: the name, below the variant's where a sweep makes several stages of it.
        seed: of all randomness.
        weights: the key of an earlier stage, ``random`` or ``backbone``.
        snapshot: the epoch of that stage whose network is taken; None: the final one.
        backbone: how to build the network: the recipe's, that of the earlier stage, or the stage's own.
        runtime: device, precision and the like.
    """

    name: str
    key: str
    seed: int
    weights: str
    snapshot: int | None
    backbone: BackboneOptions
    runtime: Runtime


@dataclass(frozen=True, kw_only=True)
class PretrainStage(_Stage):
    """A stage that pretrains.

    Attributes:
        task: the pretext task.
        training: epochs, batch size, optimizer, schedule, augmentation.
        evaluate_every: epochs between measurements on held-out images; None: ten times.
        snapshot_epochs: after which the network is kept too.
    """

    task: PretextTask
    training: TrainingOptions
    evaluate_every: int | None
    snapshot_epochs: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class EvaluateStage(_Stage):
    """A stage that evaluates.

    Attributes:
        evaluator: what to measure with.
    """

    evaluator: Evaluator


Stage = PretrainStage | EvaluateStage


class Weights(NamedTuple):
    """Where a stage's network comes from.

    Attributes:
        stage: an earlier stage, ``random`` or ``backbone``.
        snapshots: the epochs to take of it, a stage each; (None,) for the final network.
        each: the recipe asks for every snapshot there is.
    """

    stage: str = RANDOM
    snapshots: tuple[int | None, ...] = (None,)
    each: bool = False


def check_weights(name: str, weights: object, tables: Mapping[str, Any], earlier: Mapping[str, Stage]) -> Weights:
    """Accept ``random``, ``backbone``, an earlier stage that leaves a backbone, ``<stage>@<epoch>`` or ``<stage>@each``.

    Args:
        name: of the stage.
        weights: what its table says.
        tables: all stages of the recipe as they are written.
        earlier: the stages above this one.

    Raises:
        RecipeError: it names something else; the message says what is meant or where the cycle is.
    """
    path = f"stages.{name}.weights"
    if weights in BEGINNINGS:
        return Weights(str(weights))
    stage, at, snapshot = weights.partition("@") if isinstance(weights, str) else (weights, "", "")
    if not isinstance(stage, str) or stage not in tables:
        known = [*earlier, *BEGINNINGS]
        raise RecipeError(f"{path}: no such stage", found=weights, allowed=known, fix=did_you_mean(str(stage), known))
    if stage not in earlier:
        if cycle := find_cycle(name, tables):
            raise RecipeError(f"{path}: stages wait for each other in a cycle", found=" -> ".join(cycle))
        raise RecipeError(f"{path}: must be an earlier stage", found=weights, fix=f"move [stages.{stage}] above [stages.{name}]")
    if not _leaves_backbone(earlier[stage]):
        exporting = [stage.name for stage in earlier.values() if _leaves_backbone(stage)]
        raise RecipeError(f"{path}: that stage leaves no backbone", found=weights, allowed=[*exporting, *BEGINNINGS])
    return Weights(stage, _snapshots(snapshot, earlier[stage], path), snapshot == EACH) if at else Weights(stage)


def _snapshots(wanted: str, stage: Stage, path: str) -> tuple[int, ...]:
    kept = stage.snapshot_epochs if isinstance(stage, PretrainStage) else ()
    if wanted == EACH and kept:
        return kept
    if wanted.isdecimal() and int(wanted) in kept:
        return (int(wanted),)
    raise RecipeError(
        f"{path}: that stage keeps no such snapshot",
        found=f"{stage.name}@{wanted}",
        allowed=[f"{stage.name}@{epoch}" for epoch in (*kept, *((EACH,) if kept else ()))] or stage.name,
        fix="" if kept else f"give [stages.{stage.name}] snapshot_epochs",
    )


def training_of(stage: Stage) -> tuple[str, TrainingOptions] | None:
    """How a stage trains, and the dotted path of the table that says so; None where it trains nothing."""
    if isinstance(stage, PretrainStage):
        return f"stages.{stage.name}", stage.training
    return (f"stages.{stage.name}.evaluator", stage.evaluator) if isinstance(stage.evaluator, TrainingOptions) else None


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
    """One network: a stage that is run on each snapshot of another leaves several."""
    return stage.key == stage.name and (isinstance(stage, PretrainStage) or stage.evaluator.exports_backbone)


class StageKey(NamedTuple):
    """A stage's key taken apart: ``blocks3/object/epoch=10`` is the stage ``object`` of a sweep's variant, on a snapshot.

    Attributes:
        variant: of the sweep; empty for a stage that all variants share.
        name: what the recipe calls the stage.
        epoch: of the snapshot that it measures; None for a final network.
    """

    variant: str
    name: str
    epoch: int | None = None

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
