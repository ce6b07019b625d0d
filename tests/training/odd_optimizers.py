"""Optimizers that keep their state in unusual places, each as short as it can be, and one factory for all."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from sslkit import OptimizerFactory


class _Plain(Optimizer):
    """Steps along the gradient; subclasses say how far, and remember."""

    def __init__(self, groups: list[dict], lr: float = 0.05, weight_decay: float = 0.0) -> None:
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            trained = [parameter for parameter in group["params"] if parameter.grad is not None]
            for parameter in trained:
                self.move(parameter, parameter.grad, group)
            self.end(group)

    def move(self, parameter: Tensor, gradient: Tensor, group: dict) -> None:
        parameter.add_(gradient, alpha=-group["lr"])

    def end(self, group: dict) -> None:
        pass


class ScheduleFree(_Plain):
    """Averages its iterates, with weights that are counted in the group: Defazio et al. 2024 (arXiv:2405.15682), without momentum."""

    def move(self, parameter, gradient, group) -> None:
        base = self.state[parameter].setdefault("z", parameter.clone())
        base.add_(gradient, alpha=-group["lr"])
        parameter.lerp_(base, 1 / (group.get("k", 0) + 1))

    def end(self, group) -> None:
        group["k"] = group.get("k", 0) + 1


class DistanceFree(_Plain):
    """Estimates the distance to the solution in numbers and tensors of its groups, as Prodigy does: Mishchenko & Defazio 2023
    (arXiv:2306.06101).
    """

    def move(self, parameter, gradient, group) -> None:
        start = self.state[parameter].setdefault("start", parameter.clone())
        group["numerator"] = group.get("numerator", 0.0) + float((gradient * (start - parameter)).sum())
        group["sum"] = group.get("sum", torch.zeros((), dtype=torch.float64)) + gradient.abs().double().sum()
        parameter.add_(gradient, alpha=-group["lr"] * group.get("d", 0.5))

    def end(self, group) -> None:
        group["d"] = max(group.get("d", 0.5), 0.1 + abs(group["numerator"]) / (float(group["sum"]) + 1e-3))
        group["highest"] = max(group.get("highest", -math.inf), group["d"])


class Nested(_Plain):
    """Dicts, lists and tuples in a parameter's state, as of LBFGS and SOAP: also float64, integers, and a matrix that lies on its side."""

    def move(self, parameter, gradient, group) -> None:
        state = self.state[parameter]
        if not state:
            state["basis"] = {0: torch.eye(parameter.shape[0]).mT.clone().mT, "rest": {"none": None, "range": (0.5, -math.inf)}}
            state["history"] = []
            state["exact"] = torch.zeros(parameter.shape, dtype=torch.float64)
            state["steps"] = torch.zeros((), dtype=torch.int64)
            state["dtype"] = torch.bfloat16
        state["exact"] += gradient.double() / 3
        state["steps"] += 1
        state["history"] = [*state["history"][-2:], (int(state["steps"]), gradient.clone())]
        flat = gradient.flatten(1) if gradient.ndim > 1 else gradient[:, None]
        state["basis"][0] = torch.linalg.qr(state["basis"][0] + 0.1 * flat @ flat.mT).Q
        turned = (state["basis"][0].mT @ (state["basis"][0] @ flat)).reshape_as(gradient)
        pulled = sum(float(part.mean()) * number for number, part in state["history"])
        parameter.sub_(group["lr"] * (turned + 0.1 * (state["exact"] / state["steps"]).float() + 0.01 * pulled))


class Global(_Plain):
    """Counts its steps in an attribute, which its state dict holds."""

    count = 0

    def end(self, group) -> None:
        self.count += 1

    def move(self, parameter, gradient, group) -> None:
        parameter.add_(gradient, alpha=-group["lr"] / (1 + self.count))

    def state_dict(self) -> dict:
        return {**super().state_dict(), "count": self.count}

    def load_state_dict(self, state_dict: dict) -> None:
        super().load_state_dict({key: value for key, value in state_dict.items() if key != "count"})
        self.count = state_dict["count"]


class Hidden(Global):
    """The same attribute, and a state dict that knows nothing of it."""

    def state_dict(self) -> dict:
        return Optimizer.state_dict(self)

    def load_state_dict(self, state_dict: dict) -> None:
        Optimizer.load_state_dict(self, state_dict)


class Forgetful(Global):
    """Loads less than it saved."""

    def load_state_dict(self, state_dict: dict) -> None:
        Optimizer.load_state_dict(self, {key: value for key, value in state_dict.items() if key != "count"})


class Callback(_Plain):
    """Keeps a function in its state."""

    def move(self, parameter, gradient, group) -> None:
        self.state[parameter]["rule"] = {"step": lambda rate: rate * gradient}
        parameter.sub_(self.state[parameter]["rule"]["step"](group["lr"]))


class OwnRate(_Plain):
    """Takes no notice of the rate in its groups."""

    def move(self, parameter, gradient, group) -> None:
        parameter.add_(gradient, alpha=-0.01)


class Divided(_Plain):
    """Matrices and the rest in groups of their own."""

    def __init__(self, groups: list[dict], **options: Any) -> None:
        parts = [[p for p in group["params"] if (p.ndim > 1) is matrix] for matrix in (True, False) for group in groups]
        super().__init__([{"params": part} for part in parts if part], **options)


def _rateless(groups: list[dict]) -> Optimizer:
    optimizer = _Plain(groups)
    for group in optimizer.param_groups:
        del group["lr"]
    return optimizer


KINDS: dict[str, Callable[[list[dict]], Any]] = {
    cls.__name__: cls for cls in (_Plain, ScheduleFree, DistanceFree, Nested, Global, Hidden, Forgetful, Callback, OwnRate, Divided)
}
KINDS |= {
    "no first group": lambda groups: _Plain(groups[1:]),
    "no vectors": lambda groups: _Plain([{**group, "params": [p for p in group["params"] if p.ndim > 1]} for group in groups]),
    "a stranger": lambda groups: _Plain([*groups, {"params": [torch.nn.Parameter(torch.zeros(1))]}]),
    "merged": lambda groups: _Plain([{"params": [parameter for group in groups for parameter in group["params"]]}]),
    "rateless": _rateless,
    "closure": lambda groups: torch.optim.LBFGS([parameter for group in groups for parameter in group["params"]]),
    "nothing": lambda _groups: None,
    "rate in a tensor": lambda groups: torch.optim.Adam(groups, lr=torch.tensor(0.01), foreach=False),
    "amsgrad": lambda groups: torch.optim.Adam(groups, lr=0.01, amsgrad=True),
    "RMSprop": lambda groups: torch.optim.RMSprop(groups, lr=0.01, centered=True, momentum=0.5),
}
KINDS |= {
    name: lambda groups, name=name: getattr(torch.optim, name)(groups, lr=0.01)
    for name in ("SGD", "AdamW", "NAdam", "RAdam", "Adamax", "Adagrad", "Adadelta", "ASGD", "Rprop", "Adafactor")
}


@dataclass(frozen=True, kw_only=True)
class Odd(OptimizerFactory):
    """One of ``KINDS``."""

    kind: str = "_Plain"
    lr: float = 0.05

    def build(self, groups: list[dict]) -> Optimizer:
        return KINDS[self.kind](groups)
