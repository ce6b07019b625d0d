"""The audit of a recipe: each of its pretraining stages' tasks, once."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from sslkit.audit.finding import Finding
from sslkit.audit.task_audit import AuditOptions, audit_task, small_backbone
from sslkit.catalog.discovery import load_catalog
from sslkit.contract.errors import ArtifactError, OptionError, RecipeError, StorageError, did_you_mean
from sslkit.contract.events import Observer
from sslkit.data.cache import OpenedDataset
from sslkit.recipe.recipe import Recipe
from sslkit.recipe.stages import PretrainStage
from sslkit.run.environment import describe_environment
from sslkit.run.networks import data_of, open_data, seen_by
from sslkit.run.preflight import Preflight
from sslkit.storage.json_files import write_json


@dataclass(frozen=True, kw_only=True)
class AuditReport:
    """All findings, and what belongs beside them.

    Attributes:
        recipe: its name.
        options: how thorough the audit was.
        environment: what it was computed with: hardware, versions, commit, command and date.
        findings: by the stage's key.
    """

    recipe: str
    options: AuditOptions
    environment: Mapping[str, Any]
    findings: Mapping[str, tuple[Finding, ...]]

    def as_json(self) -> dict[str, Any]:
        """Plain values; accuracies in percent."""
        return {
            "recipe": self.recipe,
            "options": asdict(self.options),
            "environment": dict(self.environment),
            "stages": {key: [finding.as_json() for finding in findings] for key, findings in self.findings.items()},
        }

    def write(self, path: Path) -> None:
        """Write it as JSON.

        Raises:
            ArtifactError: the file cannot be written.
        """
        try:
            write_json(path, self.as_json())
        except StorageError as error:  # the user chose the file
            raise ArtifactError(f"{path}: cannot be written ({error.__cause__})", fix="choose another file with --output") from error


def audit_recipe(
    recipe: Recipe,
    *,
    stages: Sequence[str] = (),
    options: AuditOptions | None = None,
    observers: Iterable[Observer] = (),
) -> AuditReport:
    """Audit the pretext tasks of a recipe with their stages' augmentation and optimizer.

    The network is a small one, but for tasks that require capabilities it lacks: those get the one that their stage trains. Of stages
    that differ in nothing which an audit looks at, only the first is audited.

    Args:
        recipe: a loaded recipe.
        stages: keys of pretraining stages; by default all of them.
        options: how thorough to be.
        observers: are notified of every event.

    Raises:
        RecipeError: there is no such stage, it predicts no classes, or it does not fit the data or the machine.
        DataError: the data is missing, or has too few images.
    """
    options, watching = options or AuditOptions(), tuple(observers)
    recipe = open_data(recipe)
    chosen, data = _chosen(recipe, stages), OpenedDataset.of(recipe.data)
    preflight = Preflight(recipe, data)
    for stage in chosen:
        preflight.check_device(stage)
        preflight.check_backbone(stage)
    environment = describe_environment(chosen[0].runtime.resolve_device())
    findings = {stage.key: _audit_stage(stage, data_of(stage, data), options, watching) for stage in chosen}
    return AuditReport(recipe=recipe.name, options=options, environment=environment, findings=findings)


def _audit_stage(stage: PretrainStage, data: OpenedDataset, options: AuditOptions, observers: tuple[Observer, ...]) -> tuple[Finding, ...]:
    small = small_backbone(load_catalog())
    with torch.device("meta"):
        capabilities = small.build(seen_by(stage.task, data.image())).capabilities
    try:
        return audit_task(
            stage.task,
            data,
            options=options,
            backbone=(small if stage.task.requires <= capabilities else stage.backbone).without_downloads().build,
            training=stage.training,
            runtime=stage.runtime,
            observers=observers,
            name=stage.key,
        )
    except OptionError as error:
        raise RecipeError(f"stages.{stage.key}.{error}") from error


def _chosen(recipe: Recipe, keys: Sequence[str]) -> list[PretrainStage]:
    """The stages to audit: those asked for, or all that pretrain, without repeating what would come out the same."""
    known = {stage.key: stage for stage in recipe.stages if isinstance(stage, PretrainStage)}
    if not known:
        found = [stage.key for stage in recipe.stages]
        raise RecipeError("stages: none of them pretrains, so there is no pretext task to audit", found=found)
    for key in keys:
        if key not in known:
            raise RecipeError(f"{key}: no such pretraining stage", allowed=known, fix=did_you_mean(key, known))
    if keys:
        return [known[key] for key in keys]
    distinct: list[PretrainStage] = []
    for stage in known.values():
        seen = [(other.task, other.training.augment, other.training.optimizer, other.data) for other in distinct]
        if (stage.task, stage.training.augment, stage.training.optimizer, stage.data) not in seen:  # an audit sees nothing else
            distinct.append(stage)
    return distinct
