import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from sslkit import LARS, SGD, Adam, AdamW, OptimizerFactory
from sslkit.training.phase_optimizers import clip_gradients, gradient_norm


def test_the_options_reach_torch():
    parameter = torch.nn.Parameter(torch.ones(1))
    sgd = SGD(lr=0.3, momentum=0.8, nesterov=False, weight_decay=0.01).build([{"params": [parameter]}])
    assert type(sgd) is torch.optim.SGD
    assert {**sgd.param_groups[0], "lr": 0.3, "momentum": 0.8, "nesterov": False, "weight_decay": 0.01} == sgd.param_groups[0]
    adamw = AdamW(lr=0.2, betas=(0.5, 0.6), eps=1e-6, weight_decay=0.03).build([{"params": [parameter]}])
    assert type(adamw) is torch.optim.AdamW
    assert {**adamw.param_groups[0], "lr": 0.2, "betas": (0.5, 0.6), "eps": 1e-6, "weight_decay": 0.03} == adamw.param_groups[0]


def test_a_group_may_have_its_own_weight_decay():
    one, two = (torch.nn.Parameter(torch.ones(1)) for _ in range(2))
    optimizer = SGD(weight_decay=0.01).build([{"params": [one]}, {"params": [two], "weight_decay": 0.0}])
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.01, 0.0]


@pytest.mark.parametrize("factory", [SGD, Adam, AdamW, LARS])
@pytest.mark.parametrize("named", [False, True], ids=["plain", "named"])
def test_norms_and_biases_are_excluded_from_weight_decay_in_groups_of_their_own(factory: type[Any], named: bool):
    shapes = [(3, 2), (2,), (2, 2), (), (4, 1, 1, 1)]
    given: list[Any] = [torch.nn.Parameter(torch.ones(shape)) for shape in shapes]
    if named:
        given = [(f"p{index}", parameter) for index, parameter in enumerate(given)]
    groups = [{"params": given[:2]}, {"params": given[2:4], "weight_decay": 0.7, "final_weight_decay": 0.9}, {"params": given[4:]}]
    options = factory(weight_decay=0.1, final_weight_decay=0.2, exclude_norm_and_bias=True)
    found = [
        ([tuple(p.shape) for p in group["params"]], group["weight_decay"], group.get("final_weight_decay"))
        for group in options.build(groups).param_groups
    ]
    expected = [([(3, 2)], 0.1, 0.2), ([(2,)], 0.0, None), ([(2, 2)], 0.7, 0.9), ([()], 0.0, None), ([(4, 1, 1, 1)], 0.1, 0.2)]
    assert found == expected
    assert [len(group["params"]) for group in factory(exclude_norm_and_bias=False).build(groups).param_groups] == [2, 2, 1]


def test_by_default_only_lars_excludes_as_its_flavour_does():
    def decays(options: OptimizerFactory) -> list[float]:
        parameters = [torch.nn.Parameter(torch.ones(2, 2)), torch.nn.Parameter(torch.ones(2))]
        return [group["weight_decay"] for group in options.build([{"params": parameters}]).param_groups]

    assert decays(SGD(weight_decay=0.1)) == decays(AdamW(weight_decay=0.1)) == decays(Adam(weight_decay=0.1)) == [0.1]
    assert decays(LARS(weight_decay=0.1)) == decays(LARS(flavour="larc_clip", weight_decay=0.1)) == [0.1, 0.0]
    assert decays(LARS(flavour="larc", weight_decay=0.1)) == [0.1]


def make_parameters() -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    convolution = torch.randn(4, 3, 3, 3, generator=generator).to(memory_format=torch.channels_last)
    return [torch.nn.Parameter(convolution), torch.nn.Parameter(torch.randn(5, generator=generator))]


def train(optimizer: torch.optim.Optimizer, parameters: list[torch.nn.Parameter], *, late: bool) -> None:
    """Five steps; the second parameter gets its first gradient in the third one if ``late``."""
    for step in range(5):
        optimizer.zero_grad()
        loss = (parameters[0] ** 2 * torch.arange(3.0)).sum()
        if step >= 2 or not late:
            loss = loss + (parameters[1] - 1).square().sum() * parameters[0].detach().mean()
        loss.backward()
        optimizer.step()


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(
    ("factory", "plain"),
    [
        (SGD(lr=0.05), lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4, foreach=False)),
        (SGD(lr=0.05, momentum=0.0, nesterov=False), lambda p: torch.optim.SGD(p, lr=0.05, weight_decay=5e-4, foreach=False)),
        (AdamW(lr=0.05), lambda p: torch.optim.AdamW(p, lr=0.05, weight_decay=0.05, foreach=False)),
        (Adam(lr=0.05, weight_decay=0.1), lambda p: torch.optim.Adam(p, lr=0.05, weight_decay=0.1, foreach=False)),
    ],
    ids=["sgd", "sgd without momentum", "adamw", "adam"],
)
def test_fused_optimizers_do_what_the_plain_ones_do(factory: OptimizerFactory, plain: Callable, late: bool):
    ours, theirs = make_parameters(), make_parameters()
    train(factory.build([{"params": ours}]), ours, late=late)
    train(plain(theirs), theirs, late=late)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_a_forgotten_momentum_begins_anew():
    ours, theirs = make_parameters(), make_parameters()
    optimizer = SGD(lr=0.05).build([{"params": ours}])
    plain = torch.optim.SGD(theirs, lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4, foreach=False)
    for parameters, one in ((ours, optimizer), (theirs, plain)):
        train(one, parameters, late=False)
        one.state.pop(parameters[1])
        train(one, parameters, late=False)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def parameters() -> list[torch.nn.Parameter]:
    """The last has no gradient."""
    generator = torch.Generator().manual_seed(0)
    found = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((3, 4), (5,), (), (2, 2, 2))]
    for parameter in found[:-1]:
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    return found


def naive_norm(found: list[torch.nn.Parameter]) -> float:
    return math.sqrt(sum(float(value) ** 2 for parameter in found if parameter.grad is not None for value in parameter.grad.flatten()))


def optimizer(found: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD([{"params": found[:2]}, {"params": found[2:]}], lr=0.1)


def test_the_norm_is_that_of_all_gradients_together():
    found = parameters()
    assert float(gradient_norm(optimizer(found), torch.device("cpu"))) == pytest.approx(naive_norm(found))
    for parameter in found:
        parameter.grad = None
    assert float(gradient_norm(optimizer(found), torch.device("cpu"))) == 0.0


@pytest.mark.parametrize(("max_norm", "clipped"), [(0.5, True), (100.0, False)])
def test_longer_gradients_are_scaled_down_together(max_norm: float, clipped: bool):
    found = parameters()
    before = [None if parameter.grad is None else parameter.grad.clone() for parameter in found]
    norm = naive_norm(found)
    clip_gradients(optimizer(found), max_norm, gradient_norm(optimizer(found), torch.device("cpu")))
    scale = max_norm / norm if clipped else 1.0
    for parameter, old in zip(found, before, strict=True):
        assert (parameter.grad is None) == (old is None)
        if old is not None:
            torch.testing.assert_close(parameter.grad, old * scale, rtol=1e-5, atol=1e-6)
