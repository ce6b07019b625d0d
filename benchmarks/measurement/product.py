"""sslkit end to end: the recipe's stages through the public calls, with their log, a progress display and checkpoints."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from rich.console import Console
from torch import Generator, Tensor

from measurement.gate import Gate
from measurement.workload import CROP_PADDING, HEADS, NUM_CLASSES, NUM_FEATURES, Workload
from sslkit import (
    SGD,
    Augment,
    Batch,
    ConvProbe,
    DataInfo,
    Evaluator,
    Event,
    FineTune,
    LinearProbe,
    Loader,
    MLPProbe,
    MultiStep,
    Observer,
    StepEnd,
    TrainingOptions,
    evaluate,
    extract_features,
    pretrain,
)
from sslkit.cli.console import ProgressDisplay
from sslkit.contract.runtime import Runtime
from sslkit.data.arrays import ArraySet
from sslkit.evaluators.knn import vote
from sslkit.training.device import configured
from sslkit.training.features import BatchSource
from sslkit_rotnet import RotNet

AUGMENT = Augment(crop_padding=CROP_PADDING, horizontal_flip=True)


def run(workload: Workload, gate: Gate) -> None:
    """See :class:`measurement.worker.Variant`: with everything that a run of a recipe has, and checkpoints twice a minute."""
    jobs = {"features": _extract, "data_path": _data_path, "knn": _vote}
    if workload.job in jobs:
        with configured(Runtime(), workload.device):
            jobs[workload.job](workload, gate)
    _observed(workload, gate, checkpoint_minutes=0.5)


def run_eager(workload: Workload, gate: Gate) -> None:
    """As :func:`run`, a stage that trains, not compiled."""
    _observed(workload, gate, checkpoint_minutes=0.5, compile=False)


def run_compiled(workload: Workload, gate: Gate) -> None:
    """As :func:`run_eager`, but compiled."""
    _observed(workload, gate, checkpoint_minutes=0.5, compile=True)


def run_graphs(workload: Workload, gate: Gate) -> None:
    """As :func:`run_compiled`, and replayed as a CUDA graph."""
    _observed(workload, gate, checkpoint_minutes=0.5, compile=True, cuda_graphs=True)


def run_without_checkpoints(workload: Workload, gate: Gate) -> None:
    """As :func:`run`, but only the log and the progress display."""
    _observed(workload, gate, checkpoint_minutes=1e9)


def run_with_checkpoint_each_step(workload: Workload, gate: Gate) -> None:
    """As :func:`run`, but each step writes a checkpoint."""
    _observed(workload, gate, checkpoint_minutes=0.0)


def run_bare(workload: Workload, gate: Gate) -> None:
    """The same training with nobody watching, and nothing kept."""
    while True:
        _stage(workload, observers=[_Gatekeeper(gate)])


class _Gatekeeper(Observer):
    """Holds the training loop between two slices, in the middle of its own event."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def observe(self, event: Event) -> None:
        if isinstance(event, StepEnd):
            self._gate.step(event.num_images)


def _observed(workload: Workload, gate: Gate, **options: Any) -> None:
    runtime = Runtime(device=str(workload.device), **options)
    with Path(os.devnull).open("w") as nowhere:
        observers = [ProgressDisplay(Console(file=nowhere)), _Gatekeeper(gate)]
        while True:  # small data may be trained to the end
            with TemporaryDirectory(dir=workload.folder) as folder:
                _stage(workload, output=f"{folder}/stage", runtime=runtime, observers=observers)


def _stage(workload: Workload, **surroundings: Any) -> None:
    data = workload.data()
    backbone = workload.network(data.image())
    options: dict[str, Any] = {"epochs": 100, "batch_size": workload.batch_size, "augment": AUGMENT, "optimizer": SGD()}
    if workload.job == "pretrain":
        training = TrainingOptions(**options, schedule=MultiStep(milestones=(30, 60, 80), gamma=0.2))
        pretrain(RotNet(), backbone, data, training=training, **surroundings)
    else:
        options["schedule"] = MultiStep(milestones=(35, 70, 85), gamma=0.2)
        evaluate(_evaluator(workload, options), backbone, data, **surroundings)


def _evaluator(workload: Workload, options: dict[str, Any]) -> Evaluator:
    kind = HEADS[workload.job]
    if workload.job == "finetune":
        return FineTune(layer=workload.used_layers[0], head=kind, **options)
    return {"linear": LinearProbe, "mlp": MLPProbe, "conv": ConvProbe}[kind](layers=workload.used_layers, **options)


class _GatedSource(BatchSource):
    """A loader that lets the gate know of a batch when its reader comes back for the next."""

    def __init__(self, loader: Loader, gate: Gate) -> None:
        self._loader = loader
        self._gate = gate
        self.batch_size = loader.batch_size
        self.device = loader.device

    @property
    def num_images(self) -> int:
        return self._loader.num_images

    @property
    def fingerprint(self) -> str:
        return self._loader.fingerprint

    def batches(
        self, order: Tensor, *, start: int = 0, sizes: Sequence[int] | None = None, generator: Generator | None = None
    ) -> Iterator[Batch]:
        for batch in self._loader.batches(order, start=start, sizes=sizes, generator=generator):
            yield batch
            self._gate.step(len(batch.indices))

    def in_order(self) -> Iterator[Batch]:
        return self.batches(torch.arange(self.num_images))


def _extract(workload: Workload, gate: Gate) -> None:
    backbone = workload.network(workload.data().image()).to(workload.device)
    backbone.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] - missing from torch's stub
    source = _GatedSource(Loader(_train_set(workload), batch_size=workload.batch_size, device=workload.device), gate)
    while True:
        extract_features(backbone, source, workload.used_layers, Runtime().resolve_autocast(workload.device))


def _data_path(workload: Workload, gate: Gate) -> None:
    images = _train_set(workload)
    objective = RotNet().build_objective(workload.network(images.image), DataInfo(images.image, len(images))).to(workload.device)
    loader = Loader(images, batch_size=workload.batch_size, device=workload.device, options=AUGMENT)
    generator = Generator(workload.device)
    while True:
        for batch in loader.batches(torch.randperm(len(images)), generator=generator):
            objective.make_views(batch, generator, train=True)
            gate.step(len(batch.indices))


def _vote(workload: Workload, gate: Gate) -> None:
    bank, queries = (torch.randn(len(workload.images(split)), NUM_FEATURES, device=workload.device) for split in ("train", "test"))
    labels = workload.labels(len(bank)).to(workload.device)
    while True:
        vote(bank, labels, queries, NUM_CLASSES, k=20, temperature=0.07)
        gate.step(len(queries))


def _train_set(workload: Workload) -> ArraySet:
    images = workload.data().load("train")
    assert images is not None
    return images
