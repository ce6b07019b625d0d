"""An optimizer's ``state_dict`` for a checkpoint: taken apart into tensors and JSON values, and restored bit for bit. No pickle."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sslkit.contract.class_address import provenance_of
from sslkit.contract.errors import PluginError, RunFailedError, SslkitError


def capture_optimizer(optimizer: torch.optim.Optimizer, name: str) -> tuple[Any, dict[str, Tensor]]:
    """Its state dict as JSON values, and the tensors that they name; a ``PluginError`` where neither JSON nor safetensors can hold it."""
    try:
        return take_apart(optimizer.state_dict(), name)
    except UnsavableError as error:
        raise PluginError(f"{provenance_of(type(optimizer))}: its state cannot be saved: {error}") from error


def restore_optimizer(optimizer: torch.optim.Optimizer, plain: Any, tensors: Mapping[str, Tensor], device: torch.device) -> None:
    """Give an optimizer, built the same way, the state that was captured, bit for bit; a ``RunFailedError`` where its ``load_state_dict``
    does not accept what its ``state_dict`` returned. ``device`` is that of the parameters.
    """
    saved = put_together(plain, tensors, device)
    optimizer.load_state_dict(saved)
    _undo_casts(optimizer, saved["state"])
    if not same(optimizer.state_dict(), saved):
        raise RunFailedError(
            f"{provenance_of(type(optimizer))}: load_state_dict does not restore what state_dict gave, so a run with it cannot be resumed"
        )


def _undo_casts(optimizer: torch.optim.Optimizer, saved: Mapping[Any, Any]) -> None:
    """Torch loads every tensor of a parameter's state in the parameter's own dtype, which loses most of float64 sums and of integers."""
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


class UnsavableError(SslkitError):
    """A value that neither JSON nor safetensors can hold."""


def take_apart(value: Any, path: str) -> tuple[Any, dict[str, Tensor]]:
    """Separate nested values into JSON values without NaN, and the tensors that they name; the names begin with ``path``.

    An ``UnsavableError`` names a value that neither JSON nor safetensors can hold.
    """
    tensors: dict[str, Tensor] = {}
    return _take_apart(value, path, path, tensors), tensors


def _take_apart(value: Any, path: str, prefix: str, tensors: dict[str, Tensor]) -> Any:  # noqa: PLR0911 - one for each type
    if value is None or isinstance(value, bool | str) or type(value) is int:
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"float": str(float(value))}
    if isinstance(value, list):
        return [_take_apart(inner, f"{path}[{index}]", prefix, tensors) for index, inner in enumerate(value)]
    if isinstance(value, tuple):
        return {"tuple": _take_apart(list(value), path, prefix, tensors)}
    if isinstance(value, Mapping):  # in pairs, as JSON would make strings of keys that are numbers
        return {"dict": [[_take_apart(part, f"{path}.{key}", prefix, tensors) for part in (key, inner)] for key, inner in value.items()]}
    if type(value) is torch.dtype:
        return {"dtype": str(value).removeprefix("torch.")}
    if type(value) not in (Tensor, nn.Parameter) or value.layout is not torch.strided or value.is_quantized:
        allowed = "numbers, strings, None, plain tensors, and dicts, lists and tuples of them"
        raise UnsavableError(f"{path} is of the type {type(value).__module__}.{type(value).__qualname__}", allowed=allowed)
    name = f"{prefix}.{len(tensors)}"  # keys may hold any characters, and two paths could read the same
    tensors[name] = value.detach()
    return {"tensor": name, "device": value.device.type, "order": _memory_order(value)}


def put_together(plain: Any, tensors: Mapping[str, Tensor], device: torch.device) -> Any:  # noqa: PLR0911 - one for each type
    """What :func:`take_apart` was given, from its JSON values and its tensors, contiguous on the CPU; those that were on another device go
    to ``device``.
    """
    if isinstance(plain, list):
        return [put_together(inner, tensors, device) for inner in plain]
    if not isinstance(plain, dict):
        return plain
    if "float" in plain:
        return float(plain["float"])
    if "tuple" in plain:
        return tuple(put_together(plain["tuple"], tensors, device))
    if "dict" in plain:
        return {put_together(key, tensors, device): put_together(inner, tensors, device) for key, inner in plain["dict"]}
    if "dtype" in plain:
        return _DTYPES[plain["dtype"]]
    order = plain["order"]
    back = [order.index(dim) for dim in range(len(order))]
    ordered = tensors[plain["tensor"]].permute(order).contiguous().permute(back)
    return ordered if plain["device"] == "cpu" else ordered.to(device)


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal bit for bit, on whatever devices their tensors are."""
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        alike = isinstance(one, Tensor) and isinstance(other, Tensor) and one.dtype == other.dtype and one.shape == other.shape
        return alike and torch.equal(_bits(one), _bits(other))
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other or (one != one and other != other)  # noqa: PLR0124 - NaN


_DTYPES = {str(value).removeprefix("torch."): value for value in vars(torch).values() if type(value) is torch.dtype}


def _memory_order(tensor: Tensor) -> list[int]:
    """The dimensions from outermost to innermost in memory; in their usual order where that suffices, or where there is no such order."""
    numbered = list(range(tensor.ndim))
    order = sorted(numbered, key=lambda dim: (tensor.shape[dim] == 1, -tensor.stride(dim)))  # the stride of a single entry says nothing
    return order if not tensor.is_contiguous() and tensor.permute(order).is_contiguous() else numbered


def _bits(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
