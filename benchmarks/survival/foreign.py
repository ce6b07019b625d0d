# ruff: noqa: D101, D102 - its contract says what the methods are
"""A method as a stranger would write it, in every role at once: a task with an EMA teacher and hooks that draw, an optimizer whose state lies
beside its parameters, a schedule, a dataset that is decoded as it is needed, an evaluator that trains, and an observer.
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from sslkit import (
    Backbone,
    Batch,
    DataInfo,
    Dataset,
    Evaluation,
    Evaluator,
    Event,
    ImageSet,
    ImageSpec,
    LabeledData,
    Mean,
    Objective,
    Observer,
    OptimizerFactory,
    PretextTask,
    RunContext,
    Schedule,
    Step,
    StepOutput,
    TrainContext,
    TrainingOptions,
    fit,
)
from sslkit.data.loader import Loader

SIZE, CLASSES = 12, ("dark", "bright")


@dataclass(frozen=True, kw_only=True)
class Stripes(Dataset):
    """Noise with stripes of two brightnesses.

    Attributes:
        num_images: to train on; a third as many to test.
    """

    num_images: int = 60

    def image(self) -> ImageSpec:
        return ImageSpec(SIZE, SIZE, "rgb", (0.5,) * 3, (0.25,) * 3)

    def load(self, split: str) -> ImageSet:
        labeled = split != "pretrain"
        return StripesSet(self.image(), self.num_images // 3 if split == "test" else self.num_images, seed=split == "test", labeled=labeled)


class StripesSet(ImageSet):
    """Computes each image when it is read."""

    def __init__(self, image: ImageSpec, num_images: int, *, seed: int, labeled: bool) -> None:
        self.image = image
        self.labels = torch.arange(num_images) % 2 if labeled else None
        self.classes = CLASSES if labeled else ()
        self.fingerprint = f"stripes {num_images} {seed}"
        self._seed = seed
        self._num_images = num_images

    def __len__(self) -> int:
        return self._num_images

    def read(self, indices: Sequence[int]) -> Tensor:
        return torch.stack([self._draw(index) for index in indices])

    def _draw(self, index: int) -> Tensor:
        pixels = torch.randint(0, 100, (3, SIZE, SIZE), generator=torch.Generator().manual_seed(2 * index + self._seed))
        pixels[:, index % 3 :: 3] += 60 + 90 * (index % 2)
        return pixels.to(torch.uint8)


@dataclass(frozen=True, kw_only=True)
class Follow(PretextTask):
    """Say what a teacher, a moving average, says of another view.

    Attributes:
        momentum: of the average at the start; it rises to 1.
    """

    momentum: float = 0.9

    def build_objective(self, backbone: Backbone, data: DataInfo) -> Objective:
        return Follower(backbone, self)


class Follower(Objective):
    heldout_phase = "main"
    center: Tensor

    def __init__(self, backbone: Backbone, options: Follow) -> None:
        super().__init__(backbone)
        self.options = options
        width = backbone.feature_info[-1].num_chs
        self.predictor = nn.Sequential(nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.1), nn.Linear(width, width))
        self.teacher = copy.deepcopy(backbone).requires_grad_(False)
        self.register_buffer("center", torch.zeros(width))

    def schedules(self) -> dict[str, Callable[[float], float]]:
        return {"momentum": lambda progress: 1 - (1 - self.options.momentum) * (1 + math.cos(math.pi * progress)) / 2}

    def make_views(self, batch: Batch, generator: Generator, *, train: bool) -> dict[str, Tensor]:
        noise = torch.randint(0, 20, (2, *batch.images.shape), generator=generator, dtype=torch.uint8)
        return {name: batch.images // 2 + drawn for name, drawn in zip(("seen", "followed"), noise, strict=True)}

    def forward(self, views: dict[str, Tensor], step: Step) -> StepOutput:
        with torch.no_grad():
            target = self.teacher.embed(views["followed"]) - self.center
        if self.training:
            self.center.lerp_(target.float().mean(dim=0), 0.1)
        loss = (1 - F.cosine_similarity(self.predictor(self.backbone.embed(views["seen"])).float(), target.float())).mean()
        return StepOutput(loss, {"distance": Mean.of(loss.detach()[None])})

    def on_epoch_start(self, context: TrainContext) -> None:
        with torch.no_grad():
            self.center.add_(0.01 * torch.randn(self.center.shape, generator=context.generator("center")) + 0.01 * torch.rand(()))

    def epoch_indices(self, context: TrainContext) -> Tensor:
        """Some images twice: every epoch is longer than the dataset."""
        return torch.randint(60, (70,), generator=context.generator("indices"))

    def on_after_step(self, phase: str, context: TrainContext) -> None:
        for mine, theirs in zip(self.teacher.state_dict().values(), self.backbone.state_dict().values(), strict=True):
            if mine.is_floating_point():
                mine.lerp_(theirs, 1 - context.schedule["momentum"])
            else:
                mine.copy_(theirs)


@dataclass(frozen=True, kw_only=True)
class Averaged(OptimizerFactory):
    """Momentum whose length is found on the way.

    Attributes:
        lr: base learning rate.
    """

    lr: float = 0.05

    def build(self, groups: list[dict]) -> torch.optim.Optimizer:
        return AveragedSGD(groups, lr=self.lr)


class AveragedSGD(torch.optim.Optimizer):
    """Keeps numbers and a tensor in its groups, and nested values beside its parameters."""

    def __init__(self, groups: list[dict], *, lr: float) -> None:
        super().__init__(groups, {"lr": lr, "steps": 0, "weight_sum": 0.0, "distance": torch.zeros(())})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            group["steps"] += 1
            group["weight_sum"] += group["lr"] ** 2
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                history = state.setdefault("history", {"means": [torch.zeros_like(parameter)], "longest": 0.0})
                history["means"][0].lerp_(parameter.grad, 1 / min(group["steps"], 10))
                history["longest"] = max(history["longest"], float(history["means"][0].norm()))
                parameter.sub_(history["means"][0], alpha=group["lr"] / (1 + group["weight_sum"] + history["longest"]))
                group["distance"] = group["distance"] + history["means"][0].float().norm() * group["lr"]


@dataclass(frozen=True, kw_only=True)
class Sawtooth(Schedule):
    """Falls anew in every epoch."""

    def scale(self, epoch: float, num_epochs: float) -> float:
        return 1.0 - 0.5 * (epoch % 1)


@dataclass(frozen=True, kw_only=True)
class TwoProbes(Evaluator):
    """Trains two linear classifiers, one after the other, each in a part of its own.

    Attributes:
        epochs: of each.
    """

    epochs: int = 2

    @property
    def frozen(self) -> bool:
        return True

    def check(self, backbone: Backbone, data: LabeledData) -> None:
        pass

    def evaluate(self, backbone: Backbone, data: LabeledData, context: RunContext) -> Evaluation:
        training = TrainingOptions(epochs=self.epochs, batch_size=16, optimizer=Averaged(lr=0.2), schedule=Sawtooth())
        metrics: dict[str, float] = {}
        for part in ("first", "second"):
            train, test = (Loader(images, batch_size=16, device=context.device) for images in data)
            probe = Probe(backbone, data)
            result = fit(probe, train, test, training, replace(context, part=part))
            metrics[f"{part}.top1"] = result.heldout["top1"]
        return Evaluation(metrics)


class Probe(Objective):
    heldout_phase = "main"
    frozen = ("backbone",)

    def __init__(self, backbone: Backbone, data: LabeledData) -> None:
        super().__init__(backbone)
        self.head = nn.Linear(backbone.feature_info[-1].num_chs, data.num_classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.labels = {True: data.train.labels, False: data.test.labels}

    def parameter_groups(self) -> dict[str, list[dict]]:
        return {"main": [{"params": [*self.head.parameters()]}]}

    def make_views(self, batch: Batch, generator: Generator, *, train: bool) -> dict[str, Tensor]:
        labels = self.labels[train]
        assert labels is not None
        return {"images": batch.images, "labels": labels[batch.indices]}

    def forward(self, views: dict[str, Tensor], step: Step) -> StepOutput:
        with torch.no_grad():
            features = self.backbone.embed(views["images"])
        logits = self.head(features).float()
        return StepOutput(F.cross_entropy(logits, views["labels"]), {"top1": Mean.of(100.0 * (logits.argmax(1) == views["labels"]))})


@dataclass(frozen=True, kw_only=True)
class Draws(Observer):
    """Draws from the global generator at every event, as an observer that shuffles pictures would."""

    def observe(self, event: Event) -> None:
        torch.rand(3)
