"""The optimizers that a recipe can name."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

from sslkit.contract.errors import OptionError
from sslkit.contract.training import OptimizerFactory
from sslkit.training.lars import Flavour, TrustRatioSGD


@dataclass(frozen=True, kw_only=True)
class _Decaying(OptimizerFactory):
    """What all have in common: a learning rate, and a weight decay that may be scheduled and may leave out some parameters."""

    lr: float
    weight_decay: float
    final_weight_decay: float | None = None
    exclude_norm_and_bias: bool | None = None

    def __post_init__(self) -> None:
        if self.lr <= 0.0:
            raise OptionError("lr", "must be positive", found=self.lr, allowed="a number above 0")
        for name in ("weight_decay", "final_weight_decay"):
            if (value := getattr(self, name)) is not None and value < 0.0:
                raise OptionError(name, "must not be negative", found=value, allowed="0 or more")

    def _groups(self, groups: list[dict], *, excluded: bool | None = None, **exclusion: Any) -> list[dict]:
        """The groups, with the final weight decay where they have no decay of their own.

        With ``exclude_norm_and_bias``, or ``excluded`` in its place, parameters of fewer than two dimensions get groups of their own,
        without weight decay and with the options of ``exclusion``.
        """
        divided = self.exclude_norm_and_bias if excluded is None else excluded
        return [part for group in groups for part in self._parts(group, exclusion if divided else None)]

    def _parts(self, group: dict, exclusion: dict[str, Any] | None) -> Iterator[dict]:
        if self.final_weight_decay is not None and "weight_decay" not in group:
            group = {"final_weight_decay": self.final_weight_decay, **group}
        if exclusion is None:
            yield group
            return
        members = list(group["params"])
        kept = [member for member in members if _parameter(member).ndim > 1]
        if kept or not members:
            yield {**group, "params": kept}
        if len(kept) < len(members):
            constant = {key: value for key, value in group.items() if key != "final_weight_decay"}
            yield {**constant, "params": [each for each in members if _parameter(each).ndim <= 1], "weight_decay": 0.0, **exclusion}


@final
@dataclass(frozen=True, kw_only=True)
class SGD(_Decaying):
    """Stochastic gradient descent with momentum.

    Attributes:
        lr: base learning rate.
        momentum: in [0, 1).
        nesterov: Nesterov's form of momentum.
        weight_decay: L2 penalty.
        final_weight_decay: where the weight decay ends, along half a cosine; None: it is constant.
        exclude_norm_and_bias: no weight decay for parameters of fewer than two dimensions: biases, scales and shifts of normalisations.
    """

    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    exclude_norm_and_bias: bool = False

    def __post_init__(self) -> None:
        _Decaying.__post_init__(self)
        _check_momentum(self.momentum)
        if self.nesterov and self.momentum == 0.0:
            raise OptionError("nesterov", "needs momentum", found=True, fix="set momentum above 0 or nesterov = false")

    @override
    def build(self, groups: list[dict]) -> Optimizer:
        groups = self._groups(groups)
        optimizer = torch.optim.SGD(
            groups, lr=self.lr, momentum=self.momentum, nesterov=self.nesterov, weight_decay=self.weight_decay, fused=_fused(groups)
        )
        if self.momentum:
            optimizer.register_step_pre_hook(_start_momenta)
        return optimizer


@dataclass(frozen=True, kw_only=True)
class _Adaptive(_Decaying):
    """Adam's options, with and without decoupled weight decay."""

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    exclude_norm_and_bias: bool = False

    def __post_init__(self) -> None:
        _Decaying.__post_init__(self)
        if not all(0.0 <= beta < 1.0 for beta in self.betas):
            raise OptionError("betas", "are out of range", found=self.betas, allowed="0 <= beta < 1")
        if self.eps <= 0.0:
            raise OptionError("eps", "must be positive", found=self.eps)

    def _options(self, groups: list[dict]) -> dict[str, Any]:
        options: dict[str, Any] = {"lr": self.lr, "betas": self.betas, "eps": self.eps, "weight_decay": self.weight_decay}
        return {**options, "params": groups, "fused": _fused(groups)}


@final
@dataclass(frozen=True, kw_only=True)
class AdamW(_Adaptive):
    """Adam with decoupled weight decay, Loshchilov & Hutter 2019 (arXiv:1711.05101).

    Attributes:
        lr: base learning rate.
        betas: decay rates of the two moment estimates, each in [0, 1).
        eps: added to the denominator.
        weight_decay: decoupled.
        final_weight_decay: where the weight decay ends, along half a cosine; None: it is constant.
        exclude_norm_and_bias: no weight decay for parameters of fewer than two dimensions: biases, scales and shifts of normalisations.
    """

    weight_decay: float = 0.05

    @override
    def build(self, groups: list[dict]) -> Optimizer:
        return torch.optim.AdamW(**self._options(self._groups(groups)))


@final
@dataclass(frozen=True, kw_only=True)
class Adam(_Adaptive):
    """Adam, Kingma & Ba 2015 (arXiv:1412.6980). Its weight decay is part of the gradient.

    Attributes:
        lr: base learning rate.
        betas: decay rates of the two moment estimates, each in [0, 1).
        eps: added to the denominator.
        weight_decay: L2 penalty.
        final_weight_decay: where the weight decay ends, along half a cosine; None: it is constant.
        exclude_norm_and_bias: no weight decay for parameters of fewer than two dimensions: biases, scales and shifts of normalisations.
    """

    weight_decay: float = 0.0

    @override
    def build(self, groups: list[dict]) -> Optimizer:
        return torch.optim.Adam(**self._options(self._groups(groups)))


@final
@dataclass(frozen=True, kw_only=True)
class LARS(_Decaying):
    """SGD with momentum, each parameter's step scaled to its norm, for large batches: You et al. 2017 (arXiv:1708.03888).

    With weights w, gradient g, weight decay d and a trust ratio r, which is 1 for weights that are zero:

    - ``classic``, as published: g' = g + d w, r = eta |w| / |g'|, m <- momentum m + lr r g', w <- w - m. Some implementations multiply m by
      lr instead, which differs only while lr changes.
    - ``larc``, of apex without clipping: r = eta |w| / (|g| + d |w|), m <- momentum m + r (g + d w), w <- w - lr m.
    - ``larc_clip``, of apex with clipping and of solo-learn: as ``larc``, with min(r / lr, 1) in place of r. Its learning rates cannot be
      compared with those of the other flavours.

    Attributes:
        lr: base learning rate.
        flavour: ``classic``, ``larc`` or ``larc_clip``.
        eta: the trust coefficient; solo-learn has 0.02.
        momentum: in [0, 1).
        weight_decay: L2 penalty.
        final_weight_decay: where the weight decay ends, along half a cosine; None: it is constant.
        exclude_norm_and_bias: neither weight decay nor trust ratio for parameters of fewer than two dimensions: biases, scales and shifts
            of normalisations; None: as published, False for ``larc`` and True for the others.
    """

    lr: float = 0.3
    flavour: Flavour = "classic"
    eta: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 1e-6

    def __post_init__(self) -> None:
        _Decaying.__post_init__(self)
        _check_momentum(self.momentum)
        if self.eta <= 0.0:
            raise OptionError("eta", "must be positive", found=self.eta, allowed="a number above 0")

    @override
    def build(self, groups: list[dict]) -> Optimizer:
        excluded = self.flavour != "larc" if self.exclude_norm_and_bias is None else self.exclude_norm_and_bias
        options = {"lr": self.lr, "momentum": self.momentum, "weight_decay": self.weight_decay, "eta": self.eta, "adapted": True}
        return TrustRatioSGD(self._groups(groups, excluded=excluded, adapted=False), self.flavour, options)


def _fused(groups: list[dict]) -> bool | None:
    """One kernel for all of a parameter's update, where torch is known to have it: 6 times as fast on a CPU. None: torch decides."""
    parameters = [_parameter(member) for group in groups for member in group["params"]]
    known = all(parameter.device.type in {"cpu", "cuda"} and parameter.is_floating_point() for parameter in parameters)
    return True if known else None


def _parameter(member: Any) -> Tensor:
    """Torch also accepts pairs of a name and a parameter."""
    return member[1] if isinstance(member, tuple) else member


def _start_momenta(optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
    """From zero, which is where momenta begin. torch's fused kernel cannot take parameters with a momentum together with some that
    have none yet: a head that was reset, or a layer that gets its first gradient late.
    """
    if len(optimizer.state) == sum(len(group["params"]) for group in optimizer.param_groups):
        return  # nearly always: all have one
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None and optimizer.state[parameter].get("momentum_buffer") is None:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def _check_momentum(momentum: float) -> None:
    if not 0.0 <= momentum < 1.0:
        raise OptionError("momentum", "is out of range", found=momentum, allowed="0 <= momentum < 1")
