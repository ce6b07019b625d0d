"""Results of a slice: each is on disk as soon as it exists, whole."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slicing.errors import SliceError


def write_result(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object, whole or not at all. Needs nothing but Python, as the other machine has at first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(".partial")  # one name for all: what a kill leaves is replaced by the next result
    partial.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, path)  # noqa: PTH105 - as atomic as it gets


def read_result(path: Path) -> dict[str, Any]:
    """Read one back.

    Raises:
        SliceError: it is missing or damaged.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SliceError(f"{path}: no such file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise SliceError(f"{path}: damaged ({error}); copy the results again") from None
    if not isinstance(value, dict):
        raise SliceError(f"{path}: damaged (not an object); copy the results again")
    return value
