"""The two kinds of stages, pretraining and evaluation: from Python with :func:`pretrain` and :func:`evaluate`, which check what they are
given, and from a recipe, which was checked as a whole, with :func:`run_pretraining` and :func:`run_evaluation`.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypedDict, Unpack

from sslkit.catalog.source_code import SourceCode
from sslkit.contract.backbone import Backbone
from sslkit.contract.checks import check_arguments
from sslkit.contract.errors import DataError, OptionError, RunFailedError
from sslkit.contract.evaluator import Evaluator
from sslkit.contract.events import Observer
from sslkit.contract.images import DataInfo, Dataset, ImageSet, LabeledData
from sslkit.contract.objective import Objective, PretextTask
from sslkit.contract.runtime import Runtime
from sslkit.data.cache import OpenedDataset, class_counts
from sslkit.data.loader import Loader
from sslkit.evaluators.classifier import few_classes, recalls
from sslkit.evaluators.quality import Quality
from sslkit.run.artifacts import save_module, weights_path
from sslkit.run.environment import Surroundings
from sslkit.run.networks import check_channels, check_pretraining, check_requirements
from sslkit.run.stage_folder import Outcome, StageResult, begin
from sslkit.storage.atomic import writing
from sslkit.storage.identity import CODE, plain, state_hash
from sslkit.training.collapse import Watched
from sslkit.training.fit import Snapshots, fit
from sslkit.training.handover import checked_evaluation
from sslkit.training.options import TrainingOptions, check_epochs, spread_epochs
from sslkit.training.phase_optimizers import FINAL_DECAY
from sslkit.training.seeds import derive_seed, global_seed


class Keywords(TypedDict, total=False):
    """The :class:`~sslkit.run.environment.Surroundings` of a stage as keywords, none of which must be given; the name is by default the
    function's own.

    Attributes:
        device: where to compute, as in a recipe: a short form of ``runtime``.
    """

    name: str
    output: str | Path | None
    seed: int
    device: str
    runtime: Runtime | None
    observers: Iterable[Observer]
    should_stop: Callable[[], bool] | None


def pretrain(
    task: PretextTask,
    backbone: Backbone,
    data: Dataset,
    *,
    training: TrainingOptions | None = None,
    evaluate_every: int | None = None,
    snapshot_epochs: Iterable[int] = (),
    quality_epochs: Iterable[int] | None = None,
    **surroundings: Unpack[Keywords],
) -> StageResult:
    """Pretrain a backbone without labels.

    Args:
        task: the pretext task.
        backbone: built for ``task.image_spec(data.image())``; it is copied, not changed.
        data: its ``pretrain`` images are trained on; its ``test`` images, where it has any, measure the pretext task.
        training: epochs, batch size, optimizer, schedule, augmentation.
        evaluate_every: epochs between measurements on held-out images, 1 or more; None: ten times over the run.
        snapshot_epochs: epochs after which the network is kept too, 0 for the untrained one; needs ``output``.
        quality_epochs: epochs after which the features' quality is measured and logged; None: those of snapshots, or at most ten over
            the run; empty: never.
        **surroundings: where and how: see :class:`Keywords`.

    Returns:
        The pretrained backbone, and ``pretext_*`` metrics on held-out images.

    Raises:
        SslkitError: the kind says what is wrong.
    """
    check_arguments(pretrain, task=task, backbone=backbone, training=training, evaluate_every=evaluate_every)
    if evaluate_every is not None and evaluate_every < 1:
        raise OptionError("evaluate_every", "is too small", found=evaluate_every, allowed="1 or more")
    where, training = _surroundings("pretrain", surroundings), training or TrainingOptions()
    opened = OpenedDataset.of(data)
    training.check_batch_size(len(pretraining_images(opened)))
    check_pretraining(task, backbone, opened)
    snapshots = check_epochs("snapshot_epochs", snapshot_epochs, training.epochs)
    quality = None if quality_epochs is None else check_epochs("quality_epochs", quality_epochs, training.epochs)
    if snapshots and where.output is None:
        raise OptionError("snapshot_epochs", "there is no folder to keep them in", found=snapshots, fix="give output")
    return run_pretraining(
        task,
        backbone,
        opened,
        training=training,
        evaluate_every=evaluate_every,
        snapshot_epochs=snapshots,
        quality_epochs=quality,
        surroundings=where,
    )


def evaluate(evaluator: Evaluator, backbone: Backbone, data: Dataset, **surroundings: Unpack[Keywords]) -> StageResult:
    """Measure a backbone with labels.

    Args:
        evaluator: a probe, fine-tuning, nearest neighbours ...
        backbone: what to measure; it is copied, not changed.
        data: must have labelled ``train`` and ``test`` images.
        **surroundings: where and how: see :class:`Keywords`.

    Returns:
        The metrics, and the trained backbone where the evaluator trains one.

    Raises:
        RunFailedError: the evaluator is frozen, and yet the backbone changed; or it wrote into the images or labels.
        SslkitError: the kind says what is wrong.
    """
    check_arguments(evaluate, evaluator=evaluator, backbone=backbone)
    where, opened = _surroundings("evaluate", surroundings), OpenedDataset.of(data)
    labeled = evaluation_data(evaluator, opened)
    check_requirements(evaluator.requires, backbone, type(evaluator).__name__)
    check_channels(backbone, opened.image())
    with opened.lent_to(evaluator):
        evaluator.check(backbone, labeled)
    return run_evaluation(evaluator, backbone, opened, where)


def run_pretraining(
    task: PretextTask,
    backbone: Backbone,
    data: OpenedDataset,
    *,
    training: TrainingOptions,
    evaluate_every: int | None,
    snapshot_epochs: list[int],
    quality_epochs: list[int] | None,
    surroundings: Surroundings,
) -> StageResult:
    """What :func:`pretrain` does once everything is checked."""
    images, heldout = pretraining_images(data), data.load("test")
    identity = pretraining_identity(task, data, training, snapshot_epochs)
    identity[CODE] = SourceCode().of(task, training, backbone, data.source)
    with begin("pretrain", backbone, data, surroundings, identity, skipped=images.skipped) as stage:
        if stage.finished:
            return stage.finished
        context = stage.context
        duplicates = None if heldout is None else stage.count_duplicates("pretraining", images, heldout)
        with global_seed(derive_seed(context.seed, context.stage, "objective")):
            objective = task.build_objective(stage.backbone(), DataInfo(images.image, len(images)))
        if stage.continues:
            stage.notify(_continued(stage.continues, training, objective))
        train = Loader(images, batch_size=training.batch_size, device=context.device, options=training.augment)
        test = None if heldout is None else Loader(heldout, batch_size=training.batch_size, device=context.device)
        if heldout is None and objective.heldout_phase is not None:
            stage.notify("the data has no held-out images: the pretext task is measured on training batches only")
        snapshots = Snapshots(frozenset(snapshot_epochs), partial(_keep_snapshot, context.folder))
        quality = Quality(test or train, _labeled(data), context)
        if quality_epochs is None:
            quality_epochs = snapshot_epochs or spread_epochs(training.epochs, quality.most_times(training.epochs * len(images)))
        watched = Watched(frozenset(quality_epochs), quality)
        result = fit(objective, train, test, training, context, evaluate_every=evaluate_every, snapshots=snapshots, watched=watched)
        facts: dict[str, Any] = {
            "steps": result.steps,
            "num_images": len(images),
            "test_images_in_pretrain": duplicates,
            "classes": list(objective.classes),
            "snapshot_epochs": snapshot_epochs,
        }
        if training.rate_notes:
            facts["scaled_rates"] = training.rate_notes
        if result.alarms:
            facts["alarms"] = list(result.alarms)
        if result.rollbacks:
            facts["rollbacks"] = result.rollbacks
        metrics = {f"pretext_{key}": value for key, value in result.heldout.items()}
        return stage.finish(Outcome(metrics, objective.exported_backbone(), predictions=result.predictions, facts=facts))


def run_evaluation(evaluator: Evaluator, backbone: Backbone, data: OpenedDataset, surroundings: Surroundings) -> StageResult:
    """What :func:`evaluate` does once everything is checked."""
    labeled, identity = evaluation_data(evaluator, data), evaluation_identity(evaluator, data)
    identity[CODE] = SourceCode().of(evaluator, backbone, data.source)
    skipped = labeled.train.skipped + labeled.test.skipped
    with begin("evaluate", backbone, data, surroundings, identity, skipped=skipped) as stage:
        if stage.finished:
            return stage.finished
        context, backbone = stage.context, stage.backbone()
        duplicates = stage.count_duplicates("training", labeled.train, labeled.test)
        before = state_hash(backbone) if evaluator.frozen else None
        with data.lent_to(evaluator):
            evaluation = checked_evaluation(evaluator, evaluator.evaluate(backbone, labeled, context), labeled, context.stage)
        facts: dict[str, Any] = {
            "num_images": len(labeled.train),
            "num_test_images": len(labeled.test),
            "test_images_in_train": duplicates,
            "classes": list(labeled.train.classes),
            "images_per_class": {split: class_counts(images) for split, images in labeled._asdict().items()},
        }
        if evaluation.predictions:
            facts["recall"] = {name: recalls(classified) for name, classified in evaluation.predictions.items()}
            # A classifier that names few of its classes has often learnt nothing, whatever its accuracy.
            if found := {name: few for name, classified in evaluation.predictions.items() if (few := few_classes(classified))}:
                few = ", ".join(f"{name} {named} of {present}" for name, (named, present) in found.items())
                stage.notify(f"few classes are ever predicted: {few} that the test images have")
        if evaluator.frozen:
            facts["frozen_backbone"] = {"sha256_before": before, "sha256_after": (after := state_hash(backbone))}
            if before != after:  # a probe whose backbone moved measures something else: no metric of it may be kept
                raise RunFailedError(
                    f"stage {context.stage!r}: the frozen backbone changed, so its metrics are invalid",
                    fix="report the evaluator: it trained the backbone or updated its BatchNorm statistics",
                )
        return stage.finish(Outcome(evaluation.metrics, evaluation.backbone, evaluation.heads, evaluation.predictions, facts))


def pretraining_identity(task: PretextTask, data: OpenedDataset, training: TrainingOptions, snapshot_epochs: list[int]) -> dict[str, Any]:
    """What decides the outcome of a pretraining, except for code and surroundings."""
    images, heldout = pretraining_images(data), data.load("test")
    identity: dict[str, Any] = {
        "task": plain(task),
        "training": plain(training),
        "data": {"pretrain": images.fingerprint, "heldout": heldout.fingerprint if heldout else None},
    }
    return identity | ({"snapshot_epochs": snapshot_epochs} if snapshot_epochs else {})


def evaluation_identity(evaluator: Evaluator, data: OpenedDataset) -> dict[str, Any]:
    """What decides the outcome of an evaluation, except for code and surroundings."""
    labeled = evaluation_data(evaluator, data)
    return {"evaluator": plain(evaluator), "data": {"train": labeled.train.fingerprint, "test": labeled.test.fingerprint}}


def pretraining_images(data: Dataset) -> ImageSet:
    """The images to pretrain on.

    Raises:
        DataError: there are none.
    """
    images = data.load("pretrain")
    if images is None:
        raise DataError("the dataset has no images to pretrain on")
    return images


def evaluation_data(evaluator: Evaluator, data: OpenedDataset) -> LabeledData:
    """What an evaluator gets: the labelled splits, or images alone where it needs no labels.

    Raises:
        DataError: see :meth:`OpenedDataset.labeled`; or there are no images.
    """
    if evaluator.needs_labels:
        return data.labeled()
    images = data.load("pretrain")
    if images is None:
        raise DataError("the dataset has no images")
    return LabeledData(images, data.load("test") or images)


def _continued(before: Mapping[str, Any], training: TrainingOptions, objective: Objective) -> str:
    """How a training that is continued with more epochs differs from one that has had them from the start."""
    old, new, parts = before["epochs"], training.epochs, [i / 100 for i in range(101)]
    rates = [(training.schedule.scale(part * old, old), training.schedule.scale(part * old, new)) for part in parts]
    same_rates = before["schedule"] == plain(training.schedule) and all(map(math.isclose, *zip(*rates, strict=True)))
    groups = [group for phase in objective.parameter_groups().values() for group in phase]
    options = [*groups, *map(vars, training.optimizers_for(objective.phases).values())]
    others = [] if same_rates else ["learning rate"]
    others += ["weight decay"] if any(each.get(FINAL_DECAY) is not None for each in options) else []
    others += [name for name, value in objective.schedules().items() if any(value(part) != value(part * old / new) for part in parts)]
    text = f"continues a training of {old} epoch{'s' * (old != 1)} after step {before['steps']:,}, and has {new} now"
    return f"{text}; what it had before differs from {new} epochs from the start: {', '.join(others)}" if others else text


def _labeled(data: OpenedDataset) -> LabeledData | None:
    """The labelled splits, where there are any."""
    try:
        return data.labeled()
    except DataError:
        return None


def _surroundings(name: str, keywords: Keywords) -> Surroundings:
    given = {"name": name, **keywords}
    runtime = given.pop("runtime", None) or Runtime()
    if "device" in given:
        runtime = replace(runtime, device=given.pop("device"))
    return Surroundings(runtime=runtime, **given)


def _keep_snapshot(folder: Path | None, epoch: int, backbone: Backbone) -> None:
    assert folder is not None
    path = weights_path(folder, epoch)
    with writing(path):
        path.parent.mkdir(exist_ok=True)
    save_module(path, backbone)
