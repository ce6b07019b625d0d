"""The layer that the probes of a run measure best."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from sslkit.contract.backbone import Backbone
from sslkit.recipe.recipe import Recipe
from sslkit.recipe.stages import RANDOM, EvaluateStage
from sslkit.report.pictures.networks import finished
from sslkit.run.artifacts import read_artifact


def best_layer(folder: Path, recipe: Recipe, layers: Sequence[str]) -> str | None:
    """Where a frozen, trained network is most accurate; None where nothing has been measured.

    Args:
        folder: the run's folder.
        recipe: the run's.
        layers: the names to choose from.
    """
    found: dict[str, float] = {}
    for stage in recipe.stages:
        frozen = isinstance(stage, EvaluateStage) and stage.weights != RANDOM and stage.evaluator.frozen
        if frozen and finished(folder, stage):
            metrics: Mapping[str, float] = read_artifact(folder / stage.key).get("metrics", {})
            measured = {layer: metrics[f"{layer}.top1"] for layer in layers if f"{layer}.top1" in metrics}
            found = {layer: max(measured.get(layer, 0.0), found.get(layer, 0.0)) for layer in (*found, *measured)}
    return max(found, key=lambda layer: found[layer], default=None)


def layer_in(backbone: Backbone, best: str | None) -> str:
    """The best layer where a network has it, else the middle one."""
    names = backbone.layer_names
    return best if best in names else names[len(names) // 2]
