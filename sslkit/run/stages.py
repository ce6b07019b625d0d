"""What a stage does: pretrain a backbone, or evaluate one. Also the Python API."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from sslkit.catalog.source_code import SourceCode
from sslkit.contract.annotations import check_arguments
from sslkit.contract.backbone import Backbone
from sslkit.contract.errors import ArtifactError, BackboneError, DataError, OptionError, RunFailedError
from sslkit.contract.evaluator import Evaluator, RunContext
from sslkit.contract.events import Notice, Observer
from sslkit.contract.images import DataInfo, Dataset, ImageSet, LabeledData
from sslkit.contract.objective import Objective, Prediction, PretextTask
from sslkit.data.cache import OpenedDataset, class_counts
from sslkit.data.duplicates import Duplicates
from sslkit.data.loader import Loader, decoding_with
from sslkit.evaluators.accuracy import few_classes, recalls
from sslkit.run.artifacts import save_module, weights_path
from sslkit.run.stage_folder import Outcome, Provenance, StageResult, StageRun
from sslkit.storage.atomic import writing
from sslkit.storage.identity import CODE, plain, state_hash
from sslkit.training.device import Runtime
from sslkit.training.fit import Snapshots, fit
from sslkit.training.handover import checked_evaluation
from sslkit.training.options import TrainingOptions, check_snapshots
from sslkit.training.seeds import derive_seed, global_seed


def pretrain(
    task: PretextTask,
    backbone: Backbone,
    data: Dataset,
    *,
    training: TrainingOptions | None = None,
    evaluate_every: int | None = None,
    snapshot_epochs: Iterable[int] = (),
    name: str = "pretrain",
    output: str | Path | None = None,
    seed: int = 0,
    runtime: Runtime | None = None,
    observers: Iterable[Observer] = (),
    should_stop: Callable[[], bool] | None = None,
    provenance: Provenance | None = None,
) -> StageResult:
    """Pretrain a backbone without labels.

    Args:
        task: the pretext task.
        backbone: built for ``task.image_spec(data.image())``; it is copied, not changed.
        data: its ``pretrain`` images are trained on; its ``test`` images, where it has any, measure the pretext task.
        training: epochs, batch size, optimiser, schedule, augmentation.
        evaluate_every: epochs between measurements on held-out images, 1 or more; None: ten times over the run.
        snapshot_epochs: epochs after which the network is kept too, 0 for the untrained one; needs ``output``.
        name: of the stage; part of every random seed.
        output: the stage's folder: checkpoints, metrics, the artifact. A finished stage in it is not repeated, an interrupted one
            goes on. None keeps nothing.
        seed: of all randomness, 0 or more.
        runtime: device, precision and the like.
        observers: told of every event.
        should_stop: asked after every step, and after every batch that is only measured.
        provenance: where the backbone comes from.

    Returns:
        The pretrained backbone, and ``pretext_*`` metrics on held-out images.

    Raises:
        SslkitError: the kind says what is wrong.
    """
    check_arguments(
        pretrain, task=task, backbone=backbone, training=training, evaluate_every=evaluate_every, name=name, seed=seed, runtime=runtime
    )
    _check_counts(seed=(seed, 0), evaluate_every=(evaluate_every, 1))
    training = training or TrainingOptions()
    data = data if isinstance(data, OpenedDataset) else OpenedDataset(data)
    images = data.load("pretrain")
    if images is None:
        raise DataError("the data set has no images to pretrain on")
    heldout = data.load("test")
    training.check_batch_size(len(images))
    check_pretraining(task, backbone, data)
    snapshots = check_snapshots(snapshot_epochs, training.epochs)
    if snapshots and output is None:
        raise OptionError("snapshot_epochs", "there is no folder to keep them in", found=snapshots, fix="give output")
    runtime = runtime or Runtime()
    stage = StageRun(name, "pretrain", output, seed, runtime, observers, should_stop, provenance)
    identity = {
        "task": plain(task),
        "training": plain(training),
        "data": {"pretrain": images.fingerprint, "heldout": heldout.fingerprint if heldout else None},
        CODE: SourceCode().of(task, training, backbone, data.source),
    }
    if snapshots:
        identity["snapshot_epochs"] = snapshots
    work = partial(_pretrain, task, data, training, evaluate_every, snapshots)
    with _known_again(data), decoding_with(runtime.num_workers):
        return stage.run(backbone, identity, work, skipped=images.skipped)


def evaluate(
    evaluator: Evaluator,
    backbone: Backbone,
    data: Dataset,
    *,
    name: str = "evaluate",
    output: str | Path | None = None,
    seed: int = 0,
    runtime: Runtime | None = None,
    observers: Iterable[Observer] = (),
    should_stop: Callable[[], bool] | None = None,
    provenance: Provenance | None = None,
) -> StageResult:
    """Measure a backbone with labels.

    Args:
        evaluator: a probe, fine-tuning, nearest neighbours ...
        backbone: what to measure; it is copied, not changed.
        data: must have labelled ``train`` and ``test`` images.
        name: see :func:`pretrain`, as for all that follow.
        output: see :func:`pretrain`.
        seed: see :func:`pretrain`.
        runtime: see :func:`pretrain`.
        observers: see :func:`pretrain`.
        should_stop: see :func:`pretrain`.
        provenance: see :func:`pretrain`.

    Returns:
        The metrics, and the trained backbone where the evaluator trains one.

    Raises:
        RunFailedError: the evaluator is frozen, and yet the backbone changed; or it wrote into the images or labels.
        SslkitError: the kind says what is wrong.
    """
    check_arguments(evaluate, evaluator=evaluator, backbone=backbone, name=name, seed=seed, runtime=runtime)
    _check_counts(seed=(seed, 0))
    data = data if isinstance(data, OpenedDataset) else OpenedDataset(data)
    labeled = evaluation_data(evaluator, data)
    check_requirements(evaluator.requires, backbone, type(evaluator).__name__)
    with data.lent_to(evaluator):
        evaluator.check(backbone, labeled)
    runtime = runtime or Runtime()
    stage = StageRun(name, "evaluate", output, seed, runtime, observers, should_stop, provenance)
    identity = {
        "evaluator": plain(evaluator),
        "data": {"train": labeled.train.fingerprint, "test": labeled.test.fingerprint},
        CODE: SourceCode().of(evaluator, backbone, data.source),
    }
    work = partial(_evaluate, evaluator, labeled, data)
    with _known_again(data), decoding_with(runtime.num_workers):
        return stage.run(backbone, identity, work, skipped=labeled.train.skipped + labeled.test.skipped)


def _check_counts(**counts: tuple[int | None, int]) -> None:
    for name, (count, least) in counts.items():
        if count is not None and count < least:
            raise OptionError(name, "is too small", found=count, allowed=f"{least} or more")


def evaluation_data(evaluator: Evaluator, data: OpenedDataset) -> LabeledData:
    """What an evaluator gets: the labelled splits, or images alone where it needs no labels.

    Raises:
        DataError: see :meth:`OpenedDataset.labeled`; or there are no images.
    """
    if evaluator.needs_labels:
        return data.labeled()
    images = data.load("pretrain")
    if images is None:
        raise DataError("the data set has no images")
    return LabeledData(images, data.load("test") or images)


def check_pretraining(task: PretextTask, backbone: Backbone, data: Dataset) -> None:
    """Refuse a backbone that the task cannot work with.

    Raises:
        BackboneError: a capability is missing, or the backbone is built for another colour.
    """
    check_requirements(task.requires, backbone, type(task).__name__)
    wanted = task.image_spec(data.image())
    if backbone.image.color != wanted.color:
        raise BackboneError(
            f"{type(task).__name__} needs a backbone built for {wanted.color} images",
            found=backbone.image.color,
            fix="build it with task.image_spec(data.image())",
        )


def check_requirements(requires: frozenset[str], backbone: Backbone, user: str) -> None:
    """Refuse a backbone that lacks a capability.

    Raises:
        BackboneError: names what is missing.
    """
    if missing := sorted(requires - backbone.capabilities):
        raise BackboneError(
            f"{user} needs a backbone with {', '.join(missing)}",
            found=sorted(backbone.capabilities),
            fix=f"choose another backbone than {type(backbone).__name__}",
        )


def _pretrain(
    task: PretextTask,
    data: OpenedDataset,
    training: TrainingOptions,
    evaluate_every: int | None,
    snapshot_epochs: list[int],
    backbone: Backbone,
    context: RunContext,
) -> Outcome:
    images, heldout = data.load("pretrain"), data.load("test")
    assert images is not None
    _announce_notes(data, context)
    tell = partial(_announce_duplicates, "pretraining", len(heldout or ()), context)
    duplicates = None if heldout is None else data.duplicates(images, heldout, tell)
    with global_seed(derive_seed(context.seed, context.stage, "objective")):
        objective = task.build_objective(backbone, DataInfo(images.image, len(images)))
    train = Loader(images, batch_size=training.batch_size, device=context.device, options=training.augment)
    test = None if heldout is None else Loader(heldout, batch_size=training.batch_size, device=context.device)
    _announce_heldout(objective, heldout, context)
    snapshots = Snapshots(frozenset(snapshot_epochs), partial(_keep_snapshot, context.folder))
    result = fit(objective, train, test, training, context, evaluate_every=evaluate_every, snapshots=snapshots)
    metrics = {f"pretext_{key}": value for key, value in result.heldout.items()}
    facts: dict[str, Any] = {
        "steps": result.steps,
        "num_images": len(images),
        "test_images_in_pretrain": None if duplicates is None else duplicates.num_test_images,
        "classes": list(objective.classes),
        "snapshot_epochs": snapshot_epochs,
    }
    if result.rollbacks:
        facts["rollbacks"] = result.rollbacks
    return Outcome(metrics, objective.exported_backbone(), predictions=result.predictions, facts=facts)


@contextmanager
def _known_again(data: OpenedDataset) -> Iterator[None]:
    """A stage that is not the one in its folder may owe that to a data set that gives itself another fingerprint at every load."""
    try:
        yield
    except ArtifactError:
        data.check_fingerprints()
        raise


def _keep_snapshot(folder: Path | None, epoch: int, backbone: Backbone) -> None:
    assert folder is not None
    path = weights_path(folder, epoch)
    with writing(path):
        path.parent.mkdir(exist_ok=True)
    save_module(path, backbone)


def _announce_heldout(objective: Objective, heldout: ImageSet | None, context: RunContext) -> None:
    if heldout is None and objective.heldout_phase is not None:
        message = "the data has no held-out images: the pretext task is measured on training batches only"
        context.emit(Notice(stage=context.stage, message=message))


def _announce_notes(data: OpenedDataset, context: RunContext) -> None:
    for note in data.untold():
        context.emit(Notice(stage=context.stage, message=note))


def _announce_duplicates(use: str, num_test_images: int, context: RunContext, duplicates: Duplicates) -> None:
    message = f"{duplicates.num_test_images:,} of {num_test_images:,} test images are also {use} images ({duplicates.describe()})"
    context.emit(Notice(stage=context.stage, message=message))


def _evaluate(evaluator: Evaluator, data: LabeledData, opened: OpenedDataset, backbone: Backbone, context: RunContext) -> Outcome:
    _announce_notes(opened, context)
    duplicates = opened.duplicates(data.train, data.test, partial(_announce_duplicates, "training", len(data.test), context))
    before = state_hash(backbone) if evaluator.frozen else None
    with opened.lent_to(evaluator):
        evaluation = checked_evaluation(evaluator, evaluator.evaluate(backbone, data, context), data, context.stage)
    facts: dict[str, Any] = {
        "num_images": len(data.train),
        "num_test_images": len(data.test),
        "test_images_in_train": None if duplicates is None else duplicates.num_test_images,
        "classes": list(data.train.classes),
        "images_per_class": {split: class_counts(images) for split, images in data._asdict().items()},
    }
    if evaluation.predictions:
        facts["recall"] = {name: recalls(prediction) for name, prediction in evaluation.predictions.items()}
        _announce_few_classes(evaluation.predictions, context)
    if evaluator.frozen:
        facts["frozen_backbone"] = {"sha256_before": before, "sha256_after": state_hash(backbone)}
        _check_frozen(facts["frozen_backbone"], context.stage)
    return Outcome(evaluation.metrics, evaluation.backbone, evaluation.heads, evaluation.predictions, facts)


def _announce_few_classes(predictions: Mapping[str, Prediction], context: RunContext) -> None:
    """A classifier that names few of its classes has often learnt nothing, whatever its accuracy."""
    found = {name: few for name, prediction in predictions.items() if (few := few_classes(prediction))}
    if found:
        told = ", ".join(f"{name} {named} of {present}" for name, (named, present) in found.items())
        context.emit(Notice(stage=context.stage, message=f"few classes are ever predicted: {told} that the test images have"))


def _check_frozen(hashes: Mapping[str, str], stage: str) -> None:
    """A probe whose backbone moved measures something else: no figure of it may be kept."""
    if hashes["sha256_before"] != hashes["sha256_after"]:
        raise RunFailedError(
            f"stage {stage!r}: the backbone was to stay frozen and changed, so its figures are void",
            fix="report the evaluator: it trained the backbone or updated its BatchNorm statistics",
        )
