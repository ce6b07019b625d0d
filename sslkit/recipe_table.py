"""A recipe as it is written: the TOML file, overrides from the command line, and the simple values in it."""

import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sslkit.errors import RecipeError, did_you_mean

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def read_table(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        RecipeError: it is missing, unreadable or not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RecipeError(f"{path}: no such file", fix="`sslkit recipes` lists the bundled ones") from error
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read ({error.strerror or error})", fix="name a TOML file") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: is not UTF-8 text (byte {error.start})", fix="save it as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{path}: not valid TOML ({error})") from error


def apply_override(table: dict[str, Any], override: str) -> None:
    """Set one key in place.

    Args:
        table: the recipe.
        override: ``dotted.key=value``, the value as TOML; a bare word is a string.

    Raises:
        RecipeError: it has no such form, or goes through a key that is no table.
    """
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise RecipeError(f"override {override!r}: must be KEY=VALUE", allowed="for example stages.pretrain.epochs=1")
    set_key(table, key.strip(), _value(text.strip()), f"override {override!r}")


def set_key(table: dict[str, Any], key: str, value: Any, where: str) -> None:
    """Set one dotted key in place, and make the tables above it that are missing.

    Raises:
        RecipeError: it goes through a key that is no table; the message begins with ``where``.
    """
    *parents, last = key.split(".")
    for depth, parent in enumerate(parents):
        below = table.setdefault(parent, {})
        if not isinstance(below, dict):
            raise RecipeError(f"{where}: {'.'.join(parents[: depth + 1])} is not a table", found=below)
        table = below
    table[last] = value


def _value(text: str) -> Any:
    """A TOML value; a bare word is a string, as the shell has eaten its quotes."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def check_keys(table: Mapping[str, Any], allowed: Iterable[str], path: str, *, elsewhere: Mapping[str, str] | None = None) -> None:
    """Refuse a key that does not exist.

    Args:
        table: what is written.
        allowed: the keys that exist.
        path: of the table, dotted.
        elsewhere: keys that belong into another table, and its path.
    """
    for key in table:
        if key not in allowed:
            there = (elsewhere or {}).get(key)
            fix = f"write {there}.{key}" if there else did_you_mean(key, allowed)
            raise RecipeError(f"{path}.{key}: unknown key" if path else f"{key}: unknown key", allowed=allowed, fix=fix)


def required(table: Mapping[str, Any], key: str, path: str, fix: str = "") -> Any:
    """The value of a key that must be there."""
    if key not in table:
        raise RecipeError(f"{path}.{key}: missing; required" if path else f"{key}: missing; required", fix=fix)
    return table[key]


def as_table(value: Any, path: str) -> Mapping[str, Any]:
    """A table, or an error."""
    if not isinstance(value, Mapping):
        raise RecipeError(f"{path}: must be a table", found=value)
    return value


def as_name(value: Any, path: str) -> str:
    """A name that is also a folder's, on every system."""
    if not isinstance(value, str) or not _NAME.fullmatch(value) or value == "random" or len(value) > 100:
        raise RecipeError(f"{path}: not a name", found=value, allowed="letters, digits, _ and -, but not 'random'")
    return value


def as_count(value: Any, path: str) -> int:
    """An integer, 0 or more."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise RecipeError(f"{path}: must be an integer, 0 or more", found=value)
    return value


def as_positive(value: Any, path: str) -> int | None:
    """An integer, 1 or more, or None."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise RecipeError(f"{path}: must be an integer, 1 or more", found=value)
    return value
