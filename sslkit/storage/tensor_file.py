"""Tensors in one safetensors file, JSON values and a checksum in its header. Written whole or not at all, never unpickled."""

import hashlib
import json
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sslkit.contract.errors import ArtifactError
from sslkit.storage.atomic import written_whole

_ENTRY = "sslkit"
"""The one entry of the header's metadata: safetensors stores several in random order, and equal runs would leave other bytes."""


def save_tensors(path: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any] | None = None) -> None:
    """Write or replace a file whole, or leave it as it is; its folder must exist.

    Tensors may have any dtype and layout, and are stored contiguously; ``state`` holds JSON-able values that go along.
    """
    owned = _apart(tensors)
    values = dict(state or {})
    entry = json.dumps({"sha256": _checksum(owned, values), "state": values}, allow_nan=False)
    with written_whole(path) as file:
        mode = stat.S_IMODE(file.stat().st_mode)
        try:
            save_file(owned, file, metadata={_ENTRY: entry})  # puts a file of its own here, which nobody but its owner may read
        except SafetensorError as error:  # of an error of the system it says no more than the words
            number = re.search(r"(?:os error|code:) (\d+)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
        file.chmod(mode)


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, contiguous on the CPU. Copied where they are not, or where they share memory, as tied weights do: safetensors refuses
    to store those.
    """
    apart: dict[str, Tensor] = {}
    taken: set[int] = set()
    for name, tensor in tensors.items():
        owned = tensor.detach().cpu().contiguous()
        if owned.untyped_storage().data_ptr() in taken:
            owned = owned.clone()
        taken.add(owned.untyped_storage().data_ptr())
        apart[name] = owned
    return apart


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors, on the CPU, and the JSON values that :func:`save_tensors` wrote."""
    try:
        with safe_open(path, framework="pt") as file:
            entry = json.loads((file.metadata() or {}).get(_ENTRY, "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - safe_open is no mapping
    except FileNotFoundError as error:
        raise ArtifactError(f"{path}: no such file") from error
    except RecursionError:
        raise ArtifactError(f"{path}: damaged (its values are nested too deeply)", fix=_fix(path)) from None
    except (SafetensorError, OSError, ValueError, RuntimeError, TypeError) as error:  # the last two are torch's, of impossible shapes
        raise ArtifactError(f"{path}: damaged ({error})", fix=_fix(path)) from error
    return tensors, _checked_state(entry, tensors, path)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file, whoever wrote it, on the CPU; the checksum is compared where it has ours.

    Raises:
        ArtifactError: it is missing, damaged, or no safetensors file. Nothing else is read, as it would have to be unpickled.
    """
    if not path.is_file():  # a pipe would be waited for
        raise ArtifactError(f"{path}: {'is no file' if path.exists() else 'no such file'}", fix="name a safetensors file")
    try:
        with safe_open(path, framework="pt") as file:
            ours = _ENTRY in (file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - safe_open is no mapping
    except (SafetensorError, OSError, ValueError, RuntimeError, TypeError) as error:
        if _is_pickle(path):
            what = f"{path}: is a PyTorch pickle, no safetensors file; to read it may run any code in it, so it is not read"
            fix = (
                "if you trust it, convert it yourself: safetensors.torch.save_file(torch.load(path), new_path), of a dict of tensors alone"
            )
            raise ArtifactError(what, fix=fix) from error
        fix = "write it with safetensors.torch.save_file(state_dict, path)"
        raise ArtifactError(f"{path}: is no safetensors file, or damaged ({error})", fix=fix) from error
    return load_tensors(path)[0] if ours else tensors


def _is_pickle(path: Path) -> bool:
    """Whether a file that is no safetensors file looks like what ``torch.save`` writes: a ZIP archive with a pickle, or, until 1.6, a pickle."""
    try:
        with path.open("rb") as file:
            head = file.read(1024)
    except OSError:
        return False
    return (head.startswith(b"PK") and b"data.pkl" in head) or re.match(rb"\x80[\x02-\x05][^\0]", head) is not None


def _checked_state(entry: Any, tensors: Mapping[str, Tensor], path: Path) -> dict[str, Any]:
    """The JSON values, if the checksum fits them and the tensors."""
    try:
        state = {**entry["state"]}
        intact = entry["sha256"] == _checksum(tensors, state)
    except (KeyError, TypeError, RecursionError) as error:
        raise ArtifactError(f"{path}: not written by this version of sslkit", fix=_fix(path)) from error
    if not intact:
        raise ArtifactError(f"{path}: damaged (its checksum is wrong)", fix=_fix(path))
    return state


def _checksum(tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> str:
    """SHA-256 of everything that is stored: names, dtypes, shapes, bytes, and the JSON values."""
    digest = hashlib.sha256(json.dumps(state).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _fix(path: Path) -> str:
    return f"remove the folder {path.parent} to run that stage again"
