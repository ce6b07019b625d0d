"""The audit of a task: train it on contentless images, and ask how far above chance it gets on others."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from torch import Tensor

from sslkit.audit.finding import Finding
from sslkit.audit.intervals import accuracy, groups_of, pairs
from sslkit.audit.options import MIN_HELDOUT, AuditOptions
from sslkit.audit.samples import Samples, draw_samples
from sslkit.catalog.catalog import Catalog
from sslkit.catalog.discovery import load_catalog
from sslkit.catalog.observers import Observers
from sslkit.contract.backbone import Backbone
from sslkit.contract.errors import DataError, OptionError
from sslkit.contract.evaluator import RunContext
from sslkit.contract.events import Emit, Observer
from sslkit.contract.images import DataInfo, Dataset, ImageSpec
from sslkit.contract.objective import Objective, Prediction, PretextTask
from sslkit.data.arrays import ArraySet
from sslkit.data.cache import OpenedDataset
from sslkit.data.loader import Loader
from sslkit.recipe.describe import BackboneOptions, build_backbone_options
from sslkit.run.stages import check_pretraining
from sslkit.training.breakdown import explaining_breakdown
from sslkit.training.device import Runtime, configured
from sslkit.training.fit import fit
from sslkit.training.options import TrainingOptions
from sslkit.training.schedules import Cosine
from sslkit.training.seeds import derive_seed, global_seed

BACKBONE = {"name": "nin", "num_blocks": 3, "width": 0.25}
"""Small, and deep enough: a shortcut is low-level by definition."""

BATCH_SIZE = 32
"""Images an optimiser step: few, so that a short training has many steps."""

IMAGES_PER_GROUP = 4
"""Held-out images a forward pass: the order of their predictions is the objective's business, so they count as one group."""

Build = Callable[[ImageSpec], Backbone]


def audit_task(
    task: PretextTask,
    data: Dataset,
    *,
    options: AuditOptions | None = None,
    backbone: Build | None = None,
    training: TrainingOptions | None = None,
    runtime: Runtime | None = None,
    observers: Iterable[Observer] = (),
    name: str = "audit",
) -> tuple[Finding, ...]:
    """Measure how well a pretext task is solved on images without content: above chance, its views have traces to cheat with.

    Args:
        task: the pretext task; it must predict classes.
        data: what the images are made of, or made to resemble.
        options: how thorough to be.
        backbone: builds a network for an image spec; None: a small convolutional one.
        training: only its optimiser and its augmentation are used.
        runtime: device, precision and the like; nothing is compiled.
        observers: told of every event.
        name: of the stage in these events.

    Returns:
        For each source a finding for each classifier in the objective: one, for most tasks.

    Raises:
        OptionError: the task predicts no classes.
        SslkitError: the kind says what else is wrong.
    """
    options = options or AuditOptions()
    data = data if isinstance(data, OpenedDataset) else OpenedDataset(data)
    build = backbone or small_backbone(load_catalog()).build
    runtime = runtime or Runtime()
    context = _context(runtime, options.seed, name, Observers(observers))
    fitted = _training(options, training or TrainingOptions())
    with explaining_breakdown(f"the audit of {type(task).__name__}", context.device), configured(runtime, context.device):
        return tuple(
            finding
            for source in options.sources
            for finding in _audit(source, task, data, build, fitted, options.num_images, replace(context, part=source))
        )


def small_backbone(catalog: Catalog) -> BackboneOptions:
    """The network that an audit trains unless the task asks for capabilities that it lacks."""
    return build_backbone_options(BACKBONE, "backbone", catalog)


def _audit(
    source: str, task: PretextTask, data: Dataset, build: Build, training: TrainingOptions, num_images: int, context: RunContext
) -> Iterator[Finding]:
    """One source: untrained network, images, training, measurement, statistics."""
    started = time.perf_counter()
    objective = _objective(task, data, build, num_images, context)
    samples = _checked(draw_samples(source, data, num_images, context.seed), source)
    train, heldout = (ArraySet(pixels, data.image()) for pixels in samples)
    result = fit(
        objective,
        Loader(train, batch_size=training.batch_size, device=context.device, options=training.augment),
        Loader(heldout, batch_size=IMAGES_PER_GROUP, device=context.device),
        training,
        context,
        evaluate_every=training.epochs,  # once, at the end
    )
    _require_classes(bool(result.predictions), task)
    for classifier, prediction in result.predictions.items():
        groups = _groups(prediction, len(heldout), task)
        yield Finding(
            source=source,
            classifier=classifier,
            classes=_class_names(objective, prediction),
            num_images=len(train),
            num_heldout=len(heldout),
            accuracy=accuracy(prediction, groups),
            pairs=pairs(prediction, groups),
            seconds=time.perf_counter() - started,
        )


def _objective(task: PretextTask, data: Dataset, build: Build, num_images: int, context: RunContext) -> Objective:
    """The task around an untrained network, the same one for every source."""
    with global_seed(derive_seed(context.seed, context.stage)):
        backbone = build(task.image_spec(data.image()))
        check_pretraining(task, backbone, data)
        objective = task.build_objective(backbone, DataInfo(data.image(), num_images))
    _require_classes(objective.heldout_phase is not None and bool(objective.classes), task)
    return objective


def _require_classes(given: bool, task: PretextTask) -> None:
    if not given:
        fix = "its objective must name its classes and hand over predictions on held-out images"
        raise OptionError("task", "predicts no classes, so there is no chance to compare with", found=type(task).__name__, fix=fix)


def _checked(samples: Samples, source: str) -> Samples:
    """Refuse too small a measurement, and a batch that the images do not fill."""
    for images, least in ((samples.train, BATCH_SIZE), (samples.heldout, MIN_HELDOUT)):
        if len(images) < least:
            raise DataError(f"too few images for {source}", found=len(images), allowed=f"{least} or more", fix="choose other sources")
    return samples


def _groups(prediction: Prediction, num_images: int, task: PretextTask) -> Tensor:
    if len(prediction.targets) % num_images:
        raise OptionError(
            "task",
            "predicts some images more often than others, so nobody knows which predictions are of one image",
            found=f"{type(task).__name__}: {len(prediction.targets)} predictions of {num_images} images",
        )
    return groups_of(len(prediction.targets), num_images, IMAGES_PER_GROUP)


def _class_names(objective: Objective, prediction: Prediction) -> tuple[str, ...]:
    """The objective's, unless this classifier is another than the one they are of."""
    num_classes = prediction.logits.shape[1]
    return objective.classes if len(objective.classes) == num_classes else tuple(map(str, range(num_classes)))


def _training(options: AuditOptions, given: TrainingOptions) -> TrainingOptions:
    schedule = Cosine(warmup_epochs=0.1 * options.epochs)
    return replace(given, epochs=options.epochs, batch_size=BATCH_SIZE, schedule=schedule)


def _context(runtime: Runtime, seed: int, name: str, observers: Observers) -> RunContext:
    device = runtime.resolve_device()
    return RunContext(
        stage="audit",  # part of every random seed: two stages of one recipe are audited with the same draws
        seed=seed,
        device=device,
        autocast=runtime.resolve_autocast(device),
        channels_last=runtime.channels_last,
        log_every=runtime.log_every,
        emit=_named(name, observers),
    )


def _named(name: str, observers: Observers) -> Emit:
    return lambda event: observers.observe(replace(event, stage=name))
