"""The log of a training loop: what observers hear of steps, and means that are read once in a while."""

import time
from collections.abc import Callable

import torch
from torch import Tensor

from sslkit.engine.state import TrainState
from sslkit.events import FitStart, StepEnd
from sslkit.interfaces import Mean, RunContext, StepOutput


class StepLog:
    """Tells observers of steps, and reads metrics every ``log_every`` of them.

    Args:
        state: of the loop.
        context: where it runs.
        check: is called before metrics are read, and raises if they are void.
    """

    def __init__(self, state: TrainState, context: RunContext, check: Callable[[], None]) -> None:
        self._state = state
        self._context = context
        self._check = check
        self._begun = False
        self._images = 0
        self._since = time.perf_counter()

    def begin(self, num_epochs: int) -> None:
        """Once the first epoch's length is known: announce the fit."""
        if self._begun:
            return
        self._begun = True
        state, context = self._state, self._context
        context.emit(
            FitStart(
                stage=context.stage,
                part=context.part,
                step=state.step,
                num_steps=state.step + (num_epochs - state.epoch) * state.num_batches - state.batch,
                num_epochs=num_epochs,
                measured=state.begins_epoch and state.step > 0,
            )
        )
        self.restart_clock()

    def begin_again(self) -> None:
        """After a roll-back: what was told of later steps is void, and the next ``begin`` says from where it goes on."""
        self._begun = False

    def restart_clock(self) -> None:
        """Leave what was no training out of the throughput."""
        self._images = 0
        self._since = time.perf_counter()

    def note(self, phase: str, output: StepOutput, gradient_norm: Tensor) -> None:
        """Add a step's loss and metrics to the means, without reading them."""
        prefix = f"{phase}_" if len(self._state.optimizers) > 1 else ""
        metrics = {"loss": _one(output.loss.detach()), "gradient_norm": _one(gradient_norm.detach()), **output.metrics}
        self._state.meters.add({f"{prefix}{name}": mean for name, mean in metrics.items()})

    def step(self, num_images: int) -> None:
        """After an optimiser step.

        Raises:
            DivergedError: out of ``check``, before the numbers of a diverged step are logged.
        """
        state, context = self._state, self._context
        self._images += num_images
        metrics: dict[str, float] = {}
        if state.step % context.log_every == 0 or state.progress >= 1.0:  # a short fit must leave a line too
            self._check()
            metrics = {**state.meters.read(), "lr": learning_rate(state), "images_per_second": self._throughput()}
            state.meters.clear()
            self.restart_clock()
        context.emit(
            StepEnd(
                stage=context.stage, part=context.part, step=state.step, epoch=state.exact_epoch, num_images=num_images, metrics=metrics
            )
        )

    def _throughput(self) -> float:
        return self._images / max(time.perf_counter() - self._since, 1e-9)


def learning_rate(state: TrainState) -> float:
    """Of the first parameter group: the one that is logged."""
    return next(iter(state.optimizers.values())).param_groups[0]["lr"]


def _one(value: Tensor) -> Mean:
    return Mean(value, torch.ones_like(value))
