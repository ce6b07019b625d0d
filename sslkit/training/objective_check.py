"""What can be said of an objective before it sees an image; on the meta device too."""

from collections.abc import Mapping
from typing import Any

from sslkit.contract.class_address import provenance_of
from sslkit.contract.errors import PluginError, did_you_mean
from sslkit.contract.misspelling import refuse_misspelt_attributes
from sslkit.contract.objective import Objective
from sslkit.storage.limits import finite_number
from sslkit.training.handover import check_exported


def check_objective(objective: Objective) -> None:
    """Refuse an objective whose phases, frozen parts or schedules are not what the contract says, or that exports no backbone; its parameter groups are looked at apart.

    Raises:
        PluginError: names the objective and what is wrong with it.
    """
    if not isinstance(objective, Objective):
        raise PluginError("build_objective must return an Objective", found=objective)
    refuse_misspelt_attributes(objective, Objective)
    phases = objective.phases
    if not isinstance(phases, tuple) or not phases or not all(isinstance(phase, str) for phase in phases) or len(set(phases)) < len(phases):
        raise _wrong(objective, "phases must be a tuple of distinct names", found=phases)
    if objective.heldout_phase not in (None, *phases):
        raise _wrong(objective, "heldout_phase must be one of its phases, or None", found=objective.heldout_phase, allowed=phases)
    modules = dict(objective.named_modules())
    for name in objective.frozen:
        if name not in modules or not name:
            fix = did_you_mean(str(name), modules)
            raise _wrong(objective, "frozen names what is no submodule of it", found=name, fix=fix or "register it as a submodule")
    check_exported(objective)
    schedules = objective.schedules()
    if not isinstance(schedules, Mapping):
        raise _wrong(objective, "schedules must return a mapping from names to functions of progress", found=schedules)
    for name, value in schedules.items():
        found = [value(progress) for progress in (0.0, 1.0)] if callable(value) else [value]
        if not callable(value) or any(finite_number(number) is None for number in found):
            raise _wrong(objective, f"schedules[{name!r}] must be a function of progress that returns finite numbers", found=found)


def _wrong(objective: Objective, problem: str, **facts: Any) -> PluginError:
    return PluginError(f"{provenance_of(type(objective))}: {problem}", **facts)
