"""A whole recipe: stages in order, finished ones skipped, an interrupted one resumed, results at the end."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import NamedTuple

from sslkit.catalog.shared_state import kept_state
from sslkit.catalog.source_code import is_edited_in_place
from sslkit.contract.errors import ArtifactError, RunInterruptedError
from sslkit.contract.events import DataFound, Observer
from sslkit.data.cache import OpenedDataset
from sslkit.recipe.recipe import Recipe
from sslkit.recipe.stages import PretrainStage, Stage
from sslkit.run.environment import Surroundings
from sslkit.run.networks import backbone_image, begun_with, data_of, data_path, open_data, reads
from sslkit.run.preflight import check, fetch_weights
from sslkit.run.results import Results
from sslkit.run.run_folder import RunFolder
from sslkit.run.stage_folder import StageResult
from sslkit.run.stage_identity import complete, examine
from sslkit.run.stages import evaluation_identity, pretraining_identity, run_evaluation, run_pretraining
from sslkit.training.stopping import StopRequest, stoppable

_UNTRACKED = "sslkit runs from a checkout: edits to sslkit itself do not invalidate earlier results"

Report = Callable[[Path, Recipe, OpenedDataset], object]
"""Writes a report of a finished run into its folder."""


class RunResult(NamedTuple):
    """What a run leaves.

    Attributes:
        folder: the run's folder.
        results: metrics by stage, with the paper's results and the recipe's margins.
    """

    folder: Path
    results: Results


def run_stages(
    recipe: Recipe,
    *,
    output: str | os.PathLike[str] | None = None,
    fresh: bool = False,
    extend: bool = False,
    observers: Iterable[Observer] = (),
    max_minutes: float | None = None,
    should_stop: Callable[[], bool] | None = None,
    report: Report | None = None,
) -> RunResult:
    """Run a recipe's stages in order: :func:`~sslkit.report.run.run_recipe` without a report of its own."""
    request = StopRequest(should_stop or (lambda: False), max_minutes)
    recipe = open_data(recipe)
    data = OpenedDataset.of(recipe.data)
    with _explained(request), stoppable(request.asked):
        check(recipe, data)
        fetch_weights(recipe, data)
    folder = RunFolder(Path("runs") / recipe.name if output is None else Path(output), recipe, tuple(observers))
    with folder.opened(fresh=fresh), request.listening() if should_stop is None else nullcontext():
        _compare(recipe, data, folder, extend=extend)
        _announce(recipe, data, folder)
        with _explained(request):
            for stage in recipe.stages:
                if request.asked():
                    raise RunInterruptedError(f"stopped before stage {stage.key!r}")
                folder.keep(stage, _run_stage(recipe, stage, data, folder, request, extend=extend))
        folder.write_recipe()  # the paper's results and margins may change without running anything
        if report is not None:
            _report(report, recipe, data, folder)
    return RunResult(folder.path, folder.results)


def _compare(recipe: Recipe, data: OpenedDataset, folder: RunFolder, *, extend: bool) -> None:
    """Refuse a folder that holds stages of a different recipe, before anything is computed."""
    for stage in recipe.stages:
        where, own = _surroundings(stage, folder, extend=extend), data_of(stage, data)
        if isinstance(stage, PretrainStage):
            identity = pretraining_identity(stage.task, own, stage.training, list(stage.snapshot_epochs))
        else:
            identity = evaluation_identity(stage.evaluator, own)
        assert where.provenance is not None
        identity = complete(identity, where, backbone_image(recipe, stage, data.image()), where.provenance)
        try:
            folder.expect(stage, examine(folder.path / stage.key, identity, where))
        except ArtifactError:  # which it may owe to a dataset that gives itself another fingerprint at every load
            own.check_fingerprints()
            raise


def _surroundings(stage: Stage, folder: RunFolder, *, extend: bool, request: StopRequest | None = None) -> Surroundings:
    return Surroundings(
        name=stage.name,
        key=stage.key,
        output=folder.path / stage.key,
        seed=stage.seed,
        runtime=stage.runtime,
        observers=folder.observers,
        should_stop=None if request is None else request.asked,
        provenance=folder.provenance(stage),
        extend=extend,
    )


def _run_stage(recipe: Recipe, stage: Stage, data: OpenedDataset, folder: RunFolder, request: StopRequest, *, extend: bool) -> StageResult:
    surroundings = _surroundings(stage, folder, extend=extend, request=request)
    with kept_state() as changed:
        backbone, data = begun_with(recipe, stage, data, folder.path, partial(folder.notify, stage.key)), data_of(stage, data)
        if isinstance(stage, PretrainStage):
            result = run_pretraining(
                stage.task,
                backbone,
                data,
                training=stage.training,
                evaluate_every=stage.evaluate_every,
                snapshot_epochs=list(stage.snapshot_epochs),
                quality_epochs=None if stage.quality_epochs is None else list(stage.quality_epochs),
                surroundings=surroundings,
            )
        else:
            result = run_evaluation(stage.evaluator, backbone, data, surroundings)
    if changed:  # a later stage must not depend on whether this one was finished earlier
        folder.notify(stage.key, f"code of this stage changed {', '.join(changed)}: put back")
    return result


def _announce(recipe: Recipe, data: OpenedDataset, folder: RunFolder) -> None:
    """What the user should know before the first stage begins."""
    for note in recipe.notes:
        folder.notify("run", note)
    if is_edited_in_place() and folder.has_results():
        folder.notify("run", f"{_UNTRACKED}; start over with --fresh after an edit that matters")
    for read, (stage, *_) in reads(recipe, data):
        folder.observers.observe(DataFound(stage=stage.key if stage.data else "", splits=read.describe()))
        for note in read.new_notes():
            folder.notify(data_path(stage), note)


@contextmanager
def _explained(request: StopRequest) -> Iterator[None]:
    """Say who asked for an interruption."""
    try:
        yield
    except RunInterruptedError as error:
        raise request.explained(error) from None


def _report(report: Report, recipe: Recipe, data: OpenedDataset, folder: RunFolder) -> None:
    """Write the report. The results are safe already, so whatever goes wrong here does not take the run down."""
    try:
        report(folder.path, recipe, data)
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        folder.notify("report", f"the report could not be written ({reason}); this tries again: sslkit report {folder.path}")
