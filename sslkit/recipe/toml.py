"""A recipe as it is written: the TOML file, what it extends, and overrides from the command line."""

import codecs
import copy
import functools
import itertools
import operator
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w

from sslkit.contract.errors import RecipeError, did_you_mean
from sslkit.recipe.bundled import find_bundled, find_recipe
from sslkit.recipe.weights import anchored
from sslkit.storage.json_files import MAX_DEPTH, find_unfit

EXTENDS = ("extends", "without")
"""The keys that only a file has: a recipe is what is left when they have been followed."""

MAX_BYTES = 2**20
"""Of a recipe. The longest that ships has 4,000; more would only keep the parser busy."""

CLASS_KEYS = r"data|backbone|stages\.[^.]+\.(.+\.)?(task|evaluator|backbone|data|optimizer|schedule)"
"""The keys at which a string is the name of a class, with default options."""

_MAX_DOTS = 1000
"""In one line: for a key of so many tables tomllib takes a time that grows with the square of their number."""

Files = dict[Path, dict[str, Any]]
"""What a recipe and each that it extends say themselves, the recipe's own first."""


def read_table(path: Path) -> dict[str, Any]:
    """Read a TOML file."""
    return parse_table(read_text(path), str(path))


def parse_table(text: str, where: str) -> dict[str, Any]:
    """Read TOML. An error in its syntax begins with ``where``, one in a value with the value's dotted path."""
    try:
        table = _loads(text, where)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{where}: not valid TOML ({error})", fix=_cause(text, str(error))) from error
    _check_fit(table, "")
    return table


def _loads(text: str, where: str) -> dict[str, Any]:
    """TOML without what only a machine would write; errors of syntax are left to the caller."""
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
    """What people probably meant who write TOML like other formats, by the line where the parser gave up; empty where nobody knows."""
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
    """A recipe's text, refused where it is too large or not UTF-8."""
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
    """Set one key of a recipe in place: ``dotted.key=value``, the value as TOML; a bare word is a string."""
    key, equals, text = override.partition("=")
    shown = override if len(override) <= 100 else f"{override[:100]}..."
    where = f"override {shown!r}"
    if not equals or not key.strip():
        raise RecipeError(f"{where}: must be KEY=VALUE", allowed="for example stages.pretrain.epochs=1")
    value = _value(text.strip(), where)
    _check_fit(value, key.strip())
    set_key(table, key.strip(), value, where)


def set_key(table: dict[str, Any], key: str, value: Any, where: str) -> None:
    """Set one dotted key in place, and make the tables above it that are missing. Errors begin with ``where``."""
    *parents, last = key.split(".")
    if len(parents) >= MAX_DEPTH:
        raise _too_deep(where)
    for depth, parent in enumerate(parents):
        path = ".".join(parents[: depth + 1])
        below = table[parent] = _as_table(table.get(parent, {}), path)
        if not isinstance(below, dict):
            raise RecipeError(f"{where}: {path} is not a table", found=below)
        table = below
    table[last] = value


def _as_table(value: Any, path: str) -> Any:
    """The table for the options of a class that is given by its name alone; any other value unchanged."""
    return {"name": value} if isinstance(value, str) and re.fullmatch(CLASS_KEYS, path) else value


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


def origin(table: Mapping[str, Any], files: Files, message: str) -> str:
    """The file that holds the value whose key a message begins with, if the recipe extends that file; else nothing."""
    keys = re.sub(r"\[\d+\]", "", message.partition(": ")[0]).split(".")
    value = _at(table, keys)
    holding = [path for path, own in files.items() if value is not None and _at(own, keys) == value]
    return f" (in {holding[0]})" if holding and holding[0] != next(iter(files)) else ""


def read_recipe(path: Path) -> tuple[dict[str, Any], Files]:
    """Read a recipe, and what it extends: tables are merged key by key; a table that names another class, and any other value, replaces.

    The recipe's name is its own; what ``without`` lists of the other recipe is left out. Also returns the files that it is made of.
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
    for file, own in reversed(files.items()):
        _anchor(own, file.parent)
        merged.pop("name", None)
        for key in _without(own, merged):
            *parents, last = key.split(".")
            del functools.reduce(operator.getitem, parents, merged)[last]
        merged |= {key: _merged(merged.get(key), value, key) for key, value in own.items() if key not in EXTENDS}
    return merged, files


def _anchor(table: Mapping[str, Any], folder: Path) -> None:
    """Make the paths of weights in a file's table relative to its folder, in place."""
    sweep = table.get("sweep")
    tables = [table, *(sweep.values() if isinstance(sweep, Mapping) else ())]
    stages = table.get("stages")
    tables += stages.values() if isinstance(stages, Mapping) else ()
    for each in tables:
        for key in each if isinstance(each, dict) else ():
            if key == "weights" or re.fullmatch(r"stages\.[^.]+\.weights", key):
                each[key] = anchored(each[key], folder)


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


def _merged(base: Any, value: Any, path: str) -> Any:
    base = _as_table(base, path)
    if not isinstance(value, Mapping) or not isinstance(base, Mapping) or value.get("name", base.get("name")) != base.get("name"):
        return copy.deepcopy(value)
    return {**base, **{key: _merged(base.get(key), entry, f"{path}.{key}") for key, entry in value.items()}}


def copy_recipe(name: str, target: Path) -> Path:
    """Copy a bundled recipe, or a file, into a folder, or to a new file, which is returned: ``mine.toml`` holds a recipe of the name
    ``mine``. What it extends is written into it, and weights at a path relative to the old file are still found. An existing file is refused.
    """
    source = Path(name) if os.path.isfile(name) else find_bundled(name).path  # noqa: PTH113 - as in find_recipe
    path = target / source.name if target.is_dir() else target
    text, (table, files) = read_text(source), read_recipe(source)
    moved = path.parent.resolve() != source.parent.resolve()
    if len(files) > 1 or (moved and parse_table(text, str(source)) != table):  # as it is written it would not mean the same there
        head = "".join(itertools.takewhile(lambda line: line.startswith("#"), text.splitlines(keepends=True)))
        text = f"{head}\n{tomli_w.dumps(table)}".lstrip("\n")
    text = text.replace(f"sslkit run recipes/{source.name}", f"sslkit run {path.name}")
    if path.stem != source.stem and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", path.stem):
        top, tables, rest = text.partition("\n[")
        text = re.sub(r"""(?m)^name *= *("[^"\n]*"|'[^'\n]*')""", f'name = "{path.stem}"', top, count=1) + tables + rest
    if path.exists():
        raise RecipeError(f"{path}: exists already", fix="name another file, or remove it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise RecipeError(f"{path}: cannot be written ({error.strerror or error})", fix="name another file") from error
    return path
