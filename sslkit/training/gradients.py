"""The parameters of optimisers and their gradients: how long they are, and how long gradients may be."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from sslkit.training.phase_optimizers import parameters_of


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
