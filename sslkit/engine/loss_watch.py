"""The watch over a fit's loss and gradient: the first step in which one is not finite or explodes, found without reading any."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from sslkit.errors import DivergedError

LIMIT = 1e10
"""A loss or a gradient norm beyond it has exploded: float32 is about to lose it, whatever is minimised."""

REMEDY = "start over (--fresh) with a lower learning rate, warmup_epochs, clip_grad_norm or on_nan"


class StepFacts(NamedTuple):
    """What is known of a step.

    Attributes:
        step: counted from 1.
        lr: of the first parameter group.
        loss: the value that was minimised.
        gradient_norm: 2-norm over all parameters of the phase, before clipping.
    """

    step: float
    lr: float
    loss: float
    gradient_norm: float


class LossWatch:
    """Keeps the facts of the last step, and of the first bad one with the step before it, on the device. Costs no host sync.

    Args:
        device: of the loss.
    """

    def __init__(self, device: torch.device) -> None:
        # Steps are exact in float32 up to 16 million; Apple's GPUs have no float64.
        dtype = torch.float32 if device.type == "mps" else torch.float64
        self._facts = torch.zeros(2, len(StepFacts._fields), dtype=dtype, device=device)  # of the step before, of the step

    def forget(self) -> None:
        """Begin anew, after a roll-back."""
        self._facts = torch.zeros_like(self._facts)

    def note(self, step: int, lr: float, loss: Tensor, gradient_norm: Tensor) -> None:
        """Take note of a step, unless an earlier one was bad already."""
        # Filled on the device: a number that is sent there from memory can make a GPU wait.
        given = [torch.full_like(self._facts[0, 0], value) for value in (step, lr)]
        measured = [value.detach().to(self._facts.dtype) for value in (loss, gradient_norm)]
        now = torch.stack([self._facts[1], torch.stack([*given, *measured])])
        self._facts = torch.where((self._facts[1, 2:].abs() < LIMIT).all(), now, self._facts)  # NaN is below nothing

    def check(self, latest_checkpoint: Callable[[], Path | None]) -> None:
        """Read what was noted; costs a host sync.

        Args:
            latest_checkpoint: is asked for the one to be named.

        Raises:
            DivergedError: a step was bad; says what is known of it.
        """
        before, last = (StepFacts(*row) for row in self._facts.tolist())
        if all(abs(value) < LIMIT for value in (last.loss, last.gradient_norm)):
            return
        checkpoint = latest_checkpoint()
        where = f"the last good checkpoint is {checkpoint}" if checkpoint is not None else "there is no checkpoint yet"
        earlier = f"; the step before: loss {before.loss:.4g}, gradient norm {before.gradient_norm:.4g}" if before.step else ""
        raise DivergedError(
            f"training diverged at step {last.step:.0f}: loss {last.loss:.4g}, gradient norm {last.gradient_norm:.4g},"
            f" learning rate {last.lr:.4g}{earlier}; {where}",
            fix=REMEDY,
        )
