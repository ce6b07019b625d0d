"""A run's folder read back into one value: finished or not, and whatever version of sslkit wrote it."""

import re
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sslkit.contract.errors import ArtifactError, RecipeError
from sslkit.recipe.stages import StageKey, parse_key
from sslkit.recipe.toml import parse_table, read_text
from sslkit.run.artifacts import ARTIFACT, METRICS
from sslkit.run.results import Results
from sslkit.storage.json_files import Form, SavedArtifact, SavedRecipe, SavedResults, check_form, read_json
from sslkit.storage.metrics_log import read_metrics

_FOLDER = re.compile(r"(?:(?!\.{1,2}(?:/|$))[^/\\\0]{1,255}(?:/(?!$)|$))+")
"""A path that leads to a folder below: a stage's key decides which files are read."""


@dataclass(frozen=True)
class StageFolder:
    """One stage of a run; its key is its folder's name in the run's."""

    key: str
    folder: Path
    artifact: SavedArtifact  # all defaults where there is no artifact.json
    metrics: Mapping[str, float]  # empty while it is not finished

    @property
    def parts(self) -> StageKey:
        """The parsed key."""
        return parse_key(self.key)

    @property
    def pretrains(self) -> bool:
        """Whether it pretrains rather than evaluates."""
        return self.artifact.kind == "pretrain"

    @cached_property
    def log(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl."""
        return read_metrics(self.folder / METRICS)

    @property
    def throughput(self) -> float | None:
        """Images per second, the median while it trained; None where it did not."""
        speeds = [line["images_per_second"] for line in self.log if "images_per_second" in line]
        return statistics.median(speeds) if speeds else None


@dataclass(frozen=True)
class RunFolder:
    """A run."""

    folder: Path  # as the user named it
    results: Results
    stages: tuple[StageFolder, ...]  # those that are finished or begun, in the order of the recipe
    finished: bool  # all of its stages
    recipe: Mapping[str, Any]  # resolved
    recipe_text: str  # the same as TOML
    variants: tuple[str, ...] = ()  # the names of a sweep's

    @property
    def name(self) -> str:
        """Of the recipe."""
        return self.results.recipe


def read_run(folder: Path) -> RunFolder:
    """Read a run's folder, executing and unpickling nothing; an ``ArtifactError`` where it is not a run's, or a file in it is damaged."""
    recipe, text = _read_recipe(folder)
    saved_recipe = check_form(recipe, SavedRecipe, folder / "recipe.toml")
    saved = _read(folder / "results.json", SavedResults)
    stages = _read_stages(folder, saved)
    pending = [stage.key for stage in stages if stage.artifact.status not in {"", "finished"}]
    pending += [key for key in saved.pending if key not in {stage.key for stage in stages}]
    margins = {label: (first, second) for label, (first, second) in saved_recipe.margins.items()}
    measured = {stage.key: dict(stage.metrics) for stage in stages if stage.key not in pending}
    return RunFolder(
        folder,
        Results(saved_recipe.name, saved_recipe.paper, margins, measured, pending),
        stages,
        finished=bool(saved.model_fields_set) and not pending,
        recipe=recipe,
        recipe_text=text,
        variants=tuple(sorted(path.stem for path in folder.glob("variants/*.toml"))),
    )


def _read_recipe(folder: Path) -> tuple[dict[str, Any], str]:
    if not folder.is_dir():
        raise ArtifactError(f"{folder}: no such folder", fix="name a folder that sslkit run wrote")
    path = folder / "recipe.toml"
    if not path.exists():
        # A stage's folder and the folder of all runs are near misses.
        fix = "name a folder that sslkit run wrote"
        if run := next((parent for parent in folder.absolute().parents if (parent / "recipe.toml").exists()), None):
            fix = f"name the whole run: {run}"
        elif runs := sorted(path.parent.name for path in folder.glob("*/recipe.toml")):
            fix = f"name a run in it: {', '.join(runs)}"
        raise ArtifactError(f"{folder}: not a run's folder, because it holds no recipe.toml", fix=fix)
    if not path.is_file():  # a pipe would be waited for
        raise ArtifactError(f"{path}: is not a file", fix="run the recipe again in another folder")
    try:
        text = read_text(path)
        return parse_table(text, path.name), text
    except RecipeError as error:
        raise ArtifactError(f"{path}: damaged ({error})", fix="run the recipe again") from error


def _read_stages(folder: Path, saved: SavedResults) -> tuple[StageFolder, ...]:
    """The stages in results.json, then those that it lacks: a run that is resumed rewrites it stage by stage."""
    rest = saved.pending
    if "pending" not in saved.model_fields_set:  # an older version's; sorted so that epoch=9 comes before epoch=10
        found = [path.parent.relative_to(folder).as_posix() for path in folder.rglob(ARTIFACT)]
        rest = sorted(found, key=lambda key: (parse_key(key).series, parse_key(key).epoch or 0))
    stages = []
    for key in dict.fromkeys((*saved.stages, *rest)):
        if not _FOLDER.fullmatch(key):
            raise ArtifactError(f"{folder / 'results.json'}: damaged (not a stage's key)", found=key, fix="run the recipe again")
        if key in saved.stages or (folder / key / ARTIFACT).exists():
            artifact = _read(folder / key / ARTIFACT, SavedArtifact)
            stages.append(StageFolder(key, folder / key, artifact, saved.stages.get(key, artifact.metrics)))
    return tuple(stages)


def _read(path: Path, form: type[Form]) -> Form:
    return check_form(read_json(path) if path.exists() else {}, form, path)
