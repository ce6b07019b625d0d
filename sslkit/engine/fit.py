"""The one training loop: pretraining, probes, fine-tuning and baselines all run through :func:`fit`."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from sslkit.engine.batch_source import BatchSource
from sslkit.engine.checkpoint import load_tensors, save_tensors
from sslkit.engine.features import evaluating
from sslkit.engine.forward_pass import ForwardPass
from sslkit.engine.meters import Meters
from sslkit.engine.predictions import Predictions
from sslkit.engine.randomness import derive_seed, global_seed, make_generator
from sslkit.engine.state import TrainState
from sslkit.engine.step_log import StepLog, check_finite, note_step
from sslkit.engine.training import Training
from sslkit.errors import RunInterruptedError
from sslkit.events import CheckpointSaved, HeldoutEnd
from sslkit.interfaces import Backbone, Mean, Objective, Prediction, RunContext


class FitResult(NamedTuple):
    """What a fit leaves besides the trained objective.

    Attributes:
        heldout: loss and metrics on held-out images after the last step; empty without any.
        steps: optimiser steps, those before an interruption counted in.
        predictions: on held-out images after the last step, in their order, on the CPU.
    """

    heldout: dict[str, float]
    steps: int
    predictions: dict[str, Prediction]


class Snapshots(NamedTuple):
    """Networks to keep on the way.

    Attributes:
        epochs: after which epochs; 0: before the first.
        keep: is handed the epoch and the network, which goes on being trained.
    """

    epochs: frozenset[int] = frozenset()
    keep: Callable[[int, Backbone], None] = lambda _epoch, _backbone: None


def fit(
    objective: Objective,
    train: BatchSource,
    heldout: BatchSource | None,
    training: Training,
    context: RunContext,
    *,
    evaluate_every: int | None = None,
    snapshots: Snapshots | None = None,
) -> FitResult:
    """Train ``objective``; resume from the context's folder if it holds a checkpoint of this fit.

    Args:
        objective: trained in place, on the context's device.
        train: the training images.
        heldout: images that are never trained on, measured if the objective has a ``heldout_phase``.
        training: epochs, batch size, optimiser, schedule.
        context: where and how to run.
        evaluate_every: epochs between measurements on held-out images; None: ten times over the fit. They are measured at the end
            in any case, and with every snapshot.
        snapshots: networks to keep on the way.

    Raises:
        RunFailedError: the loss is no longer finite.
        RunInterruptedError: the user asked to stop; a checkpoint was written.
    """
    path = _checkpoint_path(context)
    every = evaluate_every or max(1, training.epochs // 10)
    snapshots = snapshots or Snapshots()
    objective.to(context.device)
    if context.channels_last:
        _to_channels_last(objective)
    with global_seed(_seed(context, "global"), context.device):
        state = TrainState(objective, train, training, context)
        if path is not None and path.exists():
            state.restore(*load_tensors(path))
        forward = ForwardPass(objective, train.batch_size, context)
        log = StepLog(state, context)
        last_checkpoint = time.monotonic()

        while state.epoch < training.epochs:
            if state.order is None:
                state.begin_epoch()
            assert state.order is not None
            log.begin(training.epochs)
            if state.step == 0:
                _pause(0, every, snapshots, forward, heldout, state, context, log)
            objective.train()
            for batch in train.batches(state.order, start=state.batch, generator=state.device_generator("augment")):
                state.update_schedule()
                with torch.no_grad():
                    views = objective.make_views(batch, state.device_generator("views"), train=True)
                for phase in objective.phases:
                    _step(phase, forward, views, len(batch.indices), state, context)
                state.step += 1
                state.batch += 1
                log.step(len(batch.indices), last_checkpoint=path)

                # Once in a while, and when asked to stop: a checkpoint.
                stop = context.should_stop()
                if path is not None and (stop or time.monotonic() - last_checkpoint >= 60 * context.checkpoint_minutes):
                    _save(state, path, context)
                    last_checkpoint = time.monotonic()
                if stop:
                    raise RunInterruptedError(f"stopped in stage {context.stage!r} after {state.step} steps")

            # Done before the epoch is counted: a checkpoint never lies between the two, so a resumed run repeats it.
            _pause(state.epoch + 1, every, snapshots, forward, heldout, state, context, log)
            state.end_epoch()

        log.begin(training.epochs)  # a fit that was finished before is announced too: its last measurement comes again
        check_finite(state, path)
        if path is not None:
            _save(state, path, context)
        measured = measure(forward, heldout, state, context)
        return FitResult(measured.metrics, state.step, measured.predictions)


def _step(phase: str, forward: ForwardPass, views: dict[str, Tensor], num_images: int, state: TrainState, context: RunContext) -> None:
    """One phase: forward, backward, optimiser."""
    objective = state.objective
    objective.on_before_step(phase, state)
    objective.zero_grad(set_to_none=True)  # of every phase: a GAN's generator leaves gradients in its discriminator
    with _autocast(context):
        output = forward(views, phase, state.schedule_tensors, num_images=num_images)
    output.loss.backward()
    state.optimizers[phase].step()
    with torch.no_grad():
        objective.on_after_step(phase, state)
    note_step(state, phase, output)


class Measured(NamedTuple):
    """What held-out images show: means by name, ``loss`` among them, and predictions on the CPU. Both empty where nothing was measured."""

    metrics: dict[str, float]
    predictions: dict[str, Prediction]


def measure(forward: ForwardPass, heldout: BatchSource | None, state: TrainState, context: RunContext) -> Measured:
    """Loss, metrics and predictions on held-out images, in eval mode, with the same draws every time.

    Returns:
        Nothing if there are no held-out images, or the objective has no ``heldout_phase``.
    """
    objective = state.objective
    phase = objective.heldout_phase
    if heldout is None or phase is None:
        return Measured({}, {})
    state.update_schedule()  # to the progress made: after resuming, nothing else has set it yet
    meters = Meters()
    gathered = Predictions()
    seed = _seed(context, "heldout")
    generator = make_generator(seed, context.device)
    with torch.no_grad(), evaluating(objective), global_seed(seed, context.device):
        for batch in heldout.in_order():
            views = objective.make_views(batch, generator, train=False)
            with _autocast(context):
                output = forward(views, phase, state.schedule_tensors, num_images=len(batch.indices))
            loss = output.loss.detach().float()  # bfloat16 cannot count beyond 256
            count = torch.full_like(loss, len(batch.indices))
            meters.add({"loss": Mean(loss * count, count), **output.metrics})
            gathered.add(output.predictions)
    metrics = meters.read()
    context.emit(HeldoutEnd(stage=context.stage, part=context.part, step=state.step, epoch=state.exact_epoch, metrics=metrics))
    return Measured(metrics, gathered.read())


def _pause(
    epoch: int,
    every: int,
    snapshots: Snapshots,
    forward: ForwardPass,
    heldout: BatchSource | None,
    state: TrainState,
    context: RunContext,
    log: StepLog,
) -> None:
    """Between two epochs: keep the network and measure it, if it is time. What is measured after the last epoch is the fit's result."""
    kept = epoch in snapshots.epochs
    if kept:
        snapshots.keep(epoch, state.objective.exported_backbone())
    if state.progress < 1.0 and (kept or (epoch > 0 and epoch % every == 0)):
        measure(forward, heldout, state, context)
        log.restart_clock()


def _save(state: TrainState, path: Path, context: RunContext) -> None:
    check_finite(state, path)
    save_tensors(path, *state.capture())
    context.emit(CheckpointSaved(stage=context.stage, part=context.part, step=state.step, path=path))


def _checkpoint_path(context: RunContext) -> Path | None:
    if context.folder is None:
        return None
    return context.folder / (f"checkpoint-{context.part}.safetensors" if context.part else "checkpoint.safetensors")


def _seed(context: RunContext, purpose: str) -> int:
    return derive_seed(context.seed, context.stage, context.part, purpose)


def _autocast(context: RunContext) -> torch.autocast:
    return torch.autocast(context.device.type, dtype=context.autocast, enabled=context.autocast is not None)


def _to_channels_last(objective: Objective) -> None:
    objective.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] - torch's stub lacks this overload
