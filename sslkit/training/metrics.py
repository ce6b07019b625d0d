"""What a fit reports to observers: its steps, their metrics, whether they diverged, and metrics on held-out images."""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from sslkit.contract.errors import DivergedError, RunInterruptedError
from sslkit.contract.evaluator import RunContext
from sslkit.contract.events import FitStart, HeldoutEnd, StepEnd
from sslkit.contract.objective import Classified, Mean, Step, StepOutput
from sslkit.training.device import autocast_of
from sslkit.training.features import BatchSource, evaluating
from sslkit.training.handover import check_means, check_output, check_targets
from sslkit.training.loss_scaler import SMALLEST
from sslkit.training.phase_optimizers import weight_norm
from sslkit.training.seeds import derive_seed, global_seed, make_generator
from sslkit.training.state import Meters, TrainState

MAX_WAITING = 1000
"""Steps that may wait on the device to be read: with a huge ``log_every`` they would fill it."""

LIMIT = 1e10
"""A loss or a norm beyond it has exploded: float32 is about to lose it, whatever is minimised."""

REMEDY = "start over (--fresh) with a lower learning rate, warmup_epochs, clip_grad_norm or on_nan"


class StepFacts(NamedTuple):
    """What is known of a phase's step, counted from 1: the 2-norms of its gradients before clipping and of all trained weights after it are
    None where they were not computed, and so is the scale of the loss where there is none.
    """

    phase: str
    step: int
    lr: float
    loss: float = math.nan
    gradient_norm: float | None = None
    weight_norm: float | None = None
    loss_scale: float | None = None

    @property
    def good(self) -> bool:
        """Whether nothing that is known has exploded; NaN is below no limit. A step that float16 skipped is no divergence."""
        skipped = self.loss_scale is not None and self.gradient_norm is not None and not math.isfinite(self.gradient_norm)
        known = (self.loss, None if skipped else self.gradient_norm, self.weight_norm)
        return all(abs(value) < LIMIT for value in known if value is not None) and (self.loss_scale is None or self.loss_scale >= SMALLEST)

    def __str__(self) -> str:
        known = {"gradient norm": self.gradient_norm, "weight norm": self.weight_norm, "loss scale": self.loss_scale}
        return f"loss {self.loss:.4g}" + "".join(f", {name} {value:.4g}" for name, value in known.items() if value is not None)


class StepLog:
    """Reports steps to observers, and every ``log_every`` steps reads their metrics and checks whether they diverged."""

    def __init__(self, state: TrainState, context: RunContext, latest_checkpoint: Callable[[], Path | None]) -> None:
        self._state = state
        self._context = context
        self._latest_checkpoint = latest_checkpoint
        self._waiting: list[tuple[str, int, float, list[str]]] = []  # phase, step, learning rate, and what is watched
        self._last: dict[str, StepFacts] = {}  # last step that was read, by phase
        self._begun = False
        self.restart_clock()

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
        """After a rollback: discard what is known of later steps; the next ``begin`` announces where the fit continues."""
        self._begun = False
        self._waiting = []
        self._last = {}

    def restart_clock(self) -> None:
        """Leave time that was not spent on training out of the throughput."""
        self._images = 0
        self._since = time.perf_counter()

    @property
    def due(self) -> bool:
        """Whether metrics are read after the next step: even a short fit must log a line."""
        return (self._state.step + 1) % self._context.runtime.log_every == 0 or self._state.ends_with_next_step

    def note(self, phase: str, output: StepOutput, gradient_norm: Tensor | None) -> None:
        """Add a step's loss and metrics to the means, without reading them."""
        state = self._state
        measured = {"loss": output.loss} if gradient_norm is None else {"loss": output.loss, "gradient_norm": gradient_norm}
        metrics = {name: Mean(value, 1) for name, value in measured.items()} | output.metrics
        if (scaler := state.scalers.get(phase)) is not None:
            measured["loss_scale"] = scaler.scale
            metrics["loss_scale"] = Mean(scaler.scale, 1)
            if gradient_norm is not None:  # a step that was skipped has none
                finite = gradient_norm.isfinite()
                metrics["gradient_norm"] = Mean(torch.where(finite, gradient_norm, 0.0), finite)
        if len(state.optimizers) > 1:
            metrics = {f"{phase}_{name}": mean for name, mean in metrics.items()}
        state.meters.add(metrics, watched=list(measured.values()))
        self._waiting.append((phase, state.step + 1, state.learning_rate, list(measured)))

    def check(self) -> None:
        """Read what was noted, with a host sync, and raise a ``DivergedError`` where a step or the weights diverged.

        A gradient whose norm was not computed shows in the next step's loss, or in the weights if there was none.
        """
        waiting, self._waiting = self._waiting, []
        watched = self._state.meters.settle()
        if not waiting:
            return
        noted = zip(waiting, watched, strict=True)
        steps = [StepFacts(phase, step, lr)._replace(**dict(zip(names, values, strict=True))) for (phase, step, lr, names), values in noted]
        steps[-1] = steps[-1]._replace(weight_norm=float(weight_norm(self._state.optimizers.values())))
        for facts in steps:
            before = self._last.get(facts.phase)
            self._last[facts.phase] = facts
            if not facts.good:
                checkpoint = self._latest_checkpoint()
                where = f"the last good checkpoint is {checkpoint}" if checkpoint is not None else "there is no checkpoint yet"
                earlier = "" if before is None else f"; the step before: {before}"
                what = f"training diverged at step {facts.step}: {facts}, learning rate {facts.lr:.4g}{earlier}; {where}"
                raise DivergedError(what, fix=REMEDY)

    def step(self, num_images: int, *, logged: bool) -> None:
        """After an optimizer step on so many images; ``logged`` is the value of ``due`` before it. Nothing of a diverged step is logged."""
        state, context = self._state, self._context
        self._images += num_images
        metrics: dict[str, float] = {}
        if logged or len(self._waiting) >= MAX_WAITING:
            self.check()
        if logged:
            means = state.meters.read()
            check_means(state.objective, means, context.stage, f"in the steps up to {state.step}")
            metrics = {**means, "lr": state.learning_rate, "images_per_second": self._images / max(time.perf_counter() - self._since, 1e-9)}
            state.meters.clear()
            self.restart_clock()
        context.emit(
            StepEnd(
                stage=context.stage, part=context.part, step=state.step, epoch=state.exact_epoch, num_images=num_images, metrics=metrics
            )
        )


def measure(
    heldout: BatchSource | None, state: TrainState, context: RunContext, *, keep_logits: bool = False
) -> tuple[dict[str, float], dict[str, Classified], dict[str, Tensor]]:
    """Metrics (``loss`` among them) and predictions on held-out images, in eval mode, with the same random draws every time; and with
    ``keep_logits`` the (M, K) float32 logits of the predictions, on the CPU. All are empty without held-out images or ``heldout_phase``.

    Never compiled: compiling the forward pass again for eval mode takes longer than it saves in a few passes over held-out images.
    """
    objective = state.objective
    phase = objective.heldout_phase
    if heldout is None or phase is None:
        return {}, {}, {}
    state.update_schedule()  # after resuming, nothing else has set it yet
    meters = Meters()
    classified: dict[str, list[Classified]] = {}
    kept: dict[str, list[Tensor]] = {}
    seed = derive_seed(context.seed, context.stage, context.part, "heldout")
    generator = make_generator(seed, context.device)
    with torch.no_grad(), evaluating(objective), global_seed(seed, context.device):
        for batch in heldout.in_order():
            if context.should_stop():
                raise RunInterruptedError(f"stopped in stage {context.stage!r} while measuring, after {state.step} steps")
            views = objective.make_views(batch, generator, train=False)
            num_images = len(batch.indices)
            with autocast_of(context):
                output = objective(views, Step(phase, state.schedule_tensors))
            check_output(objective, output, phase, context.stage, training=False)
            loss = Mean(output.loss.float() * num_images, num_images)  # bfloat16 cannot count beyond 256
            meters.add({"loss": loss, **output.metrics})
            for name, prediction in output.predictions.items():
                classified.setdefault(name, []).append(Classified.of(*prediction))
                if keep_logits:
                    kept.setdefault(name, []).append(prediction.logits.clone())
    metrics = meters.read()
    if not math.isfinite(metrics["loss"]):
        where = f"after {state.step} steps, learning rate {state.learning_rate:.4g}"
        raise DivergedError(f"the loss on held-out images is {metrics['loss']} {where}", fix=REMEDY)
    check_means(objective, metrics, context.stage, f"on held-out images after {state.step} steps")
    predictions = {name: Classified.join(parts) for name, parts in classified.items()}
    check_targets(objective, predictions, context.stage)
    context.emit(HeldoutEnd(stage=context.stage, part=context.part, step=state.step, epoch=state.exact_epoch, metrics=metrics))
    return metrics, predictions, {name: torch.cat(parts).float().cpu() for name, parts in kept.items()}
