"""The one training loop: pretraining, probes, fine-tuning and baselines all run through :func:`fit`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sslkit.contract.backbone import Backbone
from sslkit.contract.blame import blame_of, blaming
from sslkit.contract.errors import DivergedError, OptionError, RunInterruptedError, SslkitError
from sslkit.contract.evaluator import RunContext
from sslkit.contract.events import Notice
from sslkit.contract.images import Batch
from sslkit.contract.objective import Classified, Objective, Step, StepOutput
from sslkit.training.checkpoints import Checkpoints, identity_of
from sslkit.training.collapse import FeatureWatch, Watched
from sslkit.training.features import BatchSource, evaluating
from sslkit.training.handover import check_objective
from sslkit.training.metrics import StepLog, measure
from sslkit.training.options import TrainingOptions
from sslkit.training.seeds import derive_seed, global_seed
from sslkit.training.state import TrainState
from sslkit.training.update import Part, Update, parts_of


class FitResult(NamedTuple):
    """What a fit leaves besides the trained objective.

    Attributes:
        heldout: loss and metrics on held-out images after the last step; empty without any.
        steps: optimizer steps, including those before an interruption.
        predictions: of every classifier on held-out images after the last step, in their order, on the CPU.
        rollbacks: how often it returned to the beginning of an epoch, to continue at a lower learning rate.
        logits: of the same predictions, (M, K) float32 on the CPU; empty unless ``keep_logits``.
        alarms: what was said of a collapse, also before an interruption.
    """

    heldout: dict[str, float]
    steps: int
    predictions: dict[str, Classified]
    rollbacks: int
    logits: dict[str, Tensor]
    alarms: tuple[str, ...] = ()


class Snapshots(NamedTuple):
    """After which epochs to keep the network (0: before the first), and a function that is given the epoch and the network, which is
    trained further.
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
    watched: Watched | None = None,
    keep_logits: bool = False,
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
        snapshots: networks to keep during training.
        watched: measure on the way whether what is learnt collapses, and how good it is; None: measure neither.
        keep_logits: return the logits of the predictions too, which grow with the number of classes.

    Raises:
        OptionError: another fit was run for the same part of the context; or the objective needs full batches, and there are none.
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
    if context.runtime.channels_last:
        objective.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] - torch's stub lacks this overload
    with _part(context), global_seed(derive_seed(context.seed, context.stage, context.part, "global"), context.device):
        kept = snapshots or Snapshots()
        loop = _Loop(objective, train, heldout, training, context, evaluate_every, kept, watched, keep_logits, checkpoints)
        if (found := checkpoints.load_latest()) is not None:
            loop.state.restore(found)
        while True:
            try:
                return loop.run()
            except DivergedError as error:
                loop.roll_back(error)


@contextmanager
def _part(context: RunContext) -> Iterator[None]:
    """Claim the context's part for one fit: another would draw the same random numbers and take this one's checkpoints for its own."""
    if context.part in context.begun:
        fix = "give each fit of a stage its own: dataclasses.replace(context, part=...)"
        raise OptionError("part", f"another fit of stage {context.stage!r} has it", found=context.part, fix=fix)
    context.begun.add(context.part)
    try:
        yield
    except BaseException:  # it may be called again, to resume
        context.begun.discard(context.part)
        raise


@dataclass(eq=False)
class _Loop:
    """One fit."""

    objective: Objective
    train: BatchSource
    heldout: BatchSource | None
    training: TrainingOptions
    context: RunContext
    evaluate_every: int | None
    snapshots: Snapshots
    watched: Watched | None
    keep_logits: bool
    checkpoints: Checkpoints

    def __post_init__(self) -> None:
        self.state = TrainState(self.objective, self.train, self.training, self.context)
        self.part_size = self.train.batch_size // self.training.accumulate_batches
        self.update = Update(self.state, ForwardPass(self.objective, self.part_size, self.context), self.training, self.context)
        self.log = StepLog(self.state, self.context, self.checkpoints.latest)
        self.watch = FeatureWatch(self.watched, self.state, self.heldout, self.train, self.context)

    def run(self) -> FitResult:
        """All epochs that are left, and the measurement after the last."""
        state, epochs = self.state, self.training.epochs
        with blaming(self._progress, self._kept):
            self.watch.load()
            while state.epoch < epochs:
                self._train_epoch()
            self.log.begin(epochs)  # a fit that was already finished is announced too because its last measurement is repeated
            self._save()
            self.watch.look()
            if epochs in self.watch.quality_epochs:
                self.watch.measure_quality()
            heldout, predictions, logits = measure(self.heldout, state, self.context, keep_logits=self.keep_logits)
        return FitResult(heldout, state.step, predictions, state.rollbacks, logits, tuple(state.signs.alarms))

    def _train_epoch(self) -> None:
        state, context, objective = self.state, self.context, self.objective
        if state.order is None:
            state.begin_epoch()
            if self.training.on_nan.retries:
                self.checkpoints.save_rollback_point(state.step, *state.capture())
        assert state.order is not None
        self.log.begin(self.training.epochs)
        if state.step == 0:
            self._pause(0)
        if state.begins_epoch and state.epoch in self.watch.quality_epochs:
            self._measure(self.watch.measure_quality)
        objective.train()
        for batch in self._batches(state.order):
            state.update_schedule()
            with torch.no_grad():
                batches = list(parts_of(batch, self.part_size))
                parts = [self._views(part) for part in batches]
            self.watch.before_step(parts[0].views, batches[0], self.training.epochs)
            logged = self.log.due
            for phase in objective.phases:
                self.log.note(phase, *self.update(phase, parts, logged=logged))
            state.step += 1
            state.batch += 1
            if state.step == 1 and self.checkpoints.kept:
                state.capture_optimizers()  # refuse what cannot be saved now rather than at the first checkpoint
            self.log.step(len(batch.indices), logged=logged)

            # Once in a while, and when asked to stop: a checkpoint.
            stop = context.should_stop()
            if stop or self.checkpoints.due():
                self._save()
            if stop:
                raise RunInterruptedError(f"stopped in stage {context.stage!r} after {state.step} steps")

        self.log.check()  # within its epoch, to whose beginning a fit rolls back
        # Before the epoch is counted: there is never a checkpoint between the two, so a resumed run repeats it.
        self._pause(state.epoch + 1)
        state.end_epoch()

    def _batches(self, order: Tensor) -> Iterator[Batch]:
        """What is left of the epoch. Whatever prevents a batch, the state is that of the steps before it and is saved."""
        state, stage = self.state, self.context.stage
        augment = state.device_generator("augment")
        batches = self.train.batches(order, start=state.batch, sizes=state.batch_sizes, generator=augment)
        while True:
            try:
                batch = next(batches, None)
            except RunInterruptedError:
                self._save()
                raise RunInterruptedError(f"stopped in stage {stage!r} after {state.step} steps") from None
            except SslkitError:
                self._save()
                raise
            except (Exception, SystemExit) as error:
                if blame_of(error):  # of what reads the images: nothing was drawn yet
                    self._save()
                raise
            if batch is None:
                return
            yield batch

    def _views(self, batch: Batch) -> Part:
        return Part(len(batch.indices), self.objective.make_views(batch, self.state.device_generator("views"), train=True))

    def _pause(self, epoch: int) -> None:
        """Between two epochs: keep the network and measure it when due. The measurement after the last epoch is the fit's result."""
        if kept := epoch in self.snapshots.epochs:
            self.snapshots.keep(epoch, self.objective.exported_backbone())
        if self.evaluate_every is None:  # at most ten times, after the last epoch of each tenth
            due = 10 * (epoch - 1) // self.training.epochs < 10 * epoch // self.training.epochs
        else:
            due = epoch % self.evaluate_every == 0
        if self.state.progress < 1.0 and (kept or (due and epoch > 0)):
            self._measure(lambda: measure(self.heldout, self.state, self.context))

    def _measure(self, measure: Callable[[], object]) -> None:
        """Between two steps, outside of the throughput; what was trained is saved where the user asks to stop meanwhile."""
        try:
            measure()
        except RunInterruptedError:
            self._save()
            raise
        self.log.restart_clock()

    def _save(self) -> None:
        self.log.check()
        if self.checkpoints.kept:
            self.checkpoints.save(self.state.step, *self.state.capture())

    def roll_back(self, error: DivergedError) -> None:
        """Return to the beginning of the epoch and continue at a lower rate; raise ``error`` where no retry is left.

        Where that is does not depend on a clock: runs that diverge stay reproducible, interrupted or not.
        """
        state, context, on_nan = self.state, self.context, self.training.on_nan
        retry = state.rollbacks + 1
        if retry > on_nan.retries or (point := self.checkpoints.load_rollback_point()) is None:
            raise error
        state.restore(point)
        state.rollbacks = retry
        self.checkpoints.save_rollback_point(state.step, *state.capture())
        continued = f"Back to step {state.step}, resuming at {state.lr_factor:.3g} of the learning rate: retry {retry} of {on_nan.retries}"
        context.emit(Notice(stage=context.stage, message=f"{error.what}. {continued}"))
        self.log.begin_again()

    def _progress(self) -> str:
        state, part = self.state, self.context.part
        if state.step and state.batch in (0, state.num_batches) and not state.begins_epoch:
            where = f"after step {state.step:,}"
        else:
            where = f"step {state.step + 1:,} (batch {state.batch + 1:,} of epoch {state.epoch + 1:,})"
        return f"part {part!r}, {where}" if part else where

    def _kept(self) -> str:
        latest = self.checkpoints.latest()
        return f"{latest} is kept" if latest else "there is no checkpoint yet"


class ForwardPass:
    """Calls ``Objective.forward`` in training: compiled for batches of ``batch_size`` images alone, so that an epoch's smaller last ones do
    not compile it again. This depends on the number of images alone, so that a resumed epoch computes what an uninterrupted one does.
    """

    def __init__(self, objective: Objective, batch_size: int, context: RunContext) -> None:
        self._objective = objective
        self._batch_size = batch_size
        compiled = context.runtime.resolve_compile(context.device)
        self._graphs = compiled and context.runtime.cuda_graphs and context.device.type == "cuda"
        self._device = context.device
        self._checked = not compiled
        self._full = compile_objective(objective, cuda_graphs=self._graphs) if compiled else objective

    def __call__(self, views: dict[str, Tensor], step: Step, *, num_images: int) -> StepOutput:
        """One phase's loss on the views of ``num_images`` images."""
        if num_images != self._batch_size:
            return self._objective(views, step)
        if not self._checked:  # uncompiled once, without effect, because a compiled backbone cannot check the range of float images
            with torch.no_grad(), evaluating(self._objective), global_seed(0, self._device):
                self._objective(views, step)
            self._checked = True
        if self._graphs:
            torch.compiler.cudagraph_mark_step_begin()  # from here on the previous call's outputs may be overwritten
        return self._full(views, step)


def compile_objective(objective: Objective, *, cuda_graphs: bool) -> Any:
    """``torch.compile`` for fixed shapes, those of full batches: CUDA graphs, which record the whole pass once and replay it, need them. By
    default torch would compile a fit whose batches differ in size from an earlier fit's for batches of any size, which is slower.
    """
    return torch.compile(objective, dynamic=False, mode="reduce-overhead" if cuda_graphs else "default")
