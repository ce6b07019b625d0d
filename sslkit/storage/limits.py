"""Plain values out of a file that anybody may have written: what TOML and JSON allow, and nobody means."""

import json
import math
import re
from collections.abc import Iterator, Mapping
from numbers import Real
from typing import Any, NamedTuple

MAX_DEPTH = 32
"""Tables and arrays inside each other. Whoever walks the values may then do so by recursion."""

_EATEN = re.compile(r"[A-Za-z]:[\b\t\n\f\r\x1b]")
"""``C:\\new`` in double quotes is ``C:``, a new line and ``ew``."""

MIN_INTEGER, MAX_INTEGER = -(2**63), 2**63 - 1
"""What torch, C and TOML itself call an integer. Python can neither print a much longer one nor make a float of it."""


class Unfit(NamedTuple):
    """A value that no file may hold.

    Attributes:
        path: where it stands, dotted.
        problem: what is wrong with it.
        allowed: what would be right.
    """

    path: str
    problem: str
    allowed: str

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}; allowed: {self.allowed}"


def finite_number(value: object) -> float | None:
    """A finite number as a float, also one in a tensor or an array of one element; None for anything else, True and False included.

    To read a tensor of a GPU makes it wait.
    """
    item = getattr(value, "item", None)  # without importing torch or numpy
    if callable(item):
        try:
            value = item()
        except (RuntimeError, TypeError, ValueError):  # several elements, or none
            return None
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def find_unfit(value: Any, path: str = "") -> Unfit | None:
    """Look for a value that is nested too deeply, an integer of more than 64 bits, or a path of Windows that lost its backslashes.

    Args:
        value: tables, arrays and what is in them.
        path: where it stands.

    Returns:
        The first in the order of the file, or None.
    """
    waiting = [(path, value, 0)]
    while waiting:  # without recursion, which the values could exhaust
        path, value, depth = waiting.pop()
        if isinstance(value, str) and _EATEN.match(value):
            return Unfit(path, "has a backslash that was read as an escape", "a path in single quotes, 'C:\\Users'")
        if isinstance(value, int) and not MIN_INTEGER <= value <= MAX_INTEGER:
            return Unfit(path, "is too large an integer", "64 bits")
        if isinstance(value, Mapping | list):
            if depth == MAX_DEPTH:
                return Unfit(path, "is nested too deeply", f"{MAX_DEPTH} levels of tables and arrays")
            waiting.extend(reversed([(inner_path, inner, depth + 1) for inner_path, inner in _inside(value, path)]))
    return None


def dotted(path: str, key: object) -> str:
    """The path of a table's key; a key that is no plain word stands in quotes."""
    key = str(key)
    key = key if re.fullmatch(r"[A-Za-z0-9_.-]+", key) else json.dumps(key, ensure_ascii=False)
    return f"{path}.{key}" if path else key


def _inside(value: Mapping[str, Any] | list[Any], path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        return ((dotted(path, key), inner) for key, inner in value.items())
    return ((f"{path}[{index}]", inner) for index, inner in enumerate(value))
