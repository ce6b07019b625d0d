"""Pretraining and evaluation from Python: :func:`pretrain` and :func:`evaluate` check what they are given, then do what a recipe's stage does."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TypedDict, Unpack

from sslkit.contract.backbone import Backbone
from sslkit.contract.checks import check_arguments
from sslkit.contract.errors import OptionError
from sslkit.contract.evaluator import Evaluator
from sslkit.contract.events import Observer
from sslkit.contract.images import Dataset
from sslkit.contract.objective import PretextTask
from sslkit.contract.runtime import Runtime
from sslkit.data.cache import OpenedDataset
from sslkit.run.evaluation import evaluation_data, run_evaluation
from sslkit.run.networks import check_pretraining, check_requirements
from sslkit.run.pretraining import pretraining_images, run_pretraining
from sslkit.run.stage_folder import StageResult
from sslkit.run.surroundings import Surroundings
from sslkit.training.options import TrainingOptions, check_snapshots


class Keywords(TypedDict, total=False):
    """The surroundings of a stage, as keywords: see :class:`~sslkit.run.stage_folder.Surroundings`.

    Attributes:
        name: of the stage; part of every random seed; by default the function's own.
        output: the stage's folder: checkpoints, metrics, the artifact. A finished stage in it is not repeated, an interrupted one is
            resumed. None, the default, keeps nothing.
        seed: of all randomness, 0 or more; by default 0.
        device: where to compute, as in a recipe: a short form of ``runtime``.
        runtime: device, precision and the like.
        observers: are notified of every event.
        should_stop: asked after every step, and after every batch that is only measured.
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
    opened = data if isinstance(data, OpenedDataset) else OpenedDataset(data)
    training.check_batch_size(len(pretraining_images(opened)))
    check_pretraining(task, backbone, opened)
    snapshots = check_snapshots(snapshot_epochs, training.epochs)
    if snapshots and where.output is None:
        raise OptionError("snapshot_epochs", "there is no folder to keep them in", found=snapshots, fix="give output")
    return run_pretraining(
        task, backbone, opened, training=training, evaluate_every=evaluate_every, snapshot_epochs=snapshots, surroundings=where
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
    where = _surroundings("evaluate", surroundings)
    opened = data if isinstance(data, OpenedDataset) else OpenedDataset(data)
    labeled = evaluation_data(evaluator, opened)
    check_requirements(evaluator.requires, backbone, type(evaluator).__name__)
    with opened.lent_to(evaluator):
        evaluator.check(backbone, labeled)
    return run_evaluation(evaluator, backbone, opened, surroundings=where)


def _surroundings(name: str, keywords: Keywords) -> Surroundings:
    given = {"name": name, **keywords}
    runtime = given.pop("runtime", None) or Runtime()
    if "device" in given:
        runtime = replace(runtime, device=given.pop("device"))
    return Surroundings(runtime=runtime, **given)
