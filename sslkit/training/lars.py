"""The optimizer behind ``lars``; torch has none."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

Flavour = Literal["classic", "larc", "larc_clip"]

EPS = 1e-8
"""Added to the denominators of ``larc``, as in apex."""

_lists: Any = torch
"""Its operations on lists of tensors, which are what its own optimizers are made of, have no public names."""


class TrustRatioSGD(Optimizer):
    """Updates all parameters of a group together and reads no value. What the flavours compute stands in :class:`LARS`.

    Args:
        groups: of parameters. One with ``adapted`` False has no trust ratios.
        flavour: one of three formulas.
        options: of the groups: ``lr``, ``momentum``, ``weight_decay``, ``eta`` and ``adapted``.
    """

    def __init__(self, groups: list[dict], flavour: Flavour, options: dict[str, Any]) -> None:
        super().__init__(groups, options)
        self._flavour = flavour

    @override
    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            if trained := [parameter for parameter in group["params"] if parameter.grad is not None]:
                self._update(trained, [parameter.grad for parameter in trained], group)

    def _update(self, weights: list[Tensor], gradients: Sequence[Tensor], group: dict[str, Any]) -> None:
        classic, directions = self._flavour == "classic", gradients
        if group["weight_decay"]:
            directions = _lists._foreach_add(gradients, weights, alpha=group["weight_decay"])
        if group["adapted"]:
            ratios = self._trust_ratios(weights, directions if classic else gradients, group)
            directions = _lists._foreach_mul(directions, ratios)
        for parameter in weights:
            if "momentum_buffer" not in self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        momenta = [self.state[parameter]["momentum_buffer"] for parameter in weights]
        _lists._foreach_mul_(momenta, group["momentum"])
        _lists._foreach_add_(momenta, directions, alpha=group["lr"] if classic else 1.0)
        _lists._foreach_add_(weights, momenta, alpha=-1.0 if classic else -group["lr"])

    def _trust_ratios(self, weights: Sequence[Tensor], gradients: Sequence[Tensor], group: dict[str, Any]) -> list[Tensor]:
        """For each parameter, 0-dim."""
        w, g = (torch.stack(_lists._foreach_norm(tensors)) for tensors in (weights, gradients))
        if self._flavour == "classic":
            ratios = torch.where(g > 0, group["eta"] * w / g, 1.0)
        else:  # in apex, what has no gradient does not decay either
            ratios = torch.where(g > 0, group["eta"] * w / (g + group["weight_decay"] * w + EPS), 0.0)
        if self._flavour == "larc_clip":
            ratios = torch.where(g > 0, (ratios / group["lr"]).clamp(max=1.0), 0.0)
        return list(torch.where(w > 0, ratios, 1.0).unbind())
