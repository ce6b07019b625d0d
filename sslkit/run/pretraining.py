"""What a pretraining stage does."""

from functools import partial
from pathlib import Path
from typing import Any

from sslkit.catalog.source_code import SourceCode
from sslkit.contract.backbone import Backbone
from sslkit.contract.errors import DataError
from sslkit.contract.events import Notice
from sslkit.contract.images import DataInfo, ImageSet
from sslkit.contract.objective import PretextTask
from sslkit.data.cache import OpenedDataset
from sslkit.data.loader import Loader
from sslkit.run.artifacts import save_module, weights_path
from sslkit.run.stage_folder import Outcome, StageFolder, StageResult, begin
from sslkit.run.surroundings import Surroundings
from sslkit.storage.atomic import writing
from sslkit.storage.identity import CODE, plain
from sslkit.training.fit import Snapshots, fit
from sslkit.training.options import TrainingOptions
from sslkit.training.seeds import derive_seed, global_seed


def run_pretraining(
    task: PretextTask,
    backbone: Backbone,
    data: OpenedDataset,
    *,
    training: TrainingOptions,
    evaluate_every: int | None,
    snapshot_epochs: list[int],
    surroundings: Surroundings,
) -> StageResult:
    """What :func:`~sslkit.run.stages.pretrain` does once everything is checked."""
    images, heldout = pretraining_images(data), data.load("test")
    identity: dict[str, Any] = {
        "task": plain(task),
        "training": plain(training),
        "data": {"pretrain": images.fingerprint, "heldout": heldout.fingerprint if heldout else None},
        CODE: SourceCode().of(task, training, backbone, data.source),
    }
    if snapshot_epochs:
        identity["snapshot_epochs"] = snapshot_epochs
    with begin("pretrain", backbone, data, surroundings, identity, skipped=images.skipped) as stage:
        return stage.finished or stage.finish(_work(stage, task, images, heldout, training, evaluate_every, snapshot_epochs))


def pretraining_images(data: OpenedDataset) -> ImageSet:
    """The images to pretrain on.

    Raises:
        DataError: there are none.
    """
    images = data.load("pretrain")
    if images is None:
        raise DataError("the dataset has no images to pretrain on")
    return images


def _work(
    stage: StageFolder,
    task: PretextTask,
    images: ImageSet,
    heldout: ImageSet | None,
    training: TrainingOptions,
    evaluate_every: int | None,
    snapshot_epochs: list[int],
) -> Outcome:
    context = stage.context
    duplicates = None if heldout is None else stage.count_duplicates("pretraining", images, heldout)
    with global_seed(derive_seed(context.seed, context.stage, "objective")):
        objective = task.build_objective(stage.backbone(), DataInfo(images.image, len(images)))
    train = Loader(images, batch_size=training.batch_size, device=context.device, options=training.augment)
    test = None if heldout is None else Loader(heldout, batch_size=training.batch_size, device=context.device)
    if heldout is None and objective.heldout_phase is not None:
        message = "the data has no held-out images: the pretext task is measured on training batches only"
        context.emit(Notice(stage=context.stage, message=message))
    snapshots = Snapshots(frozenset(snapshot_epochs), partial(_keep_snapshot, context.folder))
    result = fit(objective, train, test, training, context, evaluate_every=evaluate_every, snapshots=snapshots)
    facts: dict[str, Any] = {
        "steps": result.steps,
        "num_images": len(images),
        "test_images_in_pretrain": duplicates,
        "classes": list(objective.classes),
        "snapshot_epochs": snapshot_epochs,
    }
    if result.rollbacks:
        facts["rollbacks"] = result.rollbacks
    metrics = {f"pretext_{key}": value for key, value in result.heldout.items()}
    return Outcome(metrics, objective.exported_backbone(), predictions=result.predictions, facts=facts)


def _keep_snapshot(folder: Path | None, epoch: int, backbone: Backbone) -> None:
    assert folder is not None
    path = weights_path(folder, epoch)
    with writing(path):
        path.parent.mkdir(exist_ok=True)
    save_module(path, backbone)
