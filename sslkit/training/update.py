"""One optimizer step: a phase's forward and backward passes over the parts of a batch, then gradient unscaling, hooks and clipping."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sslkit.contract.evaluator import RunContext
from sslkit.contract.images import Batch
from sslkit.contract.objective import Mean, Step, StepOutput
from sslkit.training.device import autocast_of
from sslkit.training.handover import check_output
from sslkit.training.options import TrainingOptions
from sslkit.training.phase_optimizers import clip_gradients, gradient_norm
from sslkit.training.state import TrainState, training_batches


class Part(NamedTuple):
    """The views of a part of a batch, which pass through the network at once.

    Attributes:
        num_images: how many images they were made of.
        views: what ``make_views`` returned.
    """

    num_images: int
    views: dict[str, Tensor]


def parts_of(batch: Batch, num_images: int) -> Iterator[Batch]:
    """A batch in parts of ``num_images``, the last of which may be smaller, or one larger."""
    sizes = training_batches(len(batch.indices), num_images)
    if len(sizes) == 1:
        return iter([batch])
    return map(Batch, batch.images.split(sizes), batch.indices.split(sizes))


class Update:
    """The step of a fit's optimizers, each on its phase's loss."""

    def __init__(self, state: TrainState, forward: Callable[..., StepOutput], training: TrainingOptions, context: RunContext) -> None:
        self._state = state
        self._forward = forward
        self._max_norm = training.clip_grad_norm
        self._context = context
        self._parameters = tuple(state.objective.parameters())  # once because walking through all modules takes as long as an operation

    def __call__(self, phase: str, parts: Sequence[Part], *, logged: bool) -> tuple[StepOutput, Tensor | None]:
        """One phase's step, with hooks: forward and backward passes, gradients unscaled, changed by the objective, clipped; then the step.

        Returns:
            Loss and metrics of the whole batch; and the 2-norm of the gradients before clipping, if ``logged`` or they are clipped.
        """
        state, objective, optimizer = self._state, self._state.objective, self._state.optimizers[phase]
        scaler = state.scalers.get(phase)
        objective.on_before_step(phase, state)
        for parameter in self._parameters:  # of every phase: a GAN's generator leaves gradients in its discriminator
            parameter.grad = None
        total, outputs = sum(part.num_images for part in parts), []
        for part in parts:
            outputs.append(self._backward(phase, part, part.num_images / total))
            if len(outputs) == 1 < len(parts) and self._context.runtime.cuda_graphs:
                self._keep_gradients()
        output = joined(outputs)
        if scaler is not None:
            scaler.unscale(optimizer)
        with torch.no_grad():
            objective.on_after_backward(phase, state)
        norm = gradient_norm(optimizer, self._context.device) if logged or self._max_norm is not None else None
        if norm is not None and self._max_norm is not None:
            clip_gradients(optimizer, self._max_norm, norm)
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)
        with torch.no_grad():
            objective.on_after_step(phase, state)
        return output, norm

    def _keep_gradients(self) -> None:
        """Copy them: the next part's recorded pass writes its own into the same memory."""
        for parameter in self._parameters:
            if parameter.grad is not None:
                parameter.grad = parameter.grad.clone()

    def _backward(self, phase: str, part: Part, share: float) -> StepOutput:
        """Add the part's gradients, weighted by its ``share`` of the batch; return its loss and metrics, detached from its graph."""
        state, context = self._state, self._context
        with autocast_of(context):
            output = self._forward(part.views, Step(phase, state.schedule_tensors), num_images=part.num_images)
        check_output(state.objective, output, phase, context.stage, training=True)
        loss = output.loss if share == 1.0 else output.loss * share
        scaler = state.scalers.get(phase)
        (loss if scaler is None else scaler.scaled(loss)).backward()
        return output if share == 1.0 else _detached(output._replace(loss=loss))


def joined(outputs: Sequence[StepOutput]) -> StepOutput:
    """The loss and metrics of a batch from those of its parts: losses are shares of its own, metrics are exact means."""
    if len(outputs) == 1:
        return outputs[0]
    metrics: dict[str, Mean] = {}
    for name, mean in (pair for output in outputs for pair in output.metrics.items()):
        before = metrics.get(name)
        metrics[name] = mean if before is None else Mean(before.total + mean.total, before.num + mean.num)
    return StepOutput(torch.stack([output.loss for output in outputs]).sum(), metrics)


def _detached(output: StepOutput) -> StepOutput:
    """A copy: the next part's pass through a CUDA graph writes into the same memory."""
    copies = {
        name: Mean(mean.total.detach().clone(), mean.num.clone() if isinstance(mean.num, Tensor) else mean.num)
        for name, mean in output.metrics.items()
    }
    return StepOutput(output.loss.detach().float(), copies)
