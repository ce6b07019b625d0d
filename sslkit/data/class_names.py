"""Names of classes, as people write them."""

import unicodedata
from collections.abc import Iterable

from sslkit.contract.errors import DataError


def same_class(name: str) -> str:
    """What two names of one class have in common: upper and lower case, and the ways to write an accent in Unicode, do not matter."""
    return same_form(same_form(name).casefold())


def check_distinct(names: Iterable[str], where: str) -> None:
    """Refuse names that stand for one class: file systems and people take them for the same, labels would not.

    Raises:
        DataError: starts with ``where``, and names two of them.
    """
    seen: dict[str, str] = {}
    for name in names:
        key = same_class(name)
        if key not in seen:
            seen[key] = name
        elif seen[key] == name:
            raise DataError(f"{where} names a class twice: {name}")
        else:
            differ = "the form of Unicode" if same_form(name) == same_form(seen[key]) else "upper and lower case"
            raise DataError(
                f"{where} has two names for one class, which differ in {differ} alone: {seen[key]!a} and {name!a}",
                fix="merge the two, or rename one if they mean different things",
            )


def same_form(name: str) -> str:
    """A name in Unicode's composed form."""
    return unicodedata.normalize("NFC", name)
