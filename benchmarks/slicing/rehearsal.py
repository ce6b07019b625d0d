"""A recipe at the paper's size, made small enough to rehearse: a tenth of the width, an epoch of a handful of steps."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w

from sslkit.recipe.toml import read_table

_SMALL: Mapping[str, Any] = {
    "epochs": 1,
    "snapshot_epochs": [0, 1],
    "labels_per_class": [1, 10],
    "num_subsets": [2, 1],
}
"""By the last part of a key, wherever it stands: in a stage, an evaluator or a sweep."""


def write_small(source: Path, target: Path) -> Path:
    """Write a copy of a recipe that keeps its stages, its sweep and all its options but those that make it large.

    Args:
        source: a recipe's file.
        target: the folder for the copy.

    Returns:
        The copy.
    """
    table = _shrunk(read_table(source))
    table["backbone"]["width"] = 0.1
    target.mkdir(parents=True, exist_ok=True)
    path = target / source.name
    path.write_text(tomli_w.dumps(table), encoding="utf-8")
    return path


def _shrunk(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    return {key: _SMALL.get(key.rpartition(".")[2], _shrunk(entry)) for key, entry in value.items()}
