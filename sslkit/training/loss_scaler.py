"""Loss scaling for float16, in which small gradients would underflow to zero."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from sslkit.training.phase_optimizers import parameters_of

INITIAL, GROWTH, BACKOFF, INTERVAL = 2.0**16, 2.0, 0.5, 2000
"""As in ``torch.amp.GradScaler``."""

SMALLEST = 2.0**-10
"""Below this, no scale helps: the gradient itself is not finite."""

_lists: Any = torch
"""Its operations on lists of tensors have no public names."""


class LossScaler:
    """Scales the loss of one phase, so that small gradients do not become zero: Micikevicius et al. 2018 (arXiv:1710.03740), sec. 3.2.

    A step whose gradients overflow is skipped, and the scale is halved; it doubles after ``INTERVAL`` steps without an overflow. The same
    algorithm as ``torch.amp.GradScaler``, which torch lacks on Apple's GPUs before 2.8. Without host syncs, unless an optimizer cannot
    skip a step itself.

    Attributes:
        scale: 0-dim float32 tensor on the device, updated in place.
    """

    def __init__(self, device: torch.device) -> None:
        self.scale = torch.full((), INITIAL, device=device)
        self._steps = torch.zeros((), device=device)  # since the scale last changed
        self._overflow = torch.zeros((), device=device)  # 1 or 0

    def scaled(self, loss: Tensor) -> Tensor:
        """The loss to call ``backward`` of."""
        return loss.float() * self.scale

    def unscale(self, optimizer: Optimizer) -> None:
        """Divide its gradients by the scale, once for each step."""
        gradients = [parameter.grad for parameter in parameters_of(optimizer) if parameter.grad is not None]
        if not gradients:
            self._overflow = torch.zeros_like(self.scale)
            return
        _lists._foreach_mul_(gradients, 1.0 / self.scale)
        self._overflow = 1.0 - get_total_norm(gradients, float("inf")).isfinite().float()

    def step(self, optimizer: Optimizer) -> None:
        """Let the optimizer make its step, unless gradients overflowed, and adapt the scale."""
        if vars(optimizer).get("_step_supports_amp_scaling"):  # torch's fused ones look themselves, on the device
            optimizer.grad_scale, optimizer.found_inf = None, self._overflow  # pyright: ignore[reportAttributeAccessIssue]
            optimizer.step()
            del optimizer.grad_scale, optimizer.found_inf  # pyright: ignore[reportAttributeAccessIssue]
        elif not self._overflow:
            optimizer.step()
        overflow = self._overflow > 0
        steps = torch.where(overflow, 0.0, self._steps + 1)
        factor = torch.where(overflow, BACKOFF, torch.where(steps == INTERVAL, GROWTH, 1.0))
        self.scale.mul_(factor).clamp_(max=2.0**100)
        self._steps = torch.where(steps == INTERVAL, 0.0, steps)

    def state(self) -> list[float]:
        """For a checkpoint."""
        return [float(self.scale), float(self._steps)]

    def restore(self, state: list[float]) -> None:
        """Resume from :meth:`state`."""
        scale, steps = state
        self.scale.fill_(scale)
        self._steps = torch.full_like(self.scale, steps)
