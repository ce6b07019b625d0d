"""Evenly spread choices: a few out of many, from the first to the last, the same every time."""

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def spread(items: Sequence[T], num: int) -> list[T]:
    """At most ``num`` of the items, in order and as far apart as can be; all of them where there are no more."""
    if len(items) <= num:
        return list(items)
    if num <= 1:
        return list(items[:num])
    return [items[round(i * (len(items) - 1) / (num - 1))] for i in range(num)]
