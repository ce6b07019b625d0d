"""All that an optimiser's ``state_dict`` holds, for a checkpoint: state, parameter groups, and whatever a subclass adds."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sslkit.contract.class_address import provenance_of
from sslkit.contract.errors import PluginError, RunFailedError
from sslkit.training.nested import UnsavableError, put_together, same, take_apart


def capture_optimizer(optimizer: torch.optim.Optimizer, name: str) -> tuple[Any, dict[str, Tensor]]:
    """Its state dict as JSON values, and the tensors that they name.

    Raises:
        PluginError: it keeps something that neither JSON nor safetensors can hold.
    """
    try:
        return take_apart(optimizer.state_dict(), name)
    except UnsavableError as error:
        raise PluginError(f"{provenance_of(type(optimizer))}: its state cannot be saved: {error}") from error


def restore_optimizer(optimizer: torch.optim.Optimizer, plain: Any, tensors: Mapping[str, Tensor], device: torch.device) -> None:
    """Give a new optimiser the state of one that was captured, to the bit.

    Args:
        optimizer: built as that one was.
        plain: its JSON values.
        tensors: by name.
        device: of the parameters.

    Raises:
        RunFailedError: its ``load_state_dict`` does not take what its ``state_dict`` gave.
    """
    saved = put_together(plain, tensors, device)
    optimizer.load_state_dict(saved)
    _undo_casts(optimizer, saved["state"])
    if not same(optimizer.state_dict(), saved):
        raise RunFailedError(
            f"{provenance_of(type(optimizer))}: load_state_dict does not restore what state_dict gave, so a run with it cannot go on"
        )


def _undo_casts(optimizer: torch.optim.Optimizer, saved: Mapping[Any, Any]) -> None:
    """Torch loads every tensor of a parameter's state in the parameter's own dtype: of float64 sums, and of integers, that keeps little."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for key, entries in saved.items():
        owner: Any = parameters[key] if type(key) is int and key < len(parameters) else key
        if owner in optimizer.state:
            optimizer.state[owner] = _as_saved(optimizer.state[owner], entries)


def _as_saved(loaded: Any, saved: Any) -> Any:
    """What was loaded, with the dtypes that were saved."""
    if isinstance(loaded, Tensor) and isinstance(saved, Tensor):
        return loaded if loaded.dtype == saved.dtype else saved.to(loaded.device)
    if isinstance(loaded, dict) and isinstance(saved, dict):
        return {key: _as_saved(value, saved[key]) if key in saved else value for key, value in loaded.items()}
    if isinstance(loaded, list | tuple) and isinstance(saved, list | tuple) and len(loaded) == len(saved):
        return type(loaded)(map(_as_saved, loaded, saved))
    return loaded
