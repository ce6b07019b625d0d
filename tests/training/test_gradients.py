import math

import pytest
import torch
from torch import nn

from sslkit.training.divergence import clip_gradients, gradient_norm

CPU = torch.device("cpu")


def parameters() -> list[nn.Parameter]:
    """The last has no gradient."""
    generator = torch.Generator().manual_seed(0)
    found = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((3, 4), (5,), (), (2, 2, 2))]
    for parameter in found[:-1]:
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    return found


def naive_norm(found: list[nn.Parameter]) -> float:
    return math.sqrt(sum(float(value) ** 2 for parameter in found if parameter.grad is not None for value in parameter.grad.flatten()))


def optimizer(found: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD([{"params": found[:2]}, {"params": found[2:]}], lr=0.1)


def test_the_norm_is_that_of_all_gradients_together():
    found = parameters()
    assert float(gradient_norm(optimizer(found), CPU)) == pytest.approx(naive_norm(found))


def test_without_gradients_it_is_zero():
    assert float(gradient_norm(optimizer([nn.Parameter(torch.ones(2))] * 1 + [nn.Parameter(torch.ones(1))]), CPU)) == 0.0


@pytest.mark.parametrize(("max_norm", "clipped"), [(0.5, True), (100.0, False)])
def test_longer_gradients_are_scaled_down_together(max_norm: float, clipped: bool):
    found = parameters()
    before = [None if parameter.grad is None else parameter.grad.clone() for parameter in found]
    norm = naive_norm(found)
    clip_gradients(optimizer(found), max_norm, gradient_norm(optimizer(found), CPU))
    scale = max_norm / norm if clipped else 1.0
    for parameter, old in zip(found, before, strict=True):
        assert (parameter.grad is None) == (old is None)
        if old is not None:
            torch.testing.assert_close(parameter.grad, old * scale, rtol=1e-5, atol=1e-6)
