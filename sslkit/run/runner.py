"""A whole recipe: stages in order, finished ones skipped, an interrupted one resumed, results and report at the end."""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from sslkit.catalog.observers import Observers
from sslkit.catalog.shared_state import kept_state
from sslkit.catalog.source_code import is_edited_in_place
from sslkit.contract.errors import ArtifactError, RunInterruptedError, StorageError
from sslkit.contract.events import DataFound, Event, Notice, Observer, Record
from sslkit.data.cache import OpenedDataset
from sslkit.recipe.recipe import Recipe
from sslkit.recipe.stages import BEGINNINGS, PretrainStage, Stage
from sslkit.recipe.toml import read_table
from sslkit.report.page.files import write_run_report
from sslkit.run.artifacts import ARTIFACT, BackboneRecord
from sslkit.run.networks import begun_with
from sslkit.run.preflight import check, fetch_weights
from sslkit.run.recipe_record import RecipeKeeper, write_recipe
from sslkit.run.results import Results
from sslkit.run.stage_folder import Provenance, StageResult
from sslkit.run.stages import evaluate, pretrain
from sslkit.storage.atomic import make_folder, refuse_links, remove_unfinished, writing
from sslkit.storage.folder_lock import LOCK, RunLock
from sslkit.storage.json_files import write_json
from sslkit.training.stopping import StopRequest, stoppable

_UNTRACKED = "sslkit runs from a checkout: what an earlier start has computed counts as current whatever was edited in sslkit itself"

_OTHER_FOLDER = "choose another folder with --output"


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
    max_minutes: float | None = None,
    should_stop: Callable[[], bool] | None = None,
    report: bool = True,
) -> RunResult:
    """Run a recipe's stages in order.

    Started again, it skips what is finished and resumes what is not; the outcome has the same bits as an uninterrupted run's on the
    same device and versions. One process at a time runs in a folder.

    Args:
        recipe: a loaded recipe.
        output: the run's folder; None: ``runs/<name>``.
        fresh: remove what earlier starts of these stages left in the folder.
        observers: told of every event, beside the recipe's own.
        max_minutes: stop after so many minutes, at the end of a step; None: no limit.
        should_stop: asked after every step, and after every batch that is only measured; None: Ctrl-C stops after the step it falls in,
            and so do SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2 and SIGXCPU where nobody else ignores or handles them.
        report: write ``report.html`` and its tables at the end.

    Raises:
        RecipeError: the recipe does not fit the data or the machine; nothing was computed.
        ArtifactError: the folder holds a run of a different recipe, or another process runs in it.
        RunFailedError: a loss diverged, memory or the disk does not suffice, or the folder was removed.
        RunInterruptedError: stopped on request; starting again goes on.
    """
    request = StopRequest(should_stop or (lambda: False), max_minutes)
    folder = Path("runs") / recipe.name if output is None else Path(output)
    data = recipe.data if isinstance(recipe.data, OpenedDataset) else OpenedDataset(recipe.data)
    with _explained(request), stoppable(request.asked):
        check(recipe, data)
        fetch_weights(recipe, data)
    everyone = Observers((RecipeKeeper(folder, recipe), *recipe.observers, *observers))
    _make_folder(folder, recipe)
    lock = RunLock(folder)

    def stop() -> bool:
        lock.check()
        return request.asked()

    with lock.held(lambda message: _notify(everyone, "run", message)), request.listening() if should_stop is None else nullcontext():
        _open_folder(folder, recipe, fresh)
        for note in recipe.notes:
            _notify(everyone, "run", note)
        if is_edited_in_place() and any((folder / stage.key / ARTIFACT).exists() for stage in recipe.stages):
            _notify(everyone, "run", f"{_UNTRACKED}; start over with --fresh after one that matters")
        everyone.observe(DataFound(stage="", splits=data.describe()))
        for note in data.untold():
            _notify(everyone, "data", note)
        with _explained(request):
            results = _run_stages(recipe, data, folder, everyone, stop)
        write_recipe(folder, recipe)  # the paper's figures and margins may change without running anything
        if report:
            _report(folder, recipe, data, everyone)
    return RunResult(folder, results)


@contextmanager
def _explained(request: StopRequest) -> Iterator[None]:
    """Say who asked for an interruption."""
    try:
        yield
    except RunInterruptedError as error:
        raise request.explained(error) from None


def _run_stages(recipe: Recipe, data: OpenedDataset, folder: Path, observers: Observers, stop: Callable[[], bool]) -> Results:
    """Every stage, in order; their results are on disk after each."""
    results = Results(recipe.name, dict(recipe.paper), dict(recipe.margins), pending=[stage.key for stage in recipe.stages])
    fingerprints: dict[str, str] = {}
    for stage in recipe.stages:
        if stop():
            raise RunInterruptedError(f"stopped before stage {stage.key!r}")
        with kept_state() as changed:
            result = _run_stage(recipe, stage, data, folder, fingerprints, observers, stop)
        if changed:  # a later stage must not depend on whether this one was finished earlier
            _notify(observers, stage.key, f"code of this stage changed {', '.join(changed)}: put back")
        fingerprints[stage.key] = result.fingerprint
        results.stages[stage.key] = result.metrics
        results.pending.remove(stage.key)
        write_json(folder / "results.json", results.as_json())
    return results


def _report(folder: Path, recipe: Recipe, data: OpenedDataset, observers: Observers) -> None:
    """Write the report. The figures are safe already, so whatever goes wrong here does not take the run down."""
    try:
        write_run_report(folder, recipe, data)
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        _notify(observers, "report", f"the report could not be written ({reason}); this tries again: sslkit report {folder}")


def _notify(observers: Observers, stage: str, message: str) -> None:
    observers.observe(Notice(stage=stage, message=message))


def _run_stage(
    recipe: Recipe,
    stage: Stage,
    data: OpenedDataset,
    folder: Path,
    fingerprints: dict[str, str],
    observers: Observers,
    stop: Callable[[], bool],
) -> StageResult:
    backbone = begun_with(recipe, stage, data, folder)
    surroundings: dict[str, Any] = {
        "name": stage.name,
        "output": folder / stage.key,
        "seed": stage.seed,
        "runtime": stage.runtime,
        "observers": [_Renaming(observers, stage.key)],
        "should_stop": stop,
        "provenance": Provenance(
            record=BackboneRecord(stage.backbone.name, stage.backbone.options),
            weights=_weights_mark(stage, fingerprints),
            code=recipe.sources[stage.key],
            environment={"plugins": dict(recipe.versions[stage.key]), "code": recipe.code.as_json()},
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


class _Renaming(Record):
    """Tells observers of a stage by its key: a sweep has several stages of one name. They are the same ones in all stages, but for those
    that have failed.
    """

    shows_notices = True

    def __init__(self, observers: Observers, key: str) -> None:
        self._observers = observers
        self._key = key

    def observe(self, event: Event) -> None:
        self._observers.observe(replace(event, stage=self._key))


def _weights_mark(stage: Stage, fingerprints: Mapping[str, str]) -> str:
    """What the network that a stage begins with is known by in its fingerprint."""
    if stage.weights in BEGINNINGS:
        return stage.weights
    mark = fingerprints[stage.weights]
    return mark if stage.snapshot is None else f"{mark}@{stage.snapshot}"


def _make_folder(folder: Path, recipe: Recipe) -> None:
    if folder.exists() and not folder.is_dir():
        raise ArtifactError(f"{folder}: is a file", fix=_OTHER_FOLDER)
    if folder.resolve() == Path.cwd():  # an empty variable in --output "$OUT" means it, too
        raise ArtifactError("the current folder cannot be a run's", fix=_OTHER_FOLDER)
    if (folder / "recipe.toml").exists() and not any(
        (folder / name).exists() for name in (LOCK, "results.json", *(f"{stage.key}/{ARTIFACT}" for stage in recipe.stages))
    ):
        raise ArtifactError(f"{folder}: holds a recipe.toml that no run wrote, which would be replaced", fix=_OTHER_FOLDER)
    try:
        make_folder(folder)
    except StorageError as error:  # before anything was computed it is the user's to choose another
        raise ArtifactError(f"{folder}: cannot be written to ({error.__cause__})", fix=_OTHER_FOLDER) from error


def _open_folder(folder: Path, recipe: Recipe, fresh: bool) -> None:
    _check_owner(folder, recipe)
    _check_links(folder, recipe)
    if fresh:
        for stage in recipe.stages:
            _remove_stage(folder / stage.key)
    remove_unfinished(folder)
    if not (folder / "recipe.toml").exists():
        write_recipe(folder, recipe)


def _remove_stage(folder: Path) -> None:
    """The artifact goes first: should this be cut short, what is left is no stage that could be taken for finished."""
    if (folder / ARTIFACT).exists():
        with writing(folder):
            (folder / ARTIFACT).unlink()
            shutil.rmtree(folder)


def _check_links(folder: Path, recipe: Recipe) -> None:
    """The run's folder may be a link; one in it could send what is written, or removed, anywhere."""
    for key in ("tables", "variants", *(stage.key for stage in recipe.stages)):
        for part in (folder / key, *(folder / parent for parent in PurePath(key).parents if parent != PurePath())):
            refuse_links(part)


def _check_owner(folder: Path, recipe: Recipe) -> None:
    """Stages that do not collide would otherwise mix, and results.json would be the new recipe's alone."""
    path = folder / "recipe.toml"
    owner = read_table(path).get("name") if path.is_file() else recipe.name
    if owner != recipe.name:
        raise ArtifactError(
            f"{folder}: holds a run of a different recipe (name: {owner!r} -> {recipe.name!r})", fix="choose another folder with --output"
        )
