"""The optimizers of a fit, one per phase: each trained parameter belongs to exactly one of them. Their rates, gradients and weights."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from inspect import Parameter, signature
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer

from sslkit.contract.class_address import provenance_of
from sslkit.contract.errors import PluginError, did_you_mean
from sslkit.contract.objective import Objective
from sslkit.contract.training import OptimizerFactory
from sslkit.training.handover import finite_number

BASE_RATE, BASE_DECAY, FINAL_DECAY = "base_lr", "base_weight_decay", "final_weight_decay"
"""Keys of a parameter group: the learning rate that the schedule multiplies, and the ends of the weight decay where that moves."""

_SHOWN = 5


def build_optimizers(objective: Objective, factories: Mapping[str, OptimizerFactory], *, lr_factor: float = 1.0) -> dict[str, Optimizer]:
    """One optimizer per phase, its base rate, multiplied by ``lr_factor``, in every parameter group.

    A ``PluginError`` where the objective's groups or an optimizer break the contract; it names parameters that none or several train.
    """
    groups = _groups_of(objective)
    optimizers = {phase: _build(factories[phase], phase, groups[phase], objective, lr_factor) for phase in objective.phases}
    _check_coverage(objective, optimizers.values())
    return optimizers


def set_rates(optimizer: Optimizer, scale: float) -> None:
    """Multiply the base rate of every group."""
    for group in optimizer.param_groups:
        rate = group[BASE_RATE] * scale
        if isinstance(group["lr"], Tensor):  # read by a captured or compiled step: it must stay the same tensor
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def set_decays(optimizer: Optimizer, progress: float) -> None:
    """Move the weight decay of each group that has a final one along half a cosine (arXiv:2104.14294, sec. 3.2)."""
    for group in optimizer.param_groups:
        if (final := group.get(FINAL_DECAY)) is not None:
            group["weight_decay"] = final + (group[BASE_DECAY] - final) * 0.5 * (1.0 + math.cos(math.pi * progress))


def rate_of(group: Mapping[str, Any], scale: float) -> float:
    """The rate that :func:`set_rates` gave a group; a tensor is not read because this would make a GPU wait."""
    return group[BASE_RATE] * scale if isinstance(group["lr"], Tensor) else float(group["lr"])


def parameters_of(optimizer: Optimizer) -> list[Tensor]:
    """All parameters that it trains."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def gradient_norm(optimizer: Optimizer, device: torch.device) -> Tensor:
    """2-norm of all gradients together, on the device; zero where there is none."""
    gradients = [parameter.grad for parameter in parameters_of(optimizer) if parameter.grad is not None]
    return get_total_norm(gradients) if gradients else torch.zeros((), device=device)


def clip_gradients(optimizer: Optimizer, max_norm: float, norm: Tensor) -> None:
    """Scale all gradients together so that their norm, which is ``norm``, is at most ``max_norm`` (Pascanu et al. 2013, arXiv:1211.5063)."""
    clip_grads_with_norm_(parameters_of(optimizer), max_norm, norm)


def weight_norm(optimizers: Iterable[Optimizer]) -> Tensor:
    """2-norm of all trained parameters together."""
    return get_total_norm([parameter for optimizer in optimizers for parameter in parameters_of(optimizer)])


def _groups_of(objective: Objective) -> dict[str, list[dict[str, Any]]]:
    """What ``parameter_groups`` returns, checked, with the parameters in lists."""
    groups = objective.parameter_groups()
    if not isinstance(groups, Mapping) or set(groups) != set(objective.phases):
        found = list(groups) if isinstance(groups, Mapping) else type(groups).__name__
        raise _wrong_groups(objective, "must have one entry for each phase", found=found, allowed=objective.phases)
    for group in (group for parts in groups.values() for group in (parts if isinstance(parts, list) else [parts])):
        if not isinstance(group, dict) or "params" not in group:
            raise _wrong_groups(objective, "must give each phase a list of dicts with the key 'params'", found=group)
        for key in ("lr_scale", "weight_decay", FINAL_DECAY):
            value = finite_number(group.get(key, 1.0))
            if value is None or value < 0:
                raise _wrong_groups(
                    objective, f"has {'an' if key == 'lr_scale' else 'a'} {key} that is no rate", found=group[key], allowed="0 or more"
                )
    return {phase: [{**group, "params": _in_a_list(group["params"], objective)} for group in parts] for phase, parts in groups.items()}


def _wrong_groups(objective: Objective, problem: str, **facts: Any) -> PluginError:
    return PluginError(f"{provenance_of(type(objective))}: parameter_groups {problem}", **facts)


def _in_a_list(parameters: Any, objective: Objective) -> list[Any]:
    if isinstance(parameters, Tensor):
        return [parameters]
    try:
        members = iter(parameters)
    except TypeError:
        members = iter([parameters])
    found = list(members)
    if not all(isinstance(_bare(parameter), Tensor) for parameter in found):
        raise _wrong_groups(objective, "must give parameters under 'params'", found=parameters, allowed="a tensor, or several")
    return found


def _build(factory: OptimizerFactory, phase: str, groups: list[dict[str, Any]], objective: Objective, lr_factor: float) -> Optimizer:
    optimizer = factory.build([{key: value for key, value in group.items() if key != "lr_scale"} for group in groups])
    if not isinstance(optimizer, Optimizer):
        raise PluginError(f"{provenance_of(type(factory))}: build must return a torch.optim.Optimizer", found=optimizer)
    if (closure := signature(optimizer.step).parameters.get("closure")) and closure.default is Parameter.empty:
        raise PluginError(
            f"{provenance_of(type(factory))}: {type(optimizer).__name__} computes the loss again within a step, which the loop does not do",
            fix="build an optimizer whose step() needs no closure",
        )
    known = dict.fromkeys(["params", "lr_scale", "weight_decay", FINAL_DECAY, *optimizer.defaults])
    for key in (key for group in groups for key in group):
        if key not in known:
            raise _wrong_groups(objective, "has an unknown key", found=key, allowed=known, fix=did_you_mean(str(key), known))
    scales = {id(parameter): float(group.get("lr_scale", 1.0)) for group in groups for parameter in map(_bare, group["params"])}
    _check_complete(scales, optimizer, phase, objective)
    for group in optimizer.param_groups:  # an optimizer may divide groups further
        base, found = finite_number(group.get("lr")), {scales[id(parameter)] for parameter in group["params"]}
        if base is None or len(found) > 1:
            problem = "puts parameters of different lr_scale into one group" if len(found) > 1 else "has a group without a number 'lr'"
            raise PluginError(f"{provenance_of(type(optimizer))}: {problem}", fix="the loop sets the rate of every group before each step")
        group[BASE_RATE] = base * next(iter(found), 1.0) * lr_factor
        if group.get(FINAL_DECAY) is not None:
            group[BASE_DECAY] = group.get("weight_decay", 0.0)
        if isinstance(group["lr"], Tensor):  # by default one for all groups, whose rates differ
            group["lr"] = group["lr"].clone()
    return optimizer


def _bare(parameter: Any) -> Any:
    """Torch also accepts pairs of a name and a parameter."""
    return parameter[1] if isinstance(parameter, tuple) and len(parameter) == 2 else parameter


def _check_complete(asked: Mapping[int, float], optimizer: Optimizer, phase: str, objective: Objective) -> None:
    """The optimizer trains exactly the parameters that its factory was given, each once."""
    found = Counter(map(id, parameters_of(optimizer)))
    problems = [
        ("leaves out", [key for key in asked if key not in found]),
        ("was not asked for", [key for key in found if key not in asked]),
        ("has more than once", [key for key, count in found.items() if count > 1]),
    ]
    for problem, keys in problems:
        if keys:
            raise PluginError(f"{provenance_of(type(optimizer))}: of phase {phase!r} it {problem} {_listed(keys, objective)}")


def _check_coverage(objective: Objective, optimizers: Iterable[Optimizer]) -> None:
    """Every trainable parameter is trained by exactly one optimizer, and nothing else is."""
    trained = Counter(id(parameter) for optimizer in optimizers for parameter in parameters_of(optimizer))
    own = {id(parameter): parameter for parameter in objective.parameters()}
    frozen = {id(parameter) for name in objective.frozen for parameter in objective.get_submodule(name).parameters()}
    missing = [key for key, parameter in own.items() if parameter.requires_grad and key not in trained and key not in frozen]
    problems = [
        ("no phase trains", missing, "add it to parameter_groups, or set requires_grad_(False)"),
        ("several phases train", [key for key, count in trained.items() if count > 1], "leave it to one phase of parameter_groups"),
        ("a phase trains, and frozen names,", [key for key in trained if key in frozen], "take it out of one of the two"),
        ("a phase trains", [key for key in trained if key not in own], "register it as a parameter: a checkpoint would lack it"),
    ]
    for problem, keys, fix in problems:
        if keys:
            raise PluginError(f"{provenance_of(type(objective))}: {problem} {_listed(keys, objective)}", fix=fix)


def _listed(keys: Sequence[int], objective: Objective) -> str:
    """The names of parameters, the first few."""
    names = {id(parameter): name for name, parameter in objective.named_parameters()}
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return f"{', '.join(names.get(key, 'a tensor that is no parameter of the objective') for key in keys[:_SHOWN])}{more}"
