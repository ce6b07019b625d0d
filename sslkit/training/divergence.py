"""The watch over a fit: the first step in which the loss, its gradient or the weights are not finite, or explode."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from sslkit.contract.errors import DivergedError
from sslkit.training.phase_optimizers import parameters_of

LIMIT = 1e10
"""A loss or a norm beyond it has exploded: float32 is about to lose it, whatever is minimised."""

REMEDY = "start over (--fresh) with a lower learning rate, warmup_epochs, clip_grad_norm or on_nan"


class StepFacts(NamedTuple):
    """What is known of a phase's step.

    Attributes:
        phase: of the objective.
        step: counted from 1.
        lr: of the first parameter group.
        loss: the value that was minimised.
        gradient_norm: 2-norm over all parameters of the phase, before clipping; None: not computed in this step.
        weight_norm: 2-norm over all trained parameters, after the step; None: not computed after this step.
    """

    phase: str
    step: int
    lr: float
    loss: float
    gradient_norm: float | None = None
    weight_norm: float | None = None

    @property
    def good(self) -> bool:
        """Whether nothing that is known has exploded; NaN is below no limit."""
        return all(abs(value) < LIMIT for value in (self.loss, self.gradient_norm, self.weight_norm) if value is not None)

    def __str__(self) -> str:
        norms = {"gradient": self.gradient_norm, "weight": self.weight_norm}
        return f"loss {self.loss:.4g}" + "".join(f", {name} norm {norm:.4g}" for name, norm in norms.items() if norm is not None)


class LossWatch:
    """Looks at steps in their order, long after they were made, and remembers each phase's last one.

    Args:
        latest_checkpoint: is asked for the one to be named.
    """

    def __init__(self, latest_checkpoint: Callable[[], Path | None]) -> None:
        self._latest_checkpoint = latest_checkpoint
        self._before: dict[str, StepFacts] = {}

    def forget(self) -> None:
        """Begin anew, after a rollback."""
        self._before = {}

    def see(self, facts: StepFacts) -> None:
        """Look at the next step of a phase.

        Raises:
            DivergedError: it is bad; says what is known of it.
        """
        before = self._before.get(facts.phase)
        self._before[facts.phase] = facts
        if facts.good:
            return
        checkpoint = self._latest_checkpoint()
        where = f"the last good checkpoint is {checkpoint}" if checkpoint is not None else "there is no checkpoint yet"
        earlier = "" if before is None else f"; the step before: {before}"
        raise DivergedError(f"training diverged at step {facts.step}: {facts}, learning rate {facts.lr:.4g}{earlier}; {where}", fix=REMEDY)


def gradient_norm(optimizer: torch.optim.Optimizer, device: torch.device) -> Tensor:
    """2-norm of all gradients together, on the device; zero where there is none."""
    gradients = [parameter.grad for parameter in parameters_of(optimizer) if parameter.grad is not None]
    return get_total_norm(gradients) if gradients else torch.zeros((), device=device)


def clip_gradients(optimizer: torch.optim.Optimizer, max_norm: float, norm: Tensor) -> None:
    """Scale all gradients together so that their norm, which is ``norm``, is at most ``max_norm`` (Pascanu et al. 2013, arXiv:1211.5063)."""
    clip_grads_with_norm_(parameters_of(optimizer), max_norm, norm)


def weight_norm(optimizers: Iterable[torch.optim.Optimizer]) -> Tensor:
    """2-norm of all trained parameters together."""
    return get_total_norm([parameter for optimizer in optimizers for parameter in parameters_of(optimizer)])
