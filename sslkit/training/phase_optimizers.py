"""The optimizers of a fit, one per phase: that they train what the objective says, all of it and once."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from inspect import Parameter, signature
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from sslkit.contract.class_address import provenance_of
from sslkit.contract.errors import PluginError, did_you_mean
from sslkit.contract.objective import Objective
from sslkit.training.handover import finite_number
from sslkit.training.options import TrainingOptions

BASE_RATE = "base_lr"
"""The key of a parameter group under which its rate stands that the schedule multiplies."""

_GROUP_KEYS = ("params", "lr_scale", "weight_decay")
_SHOWN = 5


def build_optimizers(objective: Objective, training: TrainingOptions) -> dict[str, Optimizer]:
    """One optimizer per phase; every parameter group knows its base rate.

    Raises:
        OptionError: optimizers are given by phase, and not for these phases.
        PluginError: the objective's groups are not what they should be, or the optimizer is not what its factory was asked for;
            parameters that are trained by no optimizer, or by several, are named.
    """
    training.check_phases(objective.phases)
    groups = _groups_of(objective)
    optimizers = {phase: _build(training, phase, groups[phase], objective) for phase in objective.phases}
    _check_coverage(objective, optimizers.values())
    return optimizers


def set_rates(optimizer: Optimizer, scale: float) -> None:
    """Multiply the base rate of every group."""
    for group in optimizer.param_groups:
        rate = group[BASE_RATE] * scale
        if isinstance(group["lr"], Tensor):  # which a captured or compiled step reads: the tensor must stay the same
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def rate_of(group: Mapping[str, Any], scale: float) -> float:
    """The rate of a group that :func:`set_rates` was called for; that of a tensor is not read, which would make a GPU wait."""
    return group[BASE_RATE] * scale if isinstance(group["lr"], Tensor) else float(group["lr"])


def parameters_of(optimizer: Optimizer) -> list[Tensor]:
    """All that it trains."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _groups_of(objective: Objective) -> dict[str, list[dict[str, Any]]]:
    """What ``parameter_groups`` returns, once it is what it should be; parameters in lists."""
    groups = objective.parameter_groups()
    if not isinstance(groups, Mapping) or set(groups) != set(objective.phases):
        found = list(groups) if isinstance(groups, Mapping) else type(groups).__name__
        raise _wrong_groups(objective, "must have one entry for each phase", found=found, allowed=objective.phases)
    for group in (group for parts in groups.values() for group in (parts if isinstance(parts, list) else [parts])):
        if not isinstance(group, dict) or "params" not in group:
            raise _wrong_groups(objective, "must give each phase a list of dicts with the key 'params'", found=group)
        scale = finite_number(group.get("lr_scale", 1.0))
        if scale is None or scale < 0:
            raise _wrong_groups(objective, "has an lr_scale that is no rate", found=group["lr_scale"], allowed="0 or more")
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


def _build(training: TrainingOptions, phase: str, groups: list[dict[str, Any]], objective: Objective) -> Optimizer:
    factory = training.optimizer_of(phase)
    optimizer = factory.build([{key: value for key, value in group.items() if key != "lr_scale"} for group in groups])
    if not isinstance(optimizer, Optimizer):
        raise PluginError(f"{provenance_of(type(factory))}: build must return a torch.optim.Optimizer", found=optimizer)
    if (closure := signature(optimizer.step).parameters.get("closure")) and closure.default is Parameter.empty:
        what = (
            f"{provenance_of(type(factory))}: {type(optimizer).__name__} computes the loss again within a step, which the loop does not do"
        )
        raise PluginError(what, fix="build an optimizer whose step() needs no closure")
    _check_keys(groups, optimizer, objective)
    scales = {id(parameter): float(group.get("lr_scale", 1.0)) for group in groups for parameter in map(_bare, group["params"])}
    _check_complete(scales, optimizer, phase, objective)
    for group in optimizer.param_groups:  # an optimizer may divide groups further
        base, found = finite_number(group.get("lr")), {scales[id(parameter)] for parameter in group["params"]}
        if base is None or len(found) > 1:
            problem = "puts parameters of different lr_scale into one group" if len(found) > 1 else "has a group without a number 'lr'"
            raise PluginError(f"{provenance_of(type(optimizer))}: {problem}", fix="the loop sets the rate of every group before each step")
        group[BASE_RATE] = base * next(iter(found), 1.0)
        if isinstance(group["lr"], Tensor):  # by default one for all groups, whose rates differ
            group["lr"] = group["lr"].clone()
    return optimizer


def _bare(parameter: Any) -> Any:
    """Torch takes names and parameters in pairs, too."""
    return parameter[1] if isinstance(parameter, tuple) and len(parameter) == 2 else parameter


def _check_keys(groups: list[dict[str, Any]], optimizer: Optimizer, objective: Objective) -> None:
    known = dict.fromkeys([*_GROUP_KEYS, *optimizer.defaults])
    for key in (key for group in groups for key in group):
        if key not in known:
            raise _wrong_groups(objective, "has an unknown key", found=key, allowed=known, fix=did_you_mean(str(key), known))


def _check_complete(asked: Mapping[int, float], optimizer: Optimizer, phase: str, objective: Objective) -> None:
    """Every parameter that the factory was asked to train, and no other, once."""
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
    """Every parameter that can be trained is, by one optimizer, and no other."""
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
