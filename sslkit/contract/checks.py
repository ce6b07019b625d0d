"""What the contract's base classes check themselves: names that are nearly theirs, and options that their annotations do not allow."""

import dataclasses
import difflib
import functools
import inspect
import math
import types
from abc import ABC
from collections.abc import Callable, Mapping, MutableMapping, MutableSequence, Sequence, Set
from enum import Enum
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal, Self, Union, get_args, get_origin, get_type_hints

from sslkit.contract.class_address import provenance_of
from sslkit.contract.errors import OptionError, PluginError

_NEAR = 0.83
"""How alike two names are, as difflib counts, if one is the other misspelt: ``on_after_stp``, ``lables``, ``needs_label``."""

ARRAYS: dict[Any, Any] = {
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

_PYTHON_TYPES: dict[Any, Any] = {float: int | float, str: str | PurePath, Path: str | PurePath}
"""What an annotation takes in Python beside itself: a recipe has no paths but in strings."""


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


def is_fixed(annotation: Any) -> bool:
    """Whether it is a tuple of a fixed number of values."""
    return get_origin(annotation) is tuple and ... not in get_args(annotation)


def is_plain(annotation: Any, value: object) -> bool:
    """Whether a value is of a class, where no bool is a number."""
    return isinstance(value, _PYTHON_TYPES.get(annotation, annotation)) and (annotation not in (int, float) or not isinstance(value, bool))


def choices_of(annotation: Any) -> dict[Any, Any]:
    """What a ``Literal`` or an ``Enum`` allows: the value in a recipe -> the value in Python; empty for anything else."""
    if get_origin(annotation) is Literal:
        return {choice: choice for choice in get_args(annotation)}
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return {member.value: member for member in annotation}
    return {}


class Contract(ABC):  # noqa: B024 - its subclasses have abstract methods
    """What plugins derive from. A subclass with a public name that is nearly one it could override, and does not, is a ``PluginError``.

    Names that begin with ``on_`` are reserved where the contract has such. Options, which are annotated fields, may be called anything.
    """

    def __init_subclass__(cls, **options: object) -> None:
        super().__init_subclass__(**options)
        for contract in cls.__mro__[1:]:
            if Contract in contract.__bases__:
                _refuse_misspelt(cls, contract)


def refuse_misspelt_attributes(instance: object, contract: type) -> None:
    """The same for values that a constructor sets: ``self.clases = ...`` would leave it without any."""
    values = [name for name in _overridable(contract) if not callable(getattr(contract, name))]
    left = [name for name in values if getattr(type(instance), name) is getattr(contract, name) and name not in vars(instance)]
    for name in vars(instance):
        if not name.startswith("_") and not hasattr(type(instance), name):
            _refuse_near(name, left, _NEAR, type(instance), contract)


def _refuse_misspelt(cls: type, contract: type) -> None:
    written = [base for base in cls.__mro__ if base not in contract.__mro__]
    known = _overridable(contract)
    left = [name for name in known if not any(name in vars(base) for base in written)]
    for base in written:
        for name in vars(base).keys() - inspect.get_annotations(base).keys():
            if not name.startswith("_") and not hasattr(contract, name):
                event = name.startswith("on_") and any(hook.startswith("on_") for hook in known)
                _refuse_near(name, known if event else left, 0.0 if event else _NEAR, cls, contract)


def _refuse_near(name: str, names: list[str], cutoff: float, cls: type, contract: type) -> None:
    for meant in difflib.get_close_matches(name, names, n=1, cutoff=cutoff):
        what = f"{provenance_of(cls)}: {contract.__name__} has no {name!r}"
        raise PluginError(what, fix=f"did you mean {meant!r}? Start a similar name of your own with _")


def _overridable(contract: type) -> list[str]:
    """Its public names with a value, except final ones and properties, which do not say whether they are final."""
    values = {name: value for name, value in vars(contract).items() if not name.startswith("_") and not isinstance(value, property)}
    return [name for name, value in values.items() if not getattr(value, "__final__", False)]


class Checked:
    """Options that are checked in Python as in a recipe: what the annotation of an option does not allow is an ``OptionError``."""

    def __new__(cls, *_args: Any, **options: Any) -> Self:
        """Check the options before the constructor, which would compare a string with a number, or keep it."""
        check_arguments(cls, **options)
        return super().__new__(cls)


def check_arguments(function: Callable[..., Any], /, **given: object) -> None:
    """Refuse arguments of a function, or options of a class, that their annotations do not allow, with an ``OptionError``."""
    hints = _hints(function)
    for name, value in given.items():
        if name in hints:
            _check(hints[name], value, name)


@functools.cache
def _hints(source: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of a class's options, or of a function; none where they cannot be read, which a recipe would refuse."""
    plain = not isinstance(source, type) or dataclasses.is_dataclass(source)
    try:
        return get_type_hints(source if plain else source.__init__, include_extras=True)
    except Exception:
        return {}


def _check(annotation: Any, value: object, path: str) -> None:
    """Refuse what a recipe would refuse; arrays may be tuples or lists. Types that no recipe knows are left to whoever asks for them."""
    annotation = bare(annotation)
    origin = get_origin(annotation) or annotation
    items = get_args(annotation)
    if members := members_of(annotation):
        _check_union(members, value, path)
    elif not _fits(annotation, value):
        words = "finite" if annotation is float and isinstance(value, float) else _words(annotation)
        raise OptionError(path, f"must be {words}", found=value, fix=_remedy(annotation, value))
    elif origin in TABLES and isinstance(value, Mapping):
        for key, entry in value.items():
            _check((Any, *items)[-1], entry, f"{path}.{key}")
    elif origin in ARRAYS and isinstance(value, Sequence | Set):
        for index, entry in enumerate(value):
            _check(items[index] if is_fixed(annotation) else (*items, Any)[0], entry, f"{path}[{index}]")


def _check_union(members: Sequence[Any], value: object, path: str) -> None:
    errors = []
    for member in members:
        try:
            return _check(member, value, path)
        except OptionError as error:
            errors.append(error)
    only = {member: error for member, error in zip(members, errors, strict=True) if member is not types.NoneType}
    deeper = [error for error in only.values() if error.option != path]  # right but for something inside
    if deeper or len(only) == 1:
        raise next(iter(deeper or only.values()))
    fixes = (_remedy(bare(member), value) for member in only)
    raise OptionError(path, f"must be {' or '.join(map(_words, only))}", found=value, fix=next(filter(None, fixes), ""))


def _fits(annotation: Any, value: object) -> bool:
    """Whether a value is of the type, whatever is inside."""
    origin = get_origin(annotation) or annotation
    if choices := choices_of(annotation):
        return any(type(choice) is type(value) and choice == value for choice in choices.values())  # 1 == True
    if origin in TABLES:
        return isinstance(value, Mapping)
    if origin in ARRAYS:
        if isinstance(value, str | bytes) or not isinstance(value, Sequence | Set if issubclass(origin, Set) else Sequence):
            return False
        return not is_fixed(annotation) or len(value) == len(get_args(annotation))
    if annotation is float and isinstance(value, float):
        return math.isfinite(value)
    return not _words(annotation) or is_plain(annotation, value)


def _words(annotation: Any) -> str:
    """What an annotation allows, in plain words; empty for types that no recipe knows."""
    annotation = bare(annotation)
    origin, items = get_origin(annotation) or annotation, get_args(annotation)
    if choices := choices_of(annotation):
        return " or ".join(map(repr, choices))
    if origin in TABLES:
        return "a mapping"
    if origin in ARRAYS:
        return f"a tuple of {f'{len(items)} values' if is_fixed(annotation) else WORDS.get(bare((*items, Any)[0]), ('', 'values'))[1]}"
    if _is_class_of_ours(annotation):
        return f"an object of the class {annotation.__name__}"
    return "None" if annotation is types.NoneType else WORDS.get(annotation, ("",))[0]


def _remedy(annotation: Any, value: object) -> str:
    """What to do about a common mistake."""
    if type(value).__module__ == "numpy" and annotation in (int, float, bool):
        return f"write {annotation.__name__}(...) around a number of numpy"
    if (get_origin(annotation) or annotation) in ARRAYS and not is_fixed(annotation) and isinstance(value, str | int | float):
        return f"write ({value!r},)"
    if not _is_class_of_ours(annotation):
        return ""
    if isinstance(value, type) and issubclass(value, annotation):
        return f"make an object of it: {value.__name__}(...)"
    return "a name is for recipes: in Python, pass an object" if isinstance(value, str) else ""


def _is_class_of_ours(annotation: Any) -> bool:
    """Whether a recipe writes such a value as a table."""
    return isinstance(annotation, type) and (dataclasses.is_dataclass(annotation) or issubclass(annotation, (Checked, Contract)))
