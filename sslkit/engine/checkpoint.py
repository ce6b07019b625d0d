"""One file a checkpoint: tensors in safetensors, the rest as JSON in its header. Written beside, flushed, renamed; never unpickled."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sslkit.errors import ArtifactError

_STATE = "sslkit"


def save_tensors(path: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any] | None = None) -> None:
    """Write a file that is either whole or not there.

    Args:
        path: where; replaced if it exists.
        tensors: any dtypes and layouts; stored contiguous on the CPU.
        state: JSON-able values that go along.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        # A copy each: safetensors refuses tensors that share memory, as tied weights do.
        owned = {name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
        save_file(owned, beside, metadata={_STATE: json.dumps(dict(state or {}))})
        replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what :func:`save_tensors` wrote.

    Returns:
        The tensors, on the CPU, and the JSON values.

    Raises:
        ArtifactError: the file is missing or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            state = {**json.loads((file.metadata() or {}).get(_STATE, "{}"))}  # a TypeError where it is no object
            return {name: file.get_tensor(name) for name in file.keys()}, state  # noqa: SIM118 - safe_open is no mapping
    except FileNotFoundError as error:
        raise ArtifactError(f"{path}: no such file") from error
    except RecursionError:
        raise ArtifactError(f"{path}: damaged (its state is nested too deeply)", fix="remove it to start the stage over") from None
    except (SafetensorError, OSError, ValueError, RuntimeError, TypeError) as error:  # the last two are torch's, of shapes it cannot hold
        raise ArtifactError(f"{path}: damaged ({error})", fix="remove it to start the stage over") from error


def replace(beside: Path, path: Path) -> None:
    """Move a finished file into place so that a crash leaves the old one or the new one, on disk."""
    with beside.open("rb") as file:
        os.fsync(file.fileno())
    beside.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
