"""What held-out images show of a fit."""

import math
from typing import NamedTuple

import torch

from sslkit.contract.errors import DivergedError, RunInterruptedError
from sslkit.contract.evaluator import RunContext
from sslkit.contract.events import HeldoutEnd
from sslkit.contract.objective import Mean, Prediction
from sslkit.training.batch_source import BatchSource
from sslkit.training.divergence import REMEDY
from sslkit.training.features import evaluating
from sslkit.training.forward_pass import autocast_of
from sslkit.training.handover import check_means, check_output, check_targets
from sslkit.training.meters import Meters
from sslkit.training.predictions import Predictions
from sslkit.training.seeds import derive_seed, global_seed, make_generator
from sslkit.training.state import TrainState


class Measured(NamedTuple):
    """What held-out images show: means by name, ``loss`` among them, and predictions on the CPU. Both empty where nothing was measured."""

    metrics: dict[str, float]
    predictions: dict[str, Prediction]


def measure(heldout: BatchSource | None, state: TrainState, context: RunContext) -> Measured:
    """Loss, metrics and predictions on held-out images, in eval mode, with the same draws every time.

    Never compiled: to compile the forward pass once more, for eval mode, takes longer than it saves in a few passes over held-out images.

    Returns:
        Nothing if there are no held-out images, or the objective has no ``heldout_phase``.

    Raises:
        DivergedError: the loss is not finite.
        RunInterruptedError: the user asked to stop.
    """
    objective = state.objective
    phase = objective.heldout_phase
    if heldout is None or phase is None:
        return Measured({}, {})
    state.update_schedule()  # to the progress made: after resuming, nothing else has set it yet
    meters = Meters()
    gathered = Predictions()
    seed = derive_seed(context.seed, context.stage, context.part, "heldout")
    generator = make_generator(seed, context.device)
    with torch.no_grad(), evaluating(objective), global_seed(seed, context.device):
        for batch in heldout.in_order():
            if context.should_stop():
                raise RunInterruptedError(f"stopped in stage {context.stage!r} while measuring, after {state.step} steps")
            views = objective.make_views(batch, generator, train=False)
            num_images = len(batch.indices)
            with autocast_of(context):
                output = objective(views, phase, state.schedule_tensors)
            check_output(objective, output, phase, context.stage, training=False)
            loss = Mean(output.loss.float() * num_images, num_images)  # bfloat16 cannot count beyond 256
            meters.add({"loss": loss, **output.metrics})
            gathered.add(output.predictions)
    metrics = meters.read()
    if not math.isfinite(metrics["loss"]):
        where = f"after {state.step} steps, learning rate {state.learning_rate:.4g}"
        raise DivergedError(f"the loss on held-out images is {metrics['loss']} {where}", fix=REMEDY)
    check_means(objective, metrics, context.stage, f"on held-out images after {state.step} steps")
    predictions = gathered.read()
    check_targets(objective, predictions, context.stage)
    context.emit(HeldoutEnd(stage=context.stage, part=context.part, step=state.step, epoch=state.exact_epoch, metrics=metrics))
    return Measured(metrics, predictions)
