"""``extends``: a recipe that takes another one and changes keys of it."""

import copy
import functools
import operator
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sslkit.contract.errors import RecipeError, did_you_mean
from sslkit.recipe.bundled import find_recipe
from sslkit.recipe.toml import read_table

EXTENDS = ("extends", "without")
"""The keys that only a file has: what is left when they are followed is a recipe."""


Files = dict[Path, dict[str, Any]]
"""What a recipe and each that it extends say themselves, the recipe's own first."""


def origin(table: Mapping[str, Any], files: Files, message: str) -> str:
    """Where the value stands whose key a message begins with, if that is in a file which the recipe extends; else nothing."""
    keys = re.sub(r"\[\d+\]", "", message.partition(": ")[0]).split(".")
    value = _at(table, keys)
    holding = [path for path, own in files.items() if value is not None and _at(own, keys) == value]
    return f" (in {holding[0]})" if holding and holding[0] != next(iter(files)) else ""


def read_recipe(path: Path) -> tuple[dict[str, Any], Files]:
    """Read a recipe, and what it extends: tables are merged key by key; a table that names another class, and any other value, replaces.

    The recipe's name is its own; of the other recipe, what ``without`` lists stays away.

    Returns:
        The whole recipe, and the files that it is made of.

    Raises:
        RecipeError: a file cannot be read, or extends itself.
    """
    files = {path: read_table(path)}
    while "extends" in files[path]:
        other, where = files[path]["extends"], "" if len(files) == 1 else f" (in {path})"
        if not isinstance(other, str) or not other:
            raise RecipeError(
                f"extends: must be a string{where}", found=other, allowed="the name of a bundled recipe, or the path of a file"
            )
        try:
            path = path.parent / other if Path(other).suffix else find_recipe(other)
            own = read_table(path)
        except (RecipeError, ValueError) as error:  # a null byte
            raise RecipeError(f"extends: {error}{where}") from error
        if any(path.resolve() == known.resolve() for known in files):
            raise RecipeError("extends: goes in a circle", found=" -> ".join(file.name for file in (*files, path)))
        files[path] = own
    merged: dict[str, Any] = {}
    for own in reversed(files.values()):
        merged.pop("name", None)
        for key in _without(own, merged):
            *parents, last = key.split(".")
            del functools.reduce(operator.getitem, parents, merged)[last]
        merged |= {key: _merged(merged.get(key), value) for key, value in own.items() if key not in EXTENDS}
    return merged, files


def _without(table: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    keys = table.get("without", [])
    if "without" in table and "extends" not in table:
        raise RecipeError("without: is for a recipe that extends another", found=keys, fix='add extends = "..."')
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise RecipeError("without: must be an array of keys", found=keys, allowed='["paper", "stages.probe"]')
    for key in keys:
        if _at(other, key.split(".")) is None:
            raise RecipeError("without: no such key in the recipe that is extended", found=key, fix=did_you_mean(key, other))
    return keys


def _at(table: Any, keys: list[str]) -> Any:
    """The value of a dotted key; None where there is none."""
    for key in keys:
        table = table.get(key) if isinstance(table, Mapping) else None
    return table


def _merged(base: Any, value: Any) -> Any:
    if not isinstance(value, Mapping) or not isinstance(base, Mapping) or value.get("name", base.get("name")) != base.get("name"):
        return copy.deepcopy(value)
    return {**base, **{key: _merged(base.get(key), entry) for key, entry in value.items()}}
