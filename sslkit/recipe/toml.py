"""A recipe as it is written: the TOML file, overrides from the command line, and the simple values in it."""

import codecs
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sslkit.contract.errors import RecipeError, did_you_mean
from sslkit.storage.json_files import MAX_DEPTH, dotted, find_unfit

MAX_BYTES = 2**20
"""Of a recipe. The longest that ships has 4,000; more would only keep the parser busy."""

_MAX_DOTS = 1000
"""In one line: for a key of so many tables tomllib takes a time that grows with the square of their number."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def read_table(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        RecipeError: it is missing, unreadable, too large or not TOML, or it holds a value that nobody means.
    """
    return parse_table(read_text(path), str(path))


def parse_table(text: str, where: str) -> dict[str, Any]:
    """Read TOML.

    Args:
        text: it.
        where: it stands; a message about its syntax begins with that, one about a value with the value's dotted path.

    Raises:
        RecipeError: it is not TOML, or it holds a value that nobody means.
    """
    try:
        table = _loads(text, where)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{where}: not valid TOML ({error})", fix=_cause(text, str(error))) from error
    _check_fit(table, "")
    return table


def _loads(text: str, where: str) -> dict[str, Any]:
    """TOML without what only a machine would write; syntax is left to the caller."""
    if max((line.count(".") for line in text.splitlines()), default=0) > _MAX_DOTS:
        raise _too_deep(where)
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise _too_deep(where) from None
    except tomllib.TOMLDecodeError:
        raise
    except ValueError as error:  # of Python's own: an integer of more than 4,300 digits, a day that no month has
        raise RecipeError(f"{where}: holds a value that cannot be read ({error})") from error


def _cause(text: str, error: str) -> str:
    """What people who write TOML as they know other files mostly mean, by the line at which the parser gave up; empty where nobody knows."""
    found = re.search(r"at line (\d+)", error)
    lines = text.splitlines()
    line = lines[min(int(found[1]), len(lines)) - 1] if found and lines else ""
    value = line.partition("=")[2].strip()
    if "\\" in line and '"' in line:
        return "in double quotes a backslash begins an escape: write a path in single quotes, 'C:\\Users'"
    if re.match(r"(True|False|None)\b", value):
        return "write true or false in lower case" if value[0] != "N" else "leave out what has no value"
    if re.match(r"[+-]?\.\d", value):
        return "a number begins with a digit: 0.5"
    if re.match(r"[A-Za-z_~./]|\d[\d.-]*[A-Za-z_/-]", value):
        return "write strings in quotes"
    return ""


def _check_fit(value: Any, path: str) -> None:
    if unfit := find_unfit(value, path):
        raise RecipeError(f"{unfit.path}: {unfit.problem}", allowed=unfit.allowed)


def read_text(path: Path) -> str:
    """A recipe's text.

    Raises:
        RecipeError: it is missing, unreadable, too large or not UTF-8.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise RecipeError(f"{path}: no such file", fix="`sslkit recipes` lists the bundled ones") from error
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read ({error.strerror or error})", fix="name a TOML file") from error
    if len(content) > MAX_BYTES:
        raise RecipeError(f"{path}: is too large for a recipe", allowed=f"{MAX_BYTES:,} bytes")
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n")  # some editors begin a file with a byte order mark
    except UnicodeDecodeError as error:
        if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise RecipeError(f"{path}: is UTF-16 text", fix="save it as UTF-8") from error
        raise RecipeError(f"{path}: is not UTF-8 text (byte {error.start})", fix="save it as UTF-8") from error


def _too_deep(where: str) -> RecipeError:
    return RecipeError(f"{where}: is nested too deeply", allowed=f"{MAX_DEPTH} levels of tables and arrays")


def apply_override(table: dict[str, Any], override: str) -> None:
    """Set one key in place.

    Args:
        table: the recipe.
        override: ``dotted.key=value``, the value as TOML; a bare word is a string.

    Raises:
        RecipeError: it has no such form, or goes through a key that is no table.
    """
    key, equals, text = override.partition("=")
    where = f"override {_short(override)}"
    if not equals or not key.strip():
        raise RecipeError(f"{where}: must be KEY=VALUE", allowed="for example stages.pretrain.epochs=1")
    value = _value(text.strip(), where)
    _check_fit(value, key.strip())
    set_key(table, key.strip(), value, where)


def set_key(table: dict[str, Any], key: str, value: Any, where: str) -> None:
    """Set one dotted key in place, and make the tables above it that are missing.

    Raises:
        RecipeError: it goes through a key that is no table, or through too many; the message begins with ``where``.
    """
    *parents, last = key.split(".")
    if len(parents) >= MAX_DEPTH:
        raise _too_deep(where)
    for depth, parent in enumerate(parents):
        below = table.setdefault(parent, {})
        if not isinstance(below, dict):
            raise RecipeError(f"{where}: {'.'.join(parents[: depth + 1])} is not a table", found=below)
        table = below
    table[last] = value


def _value(text: str, where: str) -> Any:
    """A TOML value; a bare word is a string, as the shell has eaten its quotes."""
    try:
        table = _loads(f"value = {text}", where)
    except tomllib.TOMLDecodeError as error:
        if text[:1] in ('"', "'", "[", "{"):  # no bare word, but TOML that was meant otherwise, or whose quotes the shell has eaten
            fix = _cause(f"value = {text}", str(error)) or "put the whole override in single quotes, and strings in it in double quotes"
            raise RecipeError(f"{where}: not valid TOML ({error})", fix=fix) from error
        return text
    if len(table) > 1:
        raise RecipeError(f"{where}: must be one value", fix="give each key an argument of its own")
    return table["value"]


def _short(text: str, limit: int = 100) -> str:
    return repr(text if len(text) <= limit else f"{text[:limit]}...")


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
            raise RecipeError(f"{dotted(path, key)}: unknown key", allowed=allowed, fix=fix)


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


def as_integer(value: Any, path: str, minimum: int) -> int:
    """An integer that is not below a minimum, or an error."""
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise RecipeError(f"{path}: must be an integer, {minimum} or more", found=value)
    return value
