"""Each promise is broken once, on purpose: the check must name it. What ships must keep all of them."""

from dataclasses import dataclass

import pytest
import torch
from torch.optim import Optimizer

from sslkit import LARS, SGD, Adam, AdamW, OptimizerFactory
from sslkit.catalog.source_code import SourceCode
from sslkit.testing import check_optimizer
from tests.testing.broken import broken_promise
from tests.training.odd_optimizers import Odd


@pytest.fixture(autouse=True)
def _no_source_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which of these tests' own would be read and hashed at every fit with a folder: all of it."""
    monkeypatch.setattr(SourceCode, "of", lambda _self, *_values: {})


@pytest.mark.parametrize(
    "optimizer",
    [
        SGD(),
        SGD(momentum=0.0, nesterov=False),
        AdamW(exclude_norm_and_bias=True, final_weight_decay=0.4),
        Adam(),
        *(LARS(flavour=flavour, eta=0.02) for flavour in ("classic", "larc", "larc_clip")),
        *(Odd(kind=kind) for kind in ("ScheduleFree", "DistanceFree", "Nested", "Global", "Divided", "rate in a tensor", "NAdam")),
    ],
    ids=lambda optimizer: getattr(optimizer, "kind", type(optimizer).__name__),
)
def test_optimizers_keep_their_promises(optimizer: OptimizerFactory):
    check_optimizer(optimizer)


RESUMED = "Odd: a resumed run must end with the same bits: keep all that the optimizer remembers in its state_dict; late, "
HERE = "of odd_optimizers.py"


@pytest.mark.parametrize(
    ("kind", "promise"),
    [
        ("Hidden", RESUMED),
        ("Forgetful", f"Odd: Forgetful {HERE}: load_state_dict does not restore what state_dict gave"),
        ("Callback", f"Odd: Callback {HERE}: its state cannot be saved: optimizer.main.state.0.rule.step is of the type builtins.function"),
        ("OwnRate", "Odd: must use the rate in its parameter groups, which the loop sets before each step: a schedule has no effect"),
        ("no first group", f"Odd: _Plain {HERE}: of phase 'main' it leaves out backbone.shallow.0.weight, "),
        ("no vectors", f"Odd: _Plain {HERE}: of phase 'main' it leaves out late, unused, backbone.shallow.1.weight, "),
        ("a stranger", f"Odd: _Plain {HERE}: of phase 'main' it was not asked for a tensor that is no parameter"),
        ("merged", f"Odd: _Plain {HERE}: puts parameters of different lr_scale into one group"),
        ("rateless", f"Odd: _Plain {HERE}: has a group without a number 'lr'"),
        ("nothing", f"Odd: Odd {HERE}: build must return a torch.optim.Optimizer; found None"),
    ],
)
def test_a_broken_promise_is_named(kind: str, promise: str):
    assert broken_promise(check_optimizer, Odd(kind=kind)).startswith(promise)


class _Drawing(torch.optim.SGD):
    def step(self, closure=None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.data += 1e-3 * torch.rand(parameter.shape, generator=_GENERATOR)


class _Half(torch.optim.SGD):
    def step(self, closure=None) -> None:
        self.param_groups[0]["params"][0].data -= 1e-3


class _Exploding(torch.optim.SGD):
    def step(self, closure=None) -> None:
        self.param_groups[0]["params"][0].data *= float("inf")


_GENERATOR = torch.Generator()


@dataclass(frozen=True, kw_only=True)
class Drawing(OptimizerFactory):
    lr: float = 0.1

    def build(self, groups: list[dict]) -> Optimizer:
        return _Drawing(groups, lr=self.lr)


class HalfTrained(Drawing):
    def build(self, groups: list[dict]) -> Optimizer:
        return _Half(groups, lr=self.lr)


class Exploding(Drawing):
    def build(self, groups: list[dict]) -> Optimizer:
        return _Exploding(groups, lr=self.lr)


@dataclass(frozen=True, kw_only=True)
class Rateless(OptimizerFactory):
    rate: float = 0.1

    def build(self, groups: list[dict]) -> Optimizer:
        return torch.optim.SGD(groups, lr=self.rate)


@pytest.mark.parametrize(
    ("optimizer", "promise"),
    [
        (Drawing(), "Drawing: two runs with the same seed must end with the same bits; "),
        (HalfTrained(), "HalfTrained: must train every parameter that gets a gradient: late, backbone.shallow.1.weight, "),
        (Exploding(), "Exploding: training diverged at step 2: loss nan"),
        (Rateless(), "Rateless: must have an option lr, the base rate"),
    ],
    ids=lambda value: "" if isinstance(value, str) else type(value).__name__,
)
def test_a_promise_broken_by_the_steps_is_named(optimizer: OptimizerFactory, promise: str):
    assert broken_promise(check_optimizer, optimizer).startswith(promise)
