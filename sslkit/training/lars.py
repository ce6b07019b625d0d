"""The optimizer behind ``lars``, which torch lacks."""

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
"""For its operations on lists of tensors, which its own optimizers are made of and which have no public names."""


class TrustRatioSGD(Optimizer):
    """SGD with trust ratios, for all parameters of a group at once and without host syncs; :class:`LARS` has the formulas.

    Args:
        groups: parameter groups; those with ``adapted`` False have no trust ratios.
        flavour: which formula.
        options: defaults of the groups: ``lr``, ``momentum``, ``weight_decay``, ``eta`` and ``adapted``.
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
        for parameter in weights:
            if "momentum_buffer" not in self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        momenta = [self.state[parameter]["momentum_buffer"] for parameter in weights]
        _lists._foreach_mul_(momenta, group["momentum"])
        inner, outer = (group["lr"], 1.0) if classic else (1.0, group["lr"])
        if group["adapted"]:
            ratios = self._trust_ratios(weights, directions if classic else gradients, group)
            _lists._foreach_addcmul_(momenta, directions, ratios, value=inner)
        else:
            _lists._foreach_add_(momenta, directions, alpha=inner)
        _lists._foreach_add_(weights, momenta, alpha=-outer)

    def _trust_ratios(self, weights: Sequence[Tensor], gradients: Sequence[Tensor], group: dict[str, Any]) -> list[Tensor]:
        """A 0-dim tensor for each parameter."""
        w, g = (torch.stack(_lists._foreach_norm(tensors)) for tensors in (weights, gradients))
        if self._flavour == "classic":
            ratios = torch.where(g > 0, group["eta"] * w / g, 1.0)
        else:  # in apex, what has no gradient does not decay either
            ratios = torch.where(g > 0, group["eta"] * w / (g + group["weight_decay"] * w + EPS), 0.0)
        if self._flavour == "larc_clip":
            ratios = torch.where(g > 0, (ratios / group["lr"]).clamp(max=1.0), 0.0)
        return list(torch.where(w > 0, ratios, 1.0).unbind())
