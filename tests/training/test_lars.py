"""LARS against its formulas, parameter by parameter, in Python's own numbers where they are scalars."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sslkit import LARS, OptionError
from sslkit.training.lars import Flavour
from tests.training.test_fit_costs import Operations, Reads

FLAVOURS: tuple[Flavour, ...] = ("classic", "larc", "larc_clip")
STEPS = 12


def make_weights() -> list[nn.Parameter]:
    """Convolutions in two memory formats, a matrix that begins at zero, vectors and a scalar; the last never gets a gradient."""
    generator = torch.Generator().manual_seed(0)
    shapes: tuple[tuple[int, ...], ...] = ((4, 3, 3, 3), (5, 4), (6, 2), (5,), (), (3, 2))
    weights = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    weights[0].data = weights[0].data.to(memory_format=torch.channels_last)
    weights[2].data.zero_()
    return weights


def gradients_of(step: int, weights: list[nn.Parameter]) -> list[Tensor | None]:
    """The second parameter's is zero at times, the scalar's first one comes late."""
    generator = torch.Generator().manual_seed(step)
    drawn: list[Tensor | None] = [0.1 * torch.randn(weight.shape, generator=generator) for weight in weights]
    drawn[-1] = None
    if step % 3 == 0:
        drawn[1] = torch.zeros_like(weights[1])
    if step < 4:
        drawn[4] = None
    return drawn


def rate_of(step: int, lr: float) -> float:
    return lr * min(1.0, step / 4)  # zero at first, as in a warm-up


def norm(tensor: Tensor) -> float:
    return math.sqrt(sum(float(value) ** 2 for value in tensor.flatten()))


def naive(options: LARS, *, excluded: bool) -> list[Tensor]:
    weights = [weight.detach().clone().double() for weight in make_weights()]
    momenta: list[Tensor | None] = [None] * len(weights)
    for step in range(STEPS):
        lr = rate_of(step, options.lr)
        for index, gradient in enumerate(gradients_of(step, make_weights())):
            if gradient is None:
                continue
            w, g = weights[index], gradient.double()
            plain = excluded and w.ndim < 2
            decay, ratio = 0.0 if plain else options.weight_decay, 1.0
            direction = g + decay * w
            if not plain and options.flavour == "classic":
                if norm(w) > 0 and norm(direction) > 0:
                    ratio = options.eta * norm(w) / norm(direction)
            elif not plain:
                if norm(w) > 0 and norm(g) > 0:
                    ratio = options.eta * norm(w) / (norm(g) + decay * norm(w) + 1e-8)
                    if options.flavour == "larc_clip":
                        ratio = min(ratio / lr, 1.0) if lr else 1.0
                else:
                    direction = g
            before = momenta[index]
            buffer = torch.zeros_like(w) if before is None else options.momentum * before
            if options.flavour == "classic":
                momenta[index] = buffer + lr * ratio * direction
                weights[index] = w - momenta[index]
            else:
                momenta[index] = buffer + ratio * direction
                weights[index] = w - lr * momenta[index]
    return weights


def ours(options: LARS) -> tuple[list[nn.Parameter], torch.optim.Optimizer]:
    weights = make_weights()
    optimizer = options.build([{"params": weights[:2]}, {"params": weights[2:]}])
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = rate_of(step, options.lr)
        for weight, gradient in zip(weights, gradients_of(step, weights), strict=True):
            weight.grad = gradient
        optimizer.step()
    return weights, optimizer


@pytest.mark.parametrize("exclude", [None, False, True], ids=["as published", "all", "excluded"])
@pytest.mark.parametrize("momentum", [0.9, 0.0])
@pytest.mark.parametrize("flavour", FLAVOURS)
def test_every_flavour_is_its_formula(flavour: Flavour, momentum: float, exclude: bool | None):
    options = LARS(lr=2.0, flavour=flavour, eta=0.02, momentum=momentum, weight_decay=0.05, exclude_norm_and_bias=exclude)
    expected = naive(options, excluded=flavour != "larc" if exclude is None else exclude)
    for found, wanted in zip(ours(options)[0], expected, strict=True):
        torch.testing.assert_close(found.detach().double(), wanted, rtol=2e-5, atol=1e-6)


def test_the_flavours_differ():
    ends = [torch.cat([weight.detach().flatten() for weight in ours(LARS(lr=2.0, flavour=flavour))[0]]) for flavour in FLAVOURS]
    assert all(not torch.allclose(one, other) for one, other in [(ends[0], ends[1]), (ends[1], ends[2]), (ends[0], ends[2])])


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_a_step_reads_no_value_and_costs_little_more_for_more_parameters(flavour: Flavour):
    weights = make_weights()
    optimizer = LARS(flavour=flavour).build([{"params": weights}])
    for weight, gradient in zip(weights, gradients_of(4, weights), strict=True):
        weight.grad = gradient
    optimizer.step()
    with Reads() as reads, Operations() as operations:
        optimizer.step()
    assert reads.count == 0
    assert all(name in {"aten.unbind.int"} or count <= 4 for name, count in operations.counts.items()), operations.counts


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"flavour": "larcs"}, "flavour: must be 'classic' or 'larc' or 'larc_clip'; found 'larcs'"),
    ({"eta": 0.0}, "eta: must be positive; found 0.0; allowed: a number above 0"),
    ({"momentum": 1.0}, "momentum: is out of range; found 1.0; allowed: 0 <= momentum < 1"),
    ({"weight_decay": -1.0}, "weight_decay: must not be negative; found -1.0; allowed: 0 or more"),
    ({"final_weight_decay": -1.0}, "final_weight_decay: must not be negative; found -1.0; allowed: 0 or more"),
]


@pytest.mark.parametrize(("options", "message"), WRONG, ids=lambda value: str(value)[:20])
def test_wrong_options_are_one_line(options: dict[str, Any], message: str):
    with pytest.raises(OptionError) as caught:
        LARS(**options)
    assert str(caught.value).startswith(message)
