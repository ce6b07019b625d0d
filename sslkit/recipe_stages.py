"""The stages of a recipe, and where each may take its weights from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sslkit.engine.device import Runtime
from sslkit.engine.training import Training
from sslkit.errors import RecipeError, did_you_mean
from sslkit.interfaces import Evaluator, PretextTask
from sslkit.options import BackboneOptions

RANDOM = "random"
"""The name of untrained weights."""


@dataclass(frozen=True, kw_only=True)
class PretrainStage:
    """A stage that pretrains.

    Attributes:
        name: of the stage and its folder.
        weights: an earlier stage, or ``random``.
        backbone: how to build the network.
        runtime: device, precision and the like.
        task: the pretext task.
        training: epochs, batch size, optimiser, schedule, augmentation.
        evaluate_every: epochs between measurements on held-out images; None: ten times.
    """

    name: str
    weights: str
    backbone: BackboneOptions
    runtime: Runtime
    task: PretextTask
    training: Training
    evaluate_every: int | None


@dataclass(frozen=True, kw_only=True)
class EvaluateStage:
    """A stage that evaluates.

    Attributes:
        name: of the stage and its folder.
        weights: an earlier stage, or ``random``.
        backbone: how to build the network: the recipe's, that of the earlier stage, or the stage's own.
        runtime: device, precision and the like.
        evaluator: what to measure with.
    """

    name: str
    weights: str
    backbone: BackboneOptions
    runtime: Runtime
    evaluator: Evaluator


Stage = PretrainStage | EvaluateStage


def check_weights(name: str, weights: object, tables: Mapping[str, Any], earlier: Mapping[str, Stage]) -> str:
    """Accept ``random``, or an earlier stage that leaves a backbone.

    Args:
        name: of the stage.
        weights: what its table says.
        tables: all stages of the recipe as they are written.
        earlier: the stages above this one.

    Raises:
        RecipeError: it names something else; the message says what is meant or where the cycle is.
    """
    path = f"stages.{name}.weights"
    if weights == RANDOM:
        return RANDOM
    if not isinstance(weights, str) or weights not in tables:
        known = [*earlier, RANDOM]
        raise RecipeError(f"{path}: no such stage", found=weights, allowed=known, fix=did_you_mean(str(weights), known))
    if weights not in earlier:
        if cycle := find_cycle(name, tables):
            raise RecipeError(f"{path}: stages wait for each other in a cycle", found=" -> ".join(cycle))
        raise RecipeError(f"{path}: must be an earlier stage", found=weights, fix=f"move [stages.{weights}] above [stages.{name}]")
    if not _leaves_backbone(earlier[weights]):
        exporting = [stage.name for stage in earlier.values() if _leaves_backbone(stage)]
        raise RecipeError(f"{path}: that stage leaves no backbone", found=weights, allowed=[*exporting, RANDOM])
    return weights


def find_cycle(start: str, tables: Mapping[str, Any]) -> list[str]:
    """The stages from ``start`` back to itself along ``weights``; empty if there is no way back."""
    walk = [start]
    while True:
        table = tables[walk[-1]]
        following = table.get("weights") if isinstance(table, Mapping) else None
        if not isinstance(following, str) or following not in tables or following in walk[1:]:
            return []
        walk.append(following)
        if following == start:
            return walk


def _leaves_backbone(stage: Stage) -> bool:
    return isinstance(stage, PretrainStage) or stage.evaluator.exports_backbone
