"""A tiny objective, and a short training run with it, for the tests of the training loop."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn

from sslkit import (
    SGD,
    Batch,
    CheckpointSaved,
    Constant,
    FitStart,
    HeldoutEnd,
    Mean,
    Objective,
    RunInterruptedError,
    Step,
    StepEnd,
    StepOutput,
    TrainingOptions,
    fit,
)
from sslkit.contract.events import Event
from sslkit.data.loader import Loader
from sslkit.training.fit import FitResult
from sslkit.training.seeds import global_seed
from tests.contract.contexts import make_context
from tests.contract.miniatures.backbones import TinyConv
from tests.contract.miniatures.images import TinyImages, tiny_images

CPU = torch.device("cpu")
IMAGES = tiny_images(22)
PLAIN_SGD = SGD(lr=0.1, momentum=0.9, nesterov=False, weight_decay=0.01)


class Brightness(Objective):
    """Regress the mean brightness of an image.

    Args:
        poisoned_step: the loss of this training step is NaN.
    """

    heldout_phase = "main"

    def __init__(self, *, dropout: float = 0.0, poisoned_step: int = 0) -> None:
        with global_seed(0):
            super().__init__(TinyConv(IMAGES.image, dropout=dropout))
            self.head = nn.Linear(8, 1)
        self.steps_to_poison = poisoned_step

    def make_views(self, batch: Batch, generator: Generator, *, train: bool) -> dict[str, Tensor]:
        targets = batch.images.float().mean(dim=(1, 2, 3)) / 255
        if train:
            self.steps_to_poison -= 1
            targets = targets * float("nan") if self.steps_to_poison == 0 else targets
        return {"images": batch.images, "targets": targets}

    def forward(self, views: dict[str, Tensor], step: Step) -> StepOutput:
        error = self.head(self.backbone.embed(views["images"])).squeeze(1) - views["targets"]
        return StepOutput(error.square().mean(), {"too_bright": Mean.of((error > 0) * 100.0)})


def short(**options: Any) -> TrainingOptions:
    """Three epochs, in batches of eight."""
    return TrainingOptions(**{"epochs": 3, "batch_size": 8, "optimizer": PLAIN_SGD, "schedule": Constant(), **options})


def run(
    objective: Objective,
    training: TrainingOptions | None = None,
    heldout: TinyImages | None = None,
    *,
    evaluate_every: int | None = None,
    **options: object,
) -> FitResult:
    """Three epochs of three steps of 8, 8 and 6 images."""
    training = training or short()
    loader = Loader(IMAGES, batch_size=training.batch_size, device=CPU, options=training.augment)
    measured = None if heldout is None else Loader(heldout, batch_size=8, device=CPU)
    return fit(objective, loader, measured, training, make_context(**options), evaluate_every=evaluate_every)


def watched(objective: Objective, *arguments: Any, **options: Any) -> list[Event]:
    """The events of a run."""
    events: list[Event] = []
    run(objective, *arguments, emit=events.append, **options)
    return events


def interrupt(steps: int, objective: Objective, *arguments: Any, **options: Any) -> None:
    """A run that is stopped after so many steps."""
    with pytest.raises(RunInterruptedError):
        run(objective, *arguments, should_stop=stop_after(steps), **options)


def stop_after(steps: int) -> Callable[[], bool]:
    answers = itertools.chain([False] * (steps - 1), itertools.repeat(True))
    return lambda: next(answers)


def assert_same_state(one: nn.Module, two: nn.Module) -> None:
    for (name, a), (_, b) in zip(one.state_dict().items(), two.state_dict().items(), strict=True):
        assert torch.equal(a, b), name


def logged(events: list[Event], name: str = "loss") -> list[float]:
    return [event.metrics[name] for event in events if isinstance(event, StepEnd) and event.metrics]


def names_and_steps(events: list[Event]) -> list[tuple[str, int]]:
    return [(type(event).__name__, event.step) for event in events if isinstance(event, FitStart | StepEnd | HeldoutEnd | CheckpointSaved)]
