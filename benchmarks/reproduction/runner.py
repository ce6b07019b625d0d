"""Runs the stages whose figures are missing, as many as fit, and repeats none that another recipe has run already."""

import dataclasses
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from reproduction.tables import Cell
from sslkit import Dataset
from sslkit.contract.errors import RunInterruptedError
from sslkit.contract.events import Observer
from sslkit.data.cache import OpenedDataset
from sslkit.recipe.recipe import Recipe
from sslkit.recipe.stages import RANDOM, Stage
from sslkit.recipe.sweep import identity
from sslkit.report.run import run_recipe
from sslkit.run.artifacts import ARTIFACT
from sslkit.storage.json_files import read_json


def stages_of(recipe: Recipe, metrics: Sequence[str]) -> list[Stage]:
    """The stages that measure these metrics, in the order of the metrics, each once."""
    found: dict[str, Stage] = {}
    for metric in metrics:
        stage = next(stage for stage in recipe.stages if metric.startswith(f"{stage.key}."))
        found.setdefault(stage.key, stage)
    return list(found.values())


def with_upstream(recipe: Recipe, stage: Stage) -> list[Stage]:
    """A stage after those whose weights it needs."""
    if stage.weights == RANDOM:
        return [stage]
    return [*with_upstream(recipe, recipe.stage(stage.weights)), stage]


class Reproduction:
    """The runs of all recipes below one folder.

    Args:
        recipes: by the name that cells know them by.
        runs: the folder.
        observers: are notified of every event.

    Attributes:
        recipes: as given, with equal data opened once.
    """

    def __init__(self, recipes: Mapping[str, Recipe], runs: Path, observers: Sequence[Observer] = ()) -> None:
        opened: dict[Dataset, OpenedDataset] = {}  # decoded once for all recipes, not once a stage
        self.recipes = {
            name: dataclasses.replace(recipe, data=opened.setdefault(recipe.data, OpenedDataset(recipe.data)))
            for name, recipe in recipes.items()
        }
        self._runs = runs
        self._observers = observers

    def folder(self, recipe: str) -> Path:
        """The run's folder of a recipe."""
        return self._runs / self.recipes[recipe].name

    def run(
        self, missing: Sequence[Cell], should_stop: Callable[[], bool], *, on_error: Callable[[str, Exception], None] | None = None
    ) -> Iterator[str]:
        """Measure missing cells in their order, until told to stop.

        Args:
            missing: what to measure.
            should_stop: asked after every step.
            on_error: is told of a stage that failed, which is then tried again without compiling, and left out if that fails too.
                None: what failed is raised.

        Yields:
            The name of the recipe, after each of its stages that is finished, those counted in that only others start from.
        """
        for name, stage in self._needed(missing):
            chain = with_upstream(self.recipes[name], stage)
            for needed in chain:
                self._reuse(self.recipes[name], needed)
            for end, needed in enumerate(chain, start=1):
                if needed is not stage and _is_finished(self.folder(name) / needed.key):
                    continue
                try:
                    done = self._run(name, chain[:end], should_stop, on_error)
                except RunInterruptedError:
                    return
                if not done:
                    break
                yield name

    def _run(
        self, name: str, stages: Sequence[Stage], should_stop: Callable[[], bool], on_error: Callable[[str, Exception], None] | None
    ) -> bool:
        """Run some stages of a recipe; returns whether they are finished."""
        for attempt in (stages, _uncompiled(stages)):
            recipe = dataclasses.replace(self.recipes[name], stages=tuple(attempt))
            try:
                run_recipe(recipe, output=self.folder(name), observers=self._observers, should_stop=should_stop, report=False)
            except RunInterruptedError:
                raise
            except Exception as error:
                if on_error is None:
                    raise
                on_error(f"{name}, {stages[-1].key}", error)
            else:
                return True
        return False

    def _needed(self, missing: Sequence[Cell]) -> Iterator[tuple[str, Stage]]:
        for name in dict.fromkeys(cell.recipe for cell in missing):
            for stage in stages_of(self.recipes[name], [cell.metric for cell in missing if cell.recipe == name]):
                yield name, stage

    def _reuse(self, recipe: Recipe, stage: Stage) -> None:
        """Take over the folder of an equal stage that another recipe has finished: its fingerprint is the same too."""
        target = self._runs / recipe.name / stage.key
        if (target / ARTIFACT).exists():
            return
        wanted = identity(stage, recipe.stages)
        for other in self.recipes.values():
            for candidate in other.stages:
                source = self._runs / other.name / candidate.key
                if other.data == recipe.data and identity(candidate, other.stages) == wanted and _is_finished(source):
                    shutil.copytree(source, target, dirs_exist_ok=True)
                    return


def _uncompiled(stages: Sequence[Stage]) -> list[Stage]:
    """The same stages: compiling is no part of what a stage is known by."""
    return [dataclasses.replace(stage, runtime=dataclasses.replace(stage.runtime, compile=False)) for stage in stages]


def _is_finished(folder: Path) -> bool:
    return (folder / ARTIFACT).exists() and read_json(folder / ARTIFACT).get("status") == "finished"
