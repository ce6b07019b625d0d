"""The audit of a task: train it on images without content, and ask how far above chance it gets on others."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple, final

import torch
from torch import Tensor

from sslkit.audit.finding import Finding, accuracy, groups_of, pairs
from sslkit.audit.sources import COPIES, NOISE, SOURCES, Shape, measure_spectrum, to_uint8
from sslkit.catalog.catalog import Catalog
from sslkit.catalog.discovery import load_catalog
from sslkit.catalog.observers import Observers
from sslkit.contract.backbone import Backbone
from sslkit.contract.errors import DataError, OptionError, did_you_mean
from sslkit.contract.evaluator import RunContext
from sslkit.contract.events import Observer
from sslkit.contract.images import DataInfo, Dataset, ImageSet, ImageSpec
from sslkit.contract.objective import Prediction, PretextTask
from sslkit.contract.runtime import Runtime
from sslkit.data.arrays import ArraySet
from sslkit.data.cache import OpenedDataset
from sslkit.data.loader import Loader
from sslkit.recipe.describe import BackboneOptions, build_backbone_options
from sslkit.run.networks import check_pretraining, seen_by
from sslkit.run.stages import pretraining_images
from sslkit.training.device import configured, explaining_breakdown
from sslkit.training.fit import fit
from sslkit.training.options import TrainingOptions
from sslkit.training.schedules import Cosine
from sslkit.training.seeds import derive_seed, global_seed, make_generator

BACKBONE = {"name": "nin", "num_blocks": 3, "width": 0.25}
"""Small, and deep enough: a shortcut is low-level by definition."""

BATCH_SIZE = 32
"""Images an optimizer step: few, so that a short training has many steps."""

IMAGES_PER_GROUP = 4
"""Held-out images per forward pass: the order of their predictions is the objective's business, so they count as one group."""

MEASURED_IMAGES = 1024
"""Noise knows the data by its statistics, and so many images are enough for those."""

MIN_HELDOUT = 100
"""Images; fewer say nothing of chance."""

Build = Callable[[ImageSpec], Backbone]


@final
@dataclass(frozen=True, kw_only=True)
class AuditOptions:
    """How thorough an audit is.

    Attributes:
        sources: what the images are made of.
        num_images: to train on, of each source; half as many are held out.
        epochs: passes over them.
        seed: of all randomness.
    """

    sources: tuple[str, ...] = SOURCES
    num_images: int = 4096
    epochs: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        for source in self.sources:
            if source not in SOURCES:
                raise OptionError("source", "does not exist", found=source, allowed=SOURCES, fix=did_you_mean(source, SOURCES))
        if self.num_images < 2 * MIN_HELDOUT:
            raise OptionError(
                "num_images", "too few to distinguish from chance", found=self.num_images, allowed=f"{2 * MIN_HELDOUT} or more"
            )
        if self.epochs < 1:
            raise OptionError("epochs", "must be positive", found=self.epochs, allowed="1 or more")


class Samples(NamedTuple):
    """Two disjoint sets of images.

    Attributes:
        train: (N, C, H, W) uint8.
        heldout: (M, C, H, W) uint8.
    """

    train: Tensor
    heldout: Tensor


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
        training: only its optimizer and its augmentation are used.
        runtime: device, precision and the like; nothing is compiled.
        observers: are notified of every event.
        name: of the stage in these events.

    Returns:
        For each source a finding for each classifier in the objective: one, for most tasks.

    Raises:
        OptionError: the task predicts no classes.
        SslkitError: the kind says what else is wrong.
    """
    options, runtime = options or AuditOptions(), runtime or Runtime()
    data, build = OpenedDataset.of(data), backbone or small_backbone(load_catalog()).build
    notified = Observers(observers)
    context = RunContext(
        stage="audit",  # part of every random seed: two stages of one recipe are audited with the same draws
        seed=options.seed,
        device=runtime.resolve_device(),
        runtime=replace(runtime, compile=False),
        emit=lambda event: notified.observe(replace(event, stage=name)),
    )
    schedule = Cosine(warmup_epochs=0.1 * options.epochs)
    fitted = replace(training or TrainingOptions(), epochs=options.epochs, batch_size=BATCH_SIZE, schedule=schedule)
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
    started, who, image = time.perf_counter(), type(task).__name__, data.image()
    with global_seed(derive_seed(context.seed, context.stage)):  # the same network for every source
        backbone = build(seen_by(task, image))
        check_pretraining(task, backbone, data)
        objective = task.build_objective(backbone, DataInfo(image, num_images))
    _require_classes(objective.heldout_phase is not None and bool(objective.classes), who)
    samples = draw_samples(source, data, num_images, context.seed)
    for images, least in zip(samples, (BATCH_SIZE, MIN_HELDOUT), strict=True):  # a batch is filled, and a measurement means something
        if len(images) < least:
            raise DataError(f"too few images for {source}", found=len(images), allowed=f"{least} or more", fix="choose other sources")
    train, heldout = (ArraySet(pixels, image) for pixels in samples)
    result = fit(
        objective,
        Loader(train, batch_size=training.batch_size, device=context.device, options=training.augment),
        Loader(heldout, batch_size=IMAGES_PER_GROUP, device=context.device),
        training,
        context,
        evaluate_every=training.epochs,  # once, at the end
        keep_logits=True,
    )
    _require_classes(bool(result.predictions), who)
    for classifier, (_, targets, num_classes, _) in result.predictions.items():
        prediction = Prediction(result.logits[classifier], targets)
        if len(targets) % len(heldout):
            problem = "predicts some images more often than others, so predictions cannot be matched to images"
            raise OptionError("task", problem, found=f"{who}: {len(targets)} predictions of {len(heldout)} images")
        groups = groups_of(len(targets), len(heldout), IMAGES_PER_GROUP)
        yield Finding(
            source=source,
            classifier=classifier,
            # The objective's, unless this classifier is another than the one they are of.
            classes=objective.classes if len(objective.classes) == num_classes else tuple(map(str, range(num_classes))),
            num_images=len(train),
            num_heldout=len(heldout),
            accuracy=accuracy(prediction, groups),
            pairs=pairs(prediction, groups),
            seconds=time.perf_counter() - started,
        )


def _require_classes(given: bool, task: str) -> None:
    if not given:
        fix = "its objective must name its classes and hand over predictions on held-out images"
        raise OptionError("task", "predicts no classes, so there is no chance to compare with", found=task, fix=fix)


def draw_samples(source: str, data: Dataset, num_images: int, seed: int) -> Samples:
    """Make ``num_images`` to train on, and half as many to measure on, of one source.

    What is made of the data's images takes those to measure on from another split where there is one, else a third of these at most, and in
    any case other images. Where the data has fewer images, there are fewer of both.

    Raises:
        DataError: the data has no images to pretrain on.
    """
    images, num_heldout = pretraining_images(data), num_images // 2
    generator = make_generator(derive_seed(seed, "audit", "samples"))
    order = torch.randperm(len(images), generator=generator).tolist()
    if source in NOISE:
        spectrum = measure_spectrum(_read(images, order[:MEASURED_IMAGES]))
        noise = NOISE[source](spectrum, Shape(num_images + num_heldout, images.image.height, images.image.width), generator)
        return Samples(noise[:num_images], noise[num_images:])
    others = data.load("test")
    if others is None:
        num_heldout = min(num_heldout, len(order) // 3)
        heldout, train = _read(images, order[:num_heldout]), _read(images, order[num_heldout:][:num_images])
    else:
        heldout = _read(others, torch.randperm(len(others), generator=generator)[:num_heldout].tolist())
        train = _read(images, order[:num_images])
    return Samples(COPIES[source](train, generator), COPIES[source](heldout, generator))


def _read(images: ImageSet, indices: list[int]) -> Tensor:
    """(N, C, H, W) uint8, which is what the sources are made of; scaled images are rounded."""
    pixels = images.read(indices)
    return pixels if pixels.dtype == torch.uint8 else to_uint8(pixels)
