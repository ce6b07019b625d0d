"""The networks that a report compares: pretrained ones, one trained with labels, and an untrained one of the same kind."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from sslkit.contract.backbone import Backbone
from sslkit.contract.errors import ArtifactError, OptionError
from sslkit.data.cache import OpenedDataset
from sslkit.recipe.recipe import Recipe
from sslkit.recipe.stages import AS_BUILT, RANDOM, EvaluateStage, PretrainStage, Stage
from sslkit.report.pictures.sample import spread
from sslkit.run.artifacts import BACKBONE, read_artifact
from sslkit.run.networks import backbone_image, left_by, untrained

MAX_NETWORKS = 4


class Network(NamedTuple):
    """One of the networks that are compared.

    Attributes:
        role: what it is, in a word.
        origin: the stage that left it, or that the untrained one comes before.
        backbone: in eval mode, on the device of its stage.
    """

    role: str
    origin: str
    backbone: Backbone

    @property
    def name(self) -> str:
        """What it is and where it comes from."""
        return f"{self.role} ({self.origin})"

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.backbone.mean.device


def load_networks(folder: Path, recipe: Recipe, data: OpenedDataset) -> list[Network]:
    """Read the networks of a run that are worth a comparison, at most four.

    Args:
        folder: the run's folder.
        recipe: the run's.
        data: its dataset; only the size and colour of its images are asked for.

    Returns:
        Pretrained ones first, then those trained with labels, then the untrained one; empty where no stage has left a network yet.

    Raises:
        ArtifactError: weights are damaged.
    """
    left = [stage for stage in recipe.stages if stage.snapshot is None and (folder / stage.key / BACKBONE).exists()]
    stages = choose([stage for stage in left if finished(folder, stage)])
    if not stages:
        return []
    trained = [_network(_role(stage), stage, left_by(recipe, stage, data, folder)) for stage in stages]
    first = stages[0]
    beginning = untrained(first.backbone, backbone_image(recipe, first, data.image()), first.seed)
    origin = "random weights" if first.weights == AS_BUILT else f"before {first.key}"
    return [*trained, _network("untrained", first, beginning)._replace(origin=origin)]


def choose(stages: Sequence[Stage]) -> list[Stage]:
    """Those of a sweep's many stages that leave room for the two yardsticks: a network trained with labels and the untrained one."""
    pretrained = [stage for stage in stages if isinstance(stage, PretrainStage)]
    labelled = [stage for stage in stages if not isinstance(stage, PretrainStage)]
    room = MAX_NETWORKS - 1
    chosen = spread(pretrained, room - min(1, len(labelled)))
    return [*chosen, *spread(labelled, room - len(chosen))]


def shortlist(networks: Sequence[Network], num: int) -> list[Network]:
    """Fewer of them: of each role one, while there is room, and always the last, which is the untrained one."""
    *others, last = networks
    roles = [network.role for network in others]
    by_turns = sorted(range(len(others)), key=lambda index: roles[:index].count(roles[index]))
    return [*(others[index] for index in sorted(by_turns[: num - 1])), last]


def finished(folder: Path, stage: Stage) -> bool:
    """Whether a stage is done. One whose artifact is damaged is not: a report shows what is left."""
    try:
        return read_artifact(folder / stage.key).get("status") == "finished"
    except ArtifactError:
        return False


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


def _role(stage: Stage) -> str:
    if isinstance(stage, PretrainStage):
        return "pretrained"
    return "supervised" if stage.weights == RANDOM else "fine-tuned"


def _network(role: str, stage: Stage, backbone: Backbone) -> Network:
    try:
        device = stage.runtime.resolve_device()
    except OptionError:  # the run is looked at on another machine
        device = torch.device("cpu")
    backbone = backbone.to(device).eval()
    if stage.runtime.channels_last:
        backbone.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] - missing from torch's stub
    return Network(role, stage.key, backbone)
