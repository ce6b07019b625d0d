"""What annotations of options mean, and whether a value that was given in Python is what they say."""

import dataclasses
import math
import types
from collections.abc import Callable, Mapping, MutableMapping, MutableSequence, Sequence, Set
from enum import Enum
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal, NamedTuple, Self, Union, get_args, get_origin, get_type_hints
from weakref import WeakKeyDictionary

from sslkit.contract.errors import OptionError
from sslkit.contract.misspelling import Contract

ARRAYS: dict[Any, Callable[[list], Any]] = {
    tuple: tuple,
    Sequence: tuple,
    list: list,
    MutableSequence: list,
    set: set,
    frozenset: frozenset,
    Set: frozenset,
}
"""What an array of a recipe becomes, by annotation."""
TABLES = (dict, Mapping, MutableMapping)

WORDS: dict[Any, tuple[str, str]] = {
    int: ("an integer", "integers"),
    float: ("a number", "numbers"),
    bool: ("true or false", "true or false"),
    str: ("a string", "strings"),
    Path: ("a path in quotes", "paths in quotes"),
}


class Misfit(NamedTuple):
    """A value that is not what its annotation says.

    Attributes:
        path: of the option, with the place in it.
        words: what is allowed.
        found: the value.
        fix: what to do about it, where it is a common mistake.
    """

    path: str
    words: str
    found: object
    fix: str = ""


def unalias(annotation: Any) -> Any:
    """The type behind ``type Name = ...``."""
    while type(annotation).__name__ == "TypeAliasType":  # by name: typing has it from Python 3.12, typing_extensions before
        annotation = annotation.__value__
    return annotation


def bare(annotation: Any) -> Any:
    """The type alone, without aliases and without the constraints of ``Annotated``."""
    annotation = unalias(annotation)
    return bare(get_args(annotation)[0]) if get_origin(annotation) is Annotated else annotation


def members_of(annotation: Any) -> tuple[Any, ...]:
    """The members of a union; empty for anything else."""
    return get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else ()


def choices_of(annotation: Any) -> dict[Any, Any]:
    """What a ``Literal`` or an ``Enum`` allows: the value in a recipe -> the value in Python; empty for anything else."""
    if get_origin(annotation) is Literal:
        return {choice: choice for choice in get_args(annotation)}
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return {member.value: member for member in annotation}
    return {}


def find_misfit(annotation: Any, value: object, path: str) -> Misfit | None:
    """Look for what a recipe would refuse, in a value that was given in Python. Types that no recipe knows are left to whoever asks for them.

    Args:
        annotation: of the option.
        value: as it was given; arrays may be tuples or lists.
        path: the option's name.
    """
    annotation = bare(annotation)
    origin = get_origin(annotation) or annotation
    if members := members_of(annotation):
        return _union_misfit(members, value, path)
    if origin in ARRAYS:
        return _array_misfit(annotation, value, path)
    if origin in TABLES:
        return _table_misfit(annotation, value, path)
    words = _simple_words(annotation)
    if not words or _fits(annotation, value):
        return None
    finite = not isinstance(value, float) or math.isfinite(value)
    return Misfit(path, words if finite or annotation is not float else "finite", value, _remedy(annotation, value))


def check_arguments(function: Callable[..., Any], **given: object) -> None:
    """Refuse arguments of a function that their annotations do not allow.

    Raises:
        OptionError: names the argument.
    """
    _refuse_misfits(_hints(function), given)


class Checked:
    """Options that pass the same door in Python as in a recipe: what the annotation of an option does not allow is refused.

    Raises:
        OptionError: names the option.
    """

    def __new__(cls, *_args: Any, **options: Any) -> Self:
        """Look at the options before the constructor does, which would compare a string with a number, or keep it."""
        check_options(cls, options)
        return super().__new__(cls)


def check_options(cls: type, options: Mapping[str, object]) -> None:
    """Refuse options that their annotations do not allow.

    Raises:
        OptionError: names the option.
    """
    _refuse_misfits(_hints(cls), options)


def _refuse_misfits(hints: Mapping[str, Any], options: Mapping[str, object]) -> None:
    for name, value in options.items():
        if name in hints and (misfit := find_misfit(hints[name], value, name)):
            raise OptionError(misfit.path, f"must be {misfit.words}", found=misfit.found, fix=misfit.fix)


_HINTS: WeakKeyDictionary[Callable[..., Any], dict[str, Any]] = WeakKeyDictionary()


def _hints(source: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of a class's options, or of a function; none where they cannot be read, which a recipe would say."""
    if source not in _HINTS:
        plain = not isinstance(source, type) or dataclasses.is_dataclass(source)
        try:
            _HINTS[source] = get_type_hints(source if plain else source.__init__, include_extras=True)
        except Exception:
            _HINTS[source] = {}
    return _HINTS[source]


def _union_misfit(members: Sequence[Any], value: object, path: str) -> Misfit | None:
    misfits = [find_misfit(member, value, path) for member in members]
    if any(misfit is None for misfit in misfits):
        return None
    only = [misfit for member, misfit in zip(members, misfits, strict=True) if member is not types.NoneType and misfit]
    deeper = [misfit for misfit in only if misfit.path != path]  # right but for something inside
    if len(only) == 1 or deeper:
        return (deeper or only)[0]
    return Misfit(path, " or ".join(misfit.words for misfit in only), value, next((misfit.fix for misfit in only if misfit.fix), ""))


def _table_misfit(annotation: Any, value: object, path: str) -> Misfit | None:
    if not isinstance(value, Mapping):
        return Misfit(path, "a mapping", value)
    inner = (get_args(annotation) or (Any, Any))[1]
    return next(filter(None, (find_misfit(inner, entry, f"{path}.{key}") for key, entry in value.items())), None)


def _array_misfit(annotation: Any, value: object, path: str) -> Misfit | None:
    items = get_args(annotation) or (Any, ...)
    fixed = get_origin(annotation) is tuple and ... not in items
    unordered = (get_origin(annotation) or annotation) in (set, frozenset, Set)
    if isinstance(value, str | bytes) or not isinstance(value, Sequence | Set if unordered else Sequence):
        noun = "strings" if bare(items[0]) is str else WORDS.get(bare(items[0]), ("", "values"))[1]
        return Misfit(path, f"a tuple of {noun}", value, f"write ({value!r},)" if isinstance(value, str | int | float) else "")
    if fixed and len(value) != len(items):
        return Misfit(path, f"a tuple of {len(items)} values", value)
    kinds = items if fixed else (items[0],) * len(value)
    found = (find_misfit(kind, entry, f"{path}[{place}]") for place, (kind, entry) in enumerate(zip(kinds, value, strict=True)))
    return next(filter(None, found), None)


def _remedy(annotation: Any, value: object) -> str:
    if type(value).__module__ == "numpy" and annotation in (int, float, bool):
        return f"write {annotation.__name__}(...) around a number of numpy"
    if not _is_class_of_ours(annotation):
        return ""
    if isinstance(value, type) and issubclass(value, annotation):
        return f"make an object of it: {value.__name__}(...)"
    return "a name is for recipes: in Python, hand over an object" if isinstance(value, str) else ""


def _is_class_of_ours(annotation: Any) -> bool:
    """Whether a recipe writes such a value as a table."""
    return isinstance(annotation, type) and (dataclasses.is_dataclass(annotation) or issubclass(annotation, (Checked, Contract)))


def _simple_words(annotation: Any) -> str:
    """What is allowed by an annotation that is no container; empty for types that no recipe knows."""
    if choices := choices_of(annotation):
        return " or ".join(map(repr, choices))
    if _is_class_of_ours(annotation):
        return f"an object of the class {annotation.__name__}"
    return "None" if annotation is types.NoneType else WORDS[annotation][0] if annotation in WORDS else ""


def _fits(annotation: Any, value: object) -> bool:
    if choices := choices_of(annotation):
        return any(type(choice) is type(value) and choice == value for choice in choices.values())  # 1 == True
    return _PLAIN[annotation](value) if annotation in _PLAIN else isinstance(value, annotation)


_PLAIN: dict[Any, Callable[[Any], bool]] = {
    int: lambda value: isinstance(value, int) and not isinstance(value, bool),
    float: lambda value: isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value),
    bool: lambda value: isinstance(value, bool),
    str: lambda value: isinstance(value, str | PurePath),  # a recipe has no paths but in strings
    Path: lambda value: isinstance(value, str | PurePath),
    types.NoneType: lambda value: value is None,
}
