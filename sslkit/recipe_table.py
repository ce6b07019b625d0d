"""A recipe as it is written: the TOML file, and overrides from the command line."""

import tomllib
from pathlib import Path
from typing import Any

from sslkit.errors import RecipeError


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
    *parents, last = key.strip().split(".")
    for depth, parent in enumerate(parents):
        below = table.setdefault(parent, {})
        if not isinstance(below, dict):
            raise RecipeError(f"override {override!r}: {'.'.join(parents[: depth + 1])} is not a table", found=below)
        table = below
    table[last] = _value(text.strip())


def _value(text: str) -> Any:
    """A TOML value; a bare word is a string, as the shell has eaten its quotes."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
