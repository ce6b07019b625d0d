"""The one training loop: pretraining, probes, fine-tuning and baselines all run through :func:`fit`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sslkit.contract.backbone import Backbone
from sslkit.contract.blame import blame_of, blaming
from sslkit.contract.errors import DivergedError, OptionError, RunInterruptedError, SslkitError
from sslkit.contract.evaluator import RunContext
from sslkit.contract.events import Notice
from sslkit.contract.images import Batch
from sslkit.contract.objective import Objective, Prediction
from sslkit.training.checkpoints import Checkpoints, identity_of
from sslkit.training.divergence import LossWatch, clip_gradients, gradient_norm
from sslkit.training.features import BatchSource
from sslkit.training.forward_pass import ForwardPass, autocast_of
from sslkit.training.handover import check_objective, check_output
from sslkit.training.measuring import StepLog, measure
from sslkit.training.options import TrainingOptions
from sslkit.training.seeds import derive_seed, global_seed
from sslkit.training.state import TrainState


class FitResult(NamedTuple):
    """What a fit leaves besides the trained objective.

    Attributes:
        heldout: loss and metrics on held-out images after the last step; empty without any.
        steps: optimizer steps, those before an interruption counted in.
        predictions: on held-out images after the last step, in their order, on the CPU.
        rollbacks: how often it went back to the beginning of an epoch, to continue at a lower learning rate.
    """

    heldout: dict[str, float]
    steps: int
    predictions: dict[str, Prediction]
    rollbacks: int


class Snapshots(NamedTuple):
    """Networks to keep on the way.

    Attributes:
        epochs: after which epochs; 0: before the first.
        keep: is handed the epoch and the network, which is trained further.
    """

    epochs: frozenset[int] = frozenset()
    keep: Callable[[int, Backbone], None] = lambda _epoch, _backbone: None


def fit(
    objective: Objective,
    train: BatchSource,
    heldout: BatchSource | None,
    training: TrainingOptions,
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
        training: epochs, batch size, optimizer, schedule.
        context: where and how to run.
        evaluate_every: epochs between measurements on held-out images; None: ten times over the fit, if it has as many epochs. They
            are measured at the end in any case, and with every snapshot.
        snapshots: networks to keep on the way.

    Raises:
        OptionError: another fit was run for the same part of the context.
        PluginError: the objective is not what the contract says.
        ArtifactError: the checkpoint in the folder is another fit's.
        DivergedError: the loss, its gradient or the weights are no longer finite, or have exploded, and all retries of ``on_nan`` are
            used up.
        StorageError: a checkpoint cannot be written; earlier ones are still there.
        RunInterruptedError: the user asked to stop; a checkpoint was written.
    """
    check_objective(objective)
    checkpoints = Checkpoints(context, owner={} if context.folder is None else identity_of(objective, train, training, context))
    if training.on_nan.retries and not checkpoints.kept:
        raise OptionError("on_nan", "there is no folder to keep what is rolled back to", found=training.on_nan, fix="give output")
    objective.to(context.device)
    if context.channels_last:
        _to_channels_last(objective)
    with _part(context), global_seed(derive_seed(context.seed, context.stage, context.part, "global"), context.device):
        state = TrainState(objective, train, training, context)
        if (found := checkpoints.load_latest()) is not None:
            state.restore(found)
        loop = _Loop(
            train=train,
            heldout=heldout,
            training=training,
            context=context,
            evaluate_every=evaluate_every,
            snapshots=snapshots or Snapshots(),
            checkpoints=checkpoints,
            state=state,
            forward=ForwardPass(objective, train.batch_size, context),
            log=StepLog(state, context, LossWatch(checkpoints.latest)),
            parameters=tuple(objective.parameters()),  # once: a walk through all modules takes as long as many an operation
        )
        while True:
            try:
                return _train(loop)
            except DivergedError as error:
                _roll_back(loop, error)


@contextmanager
def _part(context: RunContext) -> Iterator[None]:
    """Claim the context's part for one fit: another would draw the same numbers, and take this one's checkpoints for its own."""
    if context.part in context.begun:
        fix = "give each fit of a stage its own: dataclasses.replace(context, part=...)"
        raise OptionError("part", f"another fit of stage {context.stage!r} has it", found=context.part, fix=fix)
    context.begun.add(context.part)
    try:
        yield
    except BaseException:  # it may be called again, to resume
        context.begun.discard(context.part)
        raise


@dataclass(frozen=True, kw_only=True)
class _Loop:
    """What one fit is made of."""

    train: BatchSource
    heldout: BatchSource | None
    training: TrainingOptions
    context: RunContext
    evaluate_every: int | None
    snapshots: Snapshots
    checkpoints: Checkpoints
    state: TrainState
    forward: ForwardPass
    log: StepLog
    parameters: tuple[nn.Parameter, ...]


def _train(loop: _Loop) -> FitResult:
    """All epochs that are left, and the measurement after the last."""
    state, epochs = loop.state, loop.training.epochs
    while state.epoch < epochs:
        _train_epoch(loop)
    loop.log.begin(epochs)  # a fit that was finished before is announced too: its last measurement comes again
    _save(loop)
    with blaming(lambda: _progress(loop), lambda: _kept(loop)):
        measured = measure(loop.heldout, state, loop.context)
    return FitResult(measured.metrics, state.step, measured.predictions, state.rollbacks)


def _train_epoch(loop: _Loop) -> None:
    """One epoch, or what is left of one that was interrupted."""
    with blaming(lambda: _progress(loop), lambda: _kept(loop)):
        _train_steps(loop)


def _progress(loop: _Loop) -> str:
    state, part = loop.state, loop.context.part
    if state.step and state.batch in (0, state.num_batches) and not state.begins_epoch:
        where = f"after step {state.step:,}"
    else:
        where = f"step {state.step + 1:,} (batch {state.batch + 1:,} of epoch {state.epoch + 1:,})"
    return f"part {part!r}, {where}" if part else where


def _kept(loop: _Loop) -> str:
    latest = loop.checkpoints.latest()
    return f"{latest} is kept" if latest else "there is no checkpoint yet"


def _train_steps(loop: _Loop) -> None:
    state, context, objective = loop.state, loop.context, loop.state.objective
    if state.order is None:
        state.begin_epoch()
        if loop.training.on_nan.retries:
            loop.checkpoints.save_rollback_point(state.step, *state.capture())
    assert state.order is not None
    loop.log.begin(loop.training.epochs)
    if state.step == 0:
        _pause(loop, 0)
    objective.train()
    for batch in _batches(loop, state.order):
        state.update_schedule()
        with torch.no_grad():
            views = objective.make_views(batch, state.device_generator("views"), train=True)
        logged = loop.log.due
        for phase in objective.phases:
            _step(loop, phase, views, len(batch.indices), logged=logged)
        state.step += 1
        state.batch += 1
        if state.step == 1 and loop.checkpoints.kept:
            state.capture_optimizers()  # what cannot be saved is refused now, and not at the first checkpoint
        loop.log.step(len(batch.indices), logged=logged)

        # Once in a while, and when asked to stop: a checkpoint.
        stop = context.should_stop()
        if stop or loop.checkpoints.due():
            _save(loop)
        if stop:
            raise RunInterruptedError(f"stopped in stage {context.stage!r} after {state.step} steps")

    loop.log.check()  # within its epoch, to whose beginning a fit rolls back
    # Done before the epoch is counted: a checkpoint never lies between the two, so a resumed run repeats it.
    _pause(loop, state.epoch + 1)
    state.end_epoch()


def _batches(loop: _Loop, order: Tensor) -> Iterator[Batch]:
    """What is left of the epoch. Whatever keeps a batch from coming, the state is that of the steps before it: it is kept."""
    state, stage = loop.state, loop.context.stage
    augment = state.device_generator("augment")
    batches = loop.train.batches(order, start=state.batch, sizes=state.batch_sizes, generator=augment)
    while True:
        try:
            batch = next(batches, None)
        except RunInterruptedError:
            _save(loop)
            raise RunInterruptedError(f"stopped in stage {stage!r} after {state.step} steps") from None
        except SslkitError:
            _save(loop)
            raise
        except (Exception, SystemExit) as error:
            if blame_of(error):  # of who reads images: nothing was drawn yet
                _save(loop)
            raise
        if batch is None:
            return
        yield batch


def _step(loop: _Loop, phase: str, views: dict[str, Tensor], num_images: int, *, logged: bool) -> None:
    """One phase: forward, backward, optimizer."""
    state, context, max_norm = loop.state, loop.context, loop.training.clip_grad_norm
    objective, optimizer = state.objective, state.optimizers[phase]
    objective.on_before_step(phase, state)
    for parameter in loop.parameters:  # of every phase: a GAN's generator leaves gradients in its discriminator
        parameter.grad = None
    with autocast_of(context):
        output = loop.forward(views, phase, state.schedule_tensors, num_images=num_images)
    check_output(objective, output, phase, context.stage, training=True)
    output.loss.backward()
    norm = gradient_norm(optimizer, context.device) if logged or max_norm is not None else None  # else nobody looks at it
    if norm is not None and max_norm is not None:
        clip_gradients(optimizer, max_norm, norm)
    optimizer.step()
    with torch.no_grad():
        objective.on_after_step(phase, state)
    loop.log.note(phase, output, norm)


def _roll_back(loop: _Loop, error: DivergedError) -> None:
    """Go back to the beginning of the epoch, and continue at a lower rate.

    Where that is depends on no clock: runs that diverge stay reproducible, interrupted or not.

    Raises:
        DivergedError: the one that is handled; no retry is left.
    """
    state, context, on_nan = loop.state, loop.context, loop.training.on_nan
    retry = state.rollbacks + 1
    if retry > on_nan.retries or (point := loop.checkpoints.load_rollback_point()) is None:
        raise error
    state.restore(point)
    state.rollbacks = retry
    loop.checkpoints.save_rollback_point(state.step, *state.capture())
    message = (
        f"{error.what}. Back to step {state.step}, and on at {state.lr_factor:.3g} of the learning rate: retry {retry} of {on_nan.retries}"
    )
    context.emit(Notice(stage=context.stage, message=message))
    loop.log.begin_again()


def _pause(loop: _Loop, epoch: int) -> None:
    """Between two epochs: keep the network and measure it, if it is time. What is measured after the last epoch is the fit's result."""
    kept = epoch in loop.snapshots.epochs
    if kept:
        loop.snapshots.keep(epoch, loop.state.objective.exported_backbone())
    if loop.state.progress < 1.0 and (kept or _is_measured(epoch, loop)):
        try:
            measure(loop.heldout, loop.state, loop.context)
        except RunInterruptedError:
            _save(loop)
            raise
        loop.log.restart_clock()


def _is_measured(epoch: int, loop: _Loop) -> bool:
    """Whether held-out images are measured after so many epochs: of as many as there are, ten, the last one of them; or every so many."""
    if loop.evaluate_every is None:
        tenths = [10 * each // loop.training.epochs for each in (epoch - 1, epoch)]
        return epoch > 0 and tenths[0] < tenths[1]
    return epoch > 0 and epoch % loop.evaluate_every == 0


def _save(loop: _Loop) -> None:
    loop.log.check()
    if loop.checkpoints.kept:
        loop.checkpoints.save(loop.state.step, *loop.state.capture())


def _to_channels_last(objective: Objective) -> None:
    objective.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] - torch's stub lacks this overload
