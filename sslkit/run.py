"""A whole recipe: stages in order, finished ones skipped, an interrupted one resumed, results and report at the end."""

import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from sslkit.artifacts import ARTIFACT, BackboneRecord, write_json
from sslkit.data.opened import OpenedDataset
from sslkit.errors import ArtifactError, RunInterruptedError
from sslkit.events import Event, Notice, Observer, Observers
from sslkit.networks import begun_with
from sslkit.preflight import check
from sslkit.recipe import Recipe
from sslkit.recipe_stages import RANDOM, PretrainStage, Stage
from sslkit.recipe_table import read_table
from sslkit.report.files import write_run_report
from sslkit.report.results import Results
from sslkit.run_record import RunRecord, write_recipe
from sslkit.stage_run import Provenance, StageResult
from sslkit.stages import evaluate, pretrain


class RunResult(NamedTuple):
    """What a run leaves.

    Attributes:
        folder: the run's folder.
        results: metrics by stage, with the paper's figures and the recipe's margins.
    """

    folder: Path
    results: Results


def run_recipe(
    recipe: Recipe,
    *,
    output: str | os.PathLike[str] | None = None,
    fresh: bool = False,
    observers: Iterable[Observer] = (),
    should_stop: Callable[[], bool] | None = None,
) -> RunResult:
    """Run a recipe's stages in order.

    Started again, it skips what is finished and resumes what is not; the outcome has the same bits as an uninterrupted run's on the
    same device and versions.

    Args:
        recipe: a loaded recipe.
        output: the run's folder; None: ``runs/<name>``.
        fresh: remove what earlier starts of these stages left in the folder.
        observers: told of every event, beside the recipe's own.
        should_stop: asked after every step; None: Ctrl-C stops after the step it falls in.

    Raises:
        RecipeError: the recipe does not fit the data or the machine; nothing was computed.
        ArtifactError: the folder holds a run of a different recipe.
        RunInterruptedError: stopped on request; starting again goes on.
    """
    folder = Path("runs") / recipe.name if output is None else Path(output)
    data = OpenedDataset(recipe.data)
    check(recipe, data)
    _open_folder(folder, recipe, fresh)
    everyone = (RunRecord(folder, recipe), *recipe.observers, *observers)
    results = Results(recipe.name, dict(recipe.paper), dict(recipe.margins), pending=[stage.key for stage in recipe.stages])
    fingerprints: dict[str, str] = {}
    with _stopping(should_stop) as stop:
        for stage in recipe.stages:
            if stop():
                raise RunInterruptedError(f"stopped before stage {stage.key!r}")
            result = _run_stage(recipe, stage, data, folder, fingerprints, everyone, stop)
            fingerprints[stage.key] = result.fingerprint
            results.stages[stage.key] = result.metrics
            results.pending.remove(stage.key)
            write_json(folder / "results.json", results.as_json())
    write_recipe(folder, recipe)  # the paper's figures and margins may change without running anything
    _report(folder, recipe, data, everyone)
    return RunResult(folder, results)


def _report(folder: Path, recipe: Recipe, data: OpenedDataset, observers: Iterable[Observer]) -> None:
    """Write the report. The figures are safe already, so whatever goes wrong here does not take the run down."""
    try:
        write_run_report(folder, recipe, data)
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        message = f"the report could not be written ({reason}); this tries again: sslkit report {folder}"
        Observers(observers).emit(Notice(stage="report", message=message))


def _run_stage(
    recipe: Recipe,
    stage: Stage,
    data: OpenedDataset,
    folder: Path,
    fingerprints: dict[str, str],
    observers: Iterable[Observer],
    stop: Callable[[], bool],
) -> StageResult:
    backbone = begun_with(recipe, stage, data, folder)
    surroundings: dict[str, Any] = {
        "name": stage.name,
        "output": folder / stage.key,
        "seed": stage.seed,
        "runtime": stage.runtime,
        "observers": [_Renaming(observer, stage.key) for observer in observers],
        "should_stop": stop,
        "provenance": Provenance(
            record=BackboneRecord(stage.backbone.name, stage.backbone.options),
            weights=_weights_mark(stage, fingerprints),
            versions=recipe.versions[stage.key],
        ),
    }
    if isinstance(stage, PretrainStage):
        return pretrain(
            stage.task,
            backbone,
            data,
            training=stage.training,
            evaluate_every=stage.evaluate_every,
            snapshot_epochs=stage.snapshot_epochs,
            **surroundings,
        )
    return evaluate(stage.evaluator, backbone, data, **surroundings)


class _Renaming(Observer):
    """Tells an observer of a stage by its key: a sweep has several stages of one name."""

    def __init__(self, observer: Observer, key: str) -> None:
        self._observer = observer
        self._key = key

    def observe(self, event: Event) -> None:
        self._observer.observe(replace(event, stage=self._key))


def _weights_mark(stage: Stage, fingerprints: Mapping[str, str]) -> str:
    """What the network that a stage begins with is known by in its fingerprint."""
    if stage.weights == RANDOM:
        return RANDOM
    mark = fingerprints[stage.weights]
    return mark if stage.snapshot is None else f"{mark}@{stage.snapshot}"


def _open_folder(folder: Path, recipe: Recipe, fresh: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise ArtifactError(f"{folder}: is a file", fix="choose another folder with --output")
    _check_owner(folder, recipe)
    if fresh:
        for stage in recipe.stages:
            if (folder / stage.key / ARTIFACT).exists():
                shutil.rmtree(folder / stage.key)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "recipe.toml").exists():
            write_recipe(folder, recipe)
    except OSError as error:
        raise ArtifactError(f"{folder}: cannot be written to ({error})", fix="choose another folder with --output") from error


def _check_owner(folder: Path, recipe: Recipe) -> None:
    """Stages that do not collide would otherwise mix, and results.json would be the new recipe's alone."""
    path = folder / "recipe.toml"
    owner = read_table(path).get("name") if path.exists() else recipe.name
    if owner != recipe.name:
        raise ArtifactError(
            f"{folder}: holds a run of a different recipe (name: {owner!r} -> {recipe.name!r})", fix="choose another folder with --output"
        )


@contextmanager
def _stopping(should_stop: Callable[[], bool] | None) -> Iterator[Callable[[], bool]]:
    """Ctrl-C finishes the step and writes a checkpoint; pressed again, it stops at once. Only the main thread may catch signals."""
    if should_stop is not None or threading.current_thread() is not threading.main_thread():
        yield should_stop or (lambda: False)
        return
    asked = threading.Event()
    before = signal.getsignal(signal.SIGINT)

    def ask(_signal: int, _frame: FrameType | None) -> None:
        asked.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGINT, ask)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, before)
