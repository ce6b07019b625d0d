"""What an evaluation stage does."""

from collections.abc import Mapping
from typing import Any

from sslkit.catalog.source_code import SourceCode
from sslkit.contract.backbone import Backbone
from sslkit.contract.errors import DataError, RunFailedError
from sslkit.contract.evaluator import Evaluator, RunContext
from sslkit.contract.events import Notice
from sslkit.contract.images import LabeledData
from sslkit.contract.objective import Classified
from sslkit.data.cache import OpenedDataset, class_counts
from sslkit.evaluators.classifier import few_classes, recalls
from sslkit.run.stage_folder import Outcome, StageFolder, StageResult, begin
from sslkit.run.surroundings import Surroundings
from sslkit.storage.identity import CODE, plain, state_hash
from sslkit.training.handover import checked_evaluation


def run_evaluation(evaluator: Evaluator, backbone: Backbone, data: OpenedDataset, surroundings: Surroundings) -> StageResult:
    """What :func:`~sslkit.run.stages.evaluate` does once everything is checked."""
    labeled = evaluation_data(evaluator, data)
    identity = {
        "evaluator": plain(evaluator),
        "data": {"train": labeled.train.fingerprint, "test": labeled.test.fingerprint},
        CODE: SourceCode().of(evaluator, backbone, data.source),
    }
    skipped = labeled.train.skipped + labeled.test.skipped
    with begin("evaluate", backbone, data, surroundings, identity, skipped=skipped) as stage:
        return stage.finished or stage.finish(_work(stage, evaluator, labeled, data))


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


def _work(stage: StageFolder, evaluator: Evaluator, data: LabeledData, opened: OpenedDataset) -> Outcome:
    context, backbone = stage.context, stage.backbone()
    duplicates = stage.count_duplicates("training", data.train, data.test)
    before = state_hash(backbone) if evaluator.frozen else None
    with opened.lent_to(evaluator):
        evaluation = checked_evaluation(evaluator, evaluator.evaluate(backbone, data, context), data, context.stage)
    facts: dict[str, Any] = {
        "num_images": len(data.train),
        "num_test_images": len(data.test),
        "test_images_in_train": duplicates,
        "classes": list(data.train.classes),
        "images_per_class": {split: class_counts(images) for split, images in data._asdict().items()},
    }
    if evaluation.predictions:
        facts["recall"] = {name: recalls(classified) for name, classified in evaluation.predictions.items()}
        _warn_of_few_classes(evaluation.predictions, context)
    if evaluator.frozen:
        facts["frozen_backbone"] = {"sha256_before": before, "sha256_after": (after := state_hash(backbone))}
        if before != after:  # a probe whose backbone moved measures something else: no metric of it may be kept
            raise RunFailedError(
                f"stage {context.stage!r}: the backbone was to stay frozen and changed, so its metrics are void",
                fix="report the evaluator: it trained the backbone or updated its BatchNorm statistics",
            )
    return Outcome(evaluation.metrics, evaluation.backbone, evaluation.heads, evaluation.predictions, facts)


def _warn_of_few_classes(predictions: Mapping[str, Classified], context: RunContext) -> None:
    """A classifier that names few of its classes has often learnt nothing, whatever its accuracy."""
    found = {name: few for name, classified in predictions.items() if (few := few_classes(classified))}
    if found:
        few = ", ".join(f"{name} {named} of {present}" for name, (named, present) in found.items())
        context.emit(Notice(stage=context.stage, message=f"few classes are ever predicted: {few} that the test images have"))
