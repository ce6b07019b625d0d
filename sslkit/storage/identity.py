"""How a piece of work is recognised: options as plain values, compared key by key."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import PurePath
from typing import Any

import torch
from torch import nn

from sslkit.contract.errors import PluginError, some

CODE = "code"
"""The key of an identity that holds hashes of source code, by name."""


def plain(value: Any) -> Any:
    """Options as JSON-able values: a dataclass becomes a table that names its class."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"class": f"{type(value).__module__}:{type(value).__qualname__}", **fields}
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, tuple | list):
        return [plain(entry) for entry in value]
    if isinstance(value, set | frozenset):
        return sorted(plain(entry) for entry in value)
    if isinstance(value, Enum):
        return plain(value.value)
    if value is not None and not isinstance(value, str | int | float | PurePath):
        what = f"{type(value).__qualname__} cannot be an option: what was computed with it would not be known again"
        raise PluginError(what, found=value, fix="make it a frozen dataclass of numbers, strings and the like")
    unknown_to_json = isinstance(value, PurePath) or (isinstance(value, float) and not math.isfinite(value))
    return str(value) if unknown_to_json else value


def fingerprint(identity: Mapping[str, Any]) -> str:
    """Sha256 of everything that decides an outcome."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def state_hash(module: nn.Module) -> str:
    """Sha256 of all parameters and buffers: equal exactly if every bit is."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def changed_keys(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """The dotted keys in which two identities differ, sorted."""
    old, new = _settings(before), _settings(after)
    return [key for key in sorted(old.keys() | new.keys()) if (key in old, old.get(key)) != (key in new, new.get(key))]


def differences(before: Mapping[str, Any], after: Mapping[str, Any], name: Callable[[str], str] = str) -> list[str]:
    """The dotted keys in which two identities differ, each with both values; of code its name alone. ``name`` says what a key is called."""
    old, new, keys = _settings(before), _settings(after), changed_keys(before, after)
    code = [key.removeprefix(f"{CODE}.") for key in keys if key.startswith(f"{CODE}.")]
    options = [f"{name(key)}: {old.get(key, 'not set')!r} -> {new.get(key, 'not set')!r}" for key in keys if not key.startswith(f"{CODE}.")]
    return [*([f"code of {some(code, 5)}"] if code else []), *options]


def _settings(identity: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in _flatten(identity).items() if (key, value) != (CODE, {})}


def _flatten(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) and value else {f"{prefix}{key}": value}
    return flat
