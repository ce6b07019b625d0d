"""The log of a training loop: what observers hear of steps, means read once in a while, and the watch over the loss."""

import time
from pathlib import Path

import torch

from sslkit.engine.state import TrainState
from sslkit.errors import RunFailedError
from sslkit.events import FitStart, StepEnd
from sslkit.interfaces import Mean, RunContext, StepOutput


class StepLog:
    """Tells observers of steps, reads metrics every ``log_every`` of them, and watches the loss.

    Args:
        state: of the loop.
        context: where it runs.
    """

    def __init__(self, state: TrainState, context: RunContext) -> None:
        self._state = state
        self._context = context
        self._begun = False
        self._images = 0
        self._since = time.perf_counter()

    def begin(self, num_epochs: int) -> None:
        """Once the first epoch's length is known: announce the fit."""
        if self._begun:
            return
        self._begun = True
        state, context = self._state, self._context
        remaining = (num_epochs - state.epoch) * state.num_batches - state.batch
        context.emit(
            FitStart(stage=context.stage, part=context.part, step=state.step, num_steps=state.step + remaining, num_epochs=num_epochs)
        )
        self.restart_clock()

    def restart_clock(self) -> None:
        """Leave what was no training out of the throughput."""
        self._images = 0
        self._since = time.perf_counter()

    def step(self, num_images: int, *, last_checkpoint: Path | None) -> None:
        """After an optimiser step."""
        state, context = self._state, self._context
        self._images += num_images
        metrics: dict[str, float] = {}
        if state.step % context.log_every == 0 or state.progress >= 1.0:  # a short fit must leave a line too
            check_finite(state, last_checkpoint)
            metrics = {**state.meters.read(), "lr": _learning_rate(state), "images_per_second": self._throughput()}
            state.meters.clear()
            self.restart_clock()
        context.emit(
            StepEnd(
                stage=context.stage, part=context.part, step=state.step, epoch=state.exact_epoch, num_images=num_images, metrics=metrics
            )
        )

    def _throughput(self) -> float:
        return self._images / max(time.perf_counter() - self._since, 1e-9)


def note_step(state: TrainState, phase: str, output: StepOutput) -> None:
    """Add a step's loss and metrics to the meters, without reading them."""
    loss = output.loss.detach()
    bad = (state.first_bad_step < 0) & ~loss.isfinite()
    state.first_bad_step = torch.where(bad, state.step + 1, state.first_bad_step)  # counted as events count steps
    prefix = f"{phase}_" if len(state.optimizers) > 1 else ""
    metrics = {"loss": Mean(loss, torch.ones_like(loss)), **output.metrics}
    state.meters.add({f"{prefix}{name}": mean for name, mean in metrics.items()})


def check_finite(state: TrainState, path: Path | None) -> None:
    """Stop a diverged run before its numbers reach a checkpoint."""
    step = int(state.first_bad_step)
    if step < 0:
        return
    checkpoint = f"the last checkpoint is {path}" if path is not None and path.exists() else "there is no checkpoint yet"
    raise RunFailedError(
        f"the loss was not finite at step {step}; learning rate about {_learning_rate(state):.4g}; {checkpoint}",
        fix="lower the learning rate or add warmup_epochs",
    )


def _learning_rate(state: TrainState) -> float:
    return next(iter(state.optimizers.values())).param_groups[0]["lr"]
