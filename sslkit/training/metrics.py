"""The log of a training loop: what observers hear of steps, and what is measured in them, read once in a while."""

import time

from torch import Tensor

from sslkit.contract.evaluator import RunContext
from sslkit.contract.events import FitStart, StepEnd
from sslkit.contract.objective import Mean, StepOutput
from sslkit.training.divergence import LossWatch, StepFacts
from sslkit.training.gradients import weight_norm
from sslkit.training.handover import check_means
from sslkit.training.state import TrainState

MAX_WAITING = 1000
"""Steps that may wait on the device to be read: with a huge ``log_every`` they would fill it."""


class StepLog:
    """Tells observers of steps, and reads what was measured in them every ``log_every`` of them.

    Args:
        state: of the loop.
        context: where it runs.
        watch: sees each step once it is read.
    """

    def __init__(self, state: TrainState, context: RunContext, watch: LossWatch) -> None:
        self._state = state
        self._context = context
        self._watch = watch
        self._waiting: list[tuple[str, int, float]] = []  # phase, step and learning rate
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
        self._waiting = []
        self._watch.forget()

    def restart_clock(self) -> None:
        """Leave what was no training out of the throughput."""
        self._images = 0
        self._since = time.perf_counter()

    @property
    def due(self) -> bool:
        """Whether metrics are read after the coming step. A short fit must leave a line too."""
        return (self._state.step + 1) % self._context.runtime.log_every == 0 or self._state.ends_with_next_step

    def note(self, phase: str, output: StepOutput, gradient_norm: Tensor | None) -> None:
        """Add a step's loss and metrics to the means, without reading them."""
        state = self._state
        measured = {"loss": output.loss} if gradient_norm is None else {"loss": output.loss, "gradient_norm": gradient_norm}
        metrics = {name: Mean(value, 1) for name, value in measured.items()} | output.metrics
        if len(state.optimizers) > 1:
            metrics = {f"{phase}_{name}": mean for name, mean in metrics.items()}
        state.meters.add(metrics, watched=list(measured.values()))
        self._waiting.append((phase, state.step + 1, state.learning_rate))

    def check(self) -> None:
        """Read what was noted, and look at it and at the weights; costs a host sync.

        A gradient whose norm nobody asked for shows in the next step's loss, or in the weights if there was none.

        Raises:
            DivergedError: a step was bad.
        """
        waiting, self._waiting = self._waiting, []
        watched = self._state.meters.settle()
        if not waiting:
            return
        steps = [StepFacts(*noted, *values) for noted, values in zip(waiting, watched, strict=True)]
        steps[-1] = steps[-1]._replace(weight_norm=float(weight_norm(self._state.optimizers.values())))
        for facts in steps:
            self._watch.see(facts)

    def step(self, num_images: int, *, logged: bool) -> None:
        """After an optimiser step.

        Args:
            num_images: that it was made with.
            logged: whether metrics are read: what ``due`` said before it.

        Raises:
            DivergedError: out of ``check``, before the numbers of a diverged step are logged.
        """
        state, context = self._state, self._context
        self._images += num_images
        metrics: dict[str, float] = {}
        if logged or len(self._waiting) >= MAX_WAITING:
            self.check()
        if logged:
            means = state.meters.read()
            check_means(state.objective, means, context.stage, f"in the steps up to {state.step}")
            metrics = {**means, "lr": state.learning_rate, "images_per_second": self._throughput()}
            state.meters.clear()
            self.restart_clock()
        context.emit(
            StepEnd(
                stage=context.stage, part=context.part, step=state.step, epoch=state.exact_epoch, num_images=num_images, metrics=metrics
            )
        )

    def _throughput(self) -> float:
        return self._images / max(time.perf_counter() - self._since, 1e-9)
