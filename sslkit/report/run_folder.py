"""A run's folder read back into one value: finished or not, and whatever version of sslkit wrote it."""

import re
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
from sslkit.storage.json_files import Form, SavedArtifact, SavedEnvironment, SavedFigures, SavedResults, check_form, read_json
from sslkit.storage.metrics_log import read_metrics

_FOLDER = re.compile(r"(?:(?!\.{1,2}(?:/|$))[^/\\\0]{1,255}(?:/(?!$)|$))+")
"""A path that leads to a folder below: a stage's key decides which files are read."""


@dataclass(frozen=True)
class StageFolder:
    """One stage of a run.

    Attributes:
        key: unique in the run, and its folder in the run's.
        folder: where that is.
        artifact: the content of artifact.json; all defaults where there is none.
        metrics: what it measured; empty while it is not finished.
    """

    key: str
    folder: Path
    artifact: SavedArtifact
    metrics: Mapping[str, float]

    @property
    def parts(self) -> StageKey:
        """The key taken apart."""
        return parse_key(self.key)

    @property
    def pretrains(self) -> bool:
        """Whether it pretrains rather than evaluates."""
        return self.artifact.kind == "pretrain"

    @property
    def environments(self) -> list[SavedEnvironment]:
        """Hardware, versions, command and date: of what finished it, after those that an earlier start had."""
        return self.artifact.environments

    @cached_property
    def log(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl."""
        return read_metrics(self.folder / METRICS)


@dataclass(frozen=True)
class RunFolder:
    """A run.

    Attributes:
        folder: where it is, as the user named it.
        results: metrics by stage, with the paper's results and the margins of its recipe.
        stages: those that are finished or begun, in the order of the recipe.
        finished: whether all stages are.
        recipe: the resolved recipe.
        recipe_text: the same as TOML.
        variants: of a sweep, by name; empty without one.
    """

    folder: Path
    results: Results
    stages: tuple[StageFolder, ...]
    finished: bool
    recipe: Mapping[str, Any]
    recipe_text: str
    variants: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Of the recipe."""
        return self.results.recipe


def read_run(folder: Path) -> RunFolder:
    """Read a run's folder. Nothing in it is executed or unpickled.

    Raises:
        ArtifactError: it is not a run's folder, or a file in it is damaged.
    """
    text = _recipe_text(folder)
    recipe = _recipe(text, folder / "recipe.toml")
    saved_recipe = check_form(recipe, SavedFigures, folder / "recipe.toml")
    saved = _read(folder / "results.json", SavedResults)
    stages = _stages(folder, saved)
    pending = [stage.key for stage in stages if stage.artifact.status not in {"", "finished"}]
    pending += [key for key in saved.pending if key not in {stage.key for stage in stages}]
    margins = {label: (first, second) for label, (first, second) in saved_recipe.margins.items()}
    results = Results(
        saved_recipe.name,
        saved_recipe.paper,
        margins,
        {stage.key: dict(stage.metrics) for stage in stages if stage.key not in pending},
        pending,
    )
    finished = bool(saved.model_fields_set) and not pending
    variants = tuple(sorted(path.stem for path in folder.glob("variants/*.toml")))
    return RunFolder(folder, results, stages, finished, recipe, text, variants)


def _recipe_text(folder: Path) -> str:
    if not folder.is_dir():
        raise ArtifactError(f"{folder}: no such folder", fix="name a folder that sslkit run wrote")
    path = folder / "recipe.toml"
    if not path.exists():
        raise ArtifactError(f"{folder}: not a run's folder, because it holds no recipe.toml", fix=_advice(folder))
    if not path.is_file():  # a pipe would be waited for
        raise ArtifactError(f"{path}: is not a file", fix="run the recipe again in another folder")
    try:
        return read_text(path)
    except RecipeError as error:
        raise ArtifactError(f"{path}: damaged ({error})", fix="run the recipe again") from error


def _recipe(text: str, path: Path) -> dict[str, Any]:
    try:
        return parse_table(text, path.name)
    except RecipeError as error:
        raise ArtifactError(f"{path}: damaged ({error})", fix="run the recipe again") from error


def _advice(folder: Path) -> str:
    """A stage's folder and the folder of all runs are near misses."""
    if run := next((parent for parent in folder.absolute().parents if (parent / "recipe.toml").exists()), None):
        return f"name the whole run: {run}"
    if runs := sorted(path.parent.name for path in folder.glob("*/recipe.toml")):
        return f"name a run in it: {', '.join(runs)}"
    return "name a folder that sslkit run wrote"


def _stages(folder: Path, saved: SavedResults) -> tuple[StageFolder, ...]:
    """The stages that results.json knows of, and then those that it lacks: a run that is resumed writes it anew, stage by stage."""
    measured = saved.stages
    rest = saved.pending if "pending" in saved.model_fields_set else _on_disk(folder)
    for key in (*measured, *rest):
        if not _FOLDER.fullmatch(key):
            raise ArtifactError(f"{folder / 'results.json'}: damaged (not a stage's key)", found=key, fix="run the recipe again")
    keys = [*measured, *(key for key in rest if key not in measured and (folder / key / ARTIFACT).exists())]
    return tuple(_stage(folder, key, measured.get(key)) for key in keys)


def _stage(folder: Path, key: str, metrics: Mapping[str, float] | None) -> StageFolder:
    artifact = _read(folder / key / ARTIFACT, SavedArtifact)
    return StageFolder(key, folder / key, artifact, artifact.metrics if metrics is None else metrics)


def _on_disk(folder: Path) -> list[str]:
    """What results.json of an older version does not say; sorted so that epoch=9 comes before epoch=10."""
    keys = [path.parent.relative_to(folder).as_posix() for path in folder.rglob(ARTIFACT)]
    return sorted(keys, key=lambda key: (parse_key(key).series, parse_key(key).epoch or 0))


def _read(path: Path, form: type[Form]) -> Form:
    return check_form(read_json(path) if path.exists() else {}, form, path)
