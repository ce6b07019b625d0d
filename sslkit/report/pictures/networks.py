"""The networks that a report compares: pretrained ones, one trained with labels, and an untrained one of the same kind."""

from collections.abc import Sequence
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


class Network(NamedTuple):
    """One of the networks that are compared."""

    role: str  # ``pretrained``, ``fine-tuned``, ``supervised`` or ``untrained``
    origin: str  # the stage that left it, or before which it was untrained
    backbone: Backbone  # in eval mode, on the device of its stage

    @property
    def name(self) -> str:
        """Its role and origin."""
        return f"{self.role} ({self.origin})"

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.backbone.mean.device


def load_networks(folder: Path, recipe: Recipe, data: OpenedDataset) -> list[Network]:
    """Read at most four networks of a run: pretrained ones, then those trained with labels, then the untrained one; none where no stage has
    left a network yet. Of the data, only the size and colour of images are read. An ``ArtifactError`` where weights are damaged.
    """
    left = [stage for stage in recipe.stages if stage.snapshot is None and (folder / stage.key / BACKBONE).exists()]
    stages = choose([stage for stage in left if finished(folder, stage)])
    if not stages:
        return []
    networks = []
    for stage in stages:
        role = "pretrained" if isinstance(stage, PretrainStage) else "supervised" if stage.weights == RANDOM else "fine-tuned"
        networks.append(Network(role, stage.key, _ready(left_by(recipe, stage, data, folder), stage)))
    first = stages[0]
    beginning = untrained(first.backbone, backbone_image(recipe, first, data.image()), first.seed)
    origin = "random weights" if first.weights == AS_BUILT or first.source else f"before {first.key}"
    return [*networks, Network("untrained", origin, _ready(beginning, first))]


def choose(stages: Sequence[Stage]) -> list[Stage]:
    """Stages, of a sweep's many, that leave room for the two references: a network trained with labels and the untrained one."""
    pretrained = [stage for stage in stages if isinstance(stage, PretrainStage)]
    labelled = [stage for stage in stages if not isinstance(stage, PretrainStage)]
    room = 3  # the untrained network is the fourth
    chosen = spread(pretrained, room - min(1, len(labelled)))
    return [*chosen, *spread(labelled, room - len(chosen))]


def shortlist(networks: Sequence[Network], num: int) -> list[Network]:
    """At most ``num`` of them: one of each role while there is room, and always the last, which is untrained."""
    *others, last = networks
    roles = [network.role for network in others]
    by_turns = sorted(range(len(others)), key=lambda index: roles[:index].count(roles[index]))
    return [*(others[index] for index in sorted(by_turns[: num - 1])), last]


def finished(folder: Path, stage: Stage) -> bool:
    """Whether a stage is finished. One whose artifact is damaged is not: a report shows what is left."""
    try:
        return read_artifact(folder / stage.key).get("status") == "finished"
    except ArtifactError:
        return False


def best_layer(folder: Path, recipe: Recipe, networks: Sequence[Network]) -> str | None:
    """The first network's layer at which frozen, trained networks are most accurate; None where nothing has been measured."""
    top1: dict[str, float] = {}
    for stage in recipe.stages:
        frozen = isinstance(stage, EvaluateStage) and stage.weights != RANDOM and stage.evaluator.frozen
        if networks and frozen and finished(folder, stage):
            metrics = read_artifact(folder / stage.key).get("metrics", {})
            for layer in networks[0].backbone.layer_names:
                if f"{layer}.top1" in metrics:
                    top1[layer] = max(metrics[f"{layer}.top1"], top1.get(layer, 0.0))
    return max(top1, key=top1.__getitem__, default=None)


def _ready(backbone: Backbone, stage: Stage) -> Backbone:
    """In eval mode, on the device of its stage."""
    try:
        device = stage.runtime.resolve_device()
    except OptionError:  # the run is looked at on another machine
        device = torch.device("cpu")
    backbone = backbone.to(device).eval()
    if stage.runtime.channels_last:
        backbone.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] - missing from torch's stub
    return backbone
