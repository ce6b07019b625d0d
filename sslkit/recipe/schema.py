"""A class's options and what their annotations mean: which values they take, how a message calls them, whether one value is right."""

import dataclasses
import inspect
import json
import types
from collections.abc import Mapping, Sequence
from datetime import date, time
from pathlib import Path, PurePath
from typing import Annotated, Any, NamedTuple, TypeGuard, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from sslkit.catalog.catalog import KINDS
from sslkit.contract.annotations import ARRAYS, TABLES, WORDS, bare, choices_of, members_of
from sslkit.contract.backbone import Backbone
from sslkit.contract.errors import PluginError, RecipeError, did_you_mean

REQUIRED: Any = inspect.Parameter.empty
"""The default of an option that has none."""

_STRICT = ConfigDict(strict=True, allow_inf_nan=False)


class Option(NamedTuple):
    """One option of a class; ``default`` is ``REQUIRED`` where there is none."""

    name: str
    annotation: Any
    default: Any


def options_of(cls: type) -> dict[str, Option]:
    """The options of a class by name: the fields of a dataclass, or the keyword parameters of a constructor.

    Raises:
        PluginError: the constructor cannot be checked: an option has no annotation, or it takes ``**kwargs``.
    """
    fields = dataclasses.is_dataclass(cls) and not issubclass(cls, Backbone)
    options = _fields(cls) if fields else _parameters(cls)
    if "name" in options:
        raise PluginError(f"{cls.__name__}.name: an option cannot be called 'name', which chooses the class", fix="rename it")
    return options


def _fields(cls: type) -> dict[str, Option]:
    hints = _hints(cls, cls)
    options = {}
    for field in dataclasses.fields(cls):
        if field.init:
            default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
            options[field.name] = Option(field.name, hints[field.name], REQUIRED if default is dataclasses.MISSING else default)
    return options


def _parameters(cls: type) -> dict[str, Option]:
    """Options of a constructor. That of a backbone takes ``image`` first, which is no option."""
    constructor: Any = cls.__init__
    if constructor is object.__init__:
        return {}
    parameters = list(inspect.signature(constructor).parameters.values())[1:]
    if issubclass(cls, Backbone):
        if not parameters or parameters[0].name != "image" or parameters[0].kind is inspect.Parameter.KEYWORD_ONLY:
            raise PluginError(
                f"{cls.__name__}: the constructor of a backbone must take 'image' first", fix="def __init__(self, image, *, ...)"
            )
        parameters = parameters[1:]
    hints = _hints(constructor, cls)
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL, parameter.POSITIONAL_ONLY):
            problem = "options cannot be checked" if parameter.kind is not parameter.POSITIONAL_ONLY else "it has no name in a recipe"
            raise PluginError(
                f"{cls.__name__}: the constructor takes {parameter}, so {problem}", fix="name every option, annotated and keyword-only"
            )
        if parameter.name not in hints:
            raise PluginError(f"{cls.__name__}.{parameter.name}: the option has no annotation", fix="annotate it with its type")
    return {parameter.name: Option(parameter.name, hints[parameter.name], parameter.default) for parameter in parameters}


def _hints(source: Any, cls: type) -> dict[str, Any]:
    try:
        return get_type_hints(source, include_extras=True)
    except (NameError, AttributeError, TypeError, SyntaxError) as error:
        raise PluginError(f"{cls.__name__}: its annotations cannot be read ({error})", fix="import what they name at run time") from error


def kind_of(annotation: Any) -> str | None:
    """The kind of class that an annotation asks for, or None."""
    if not isinstance(annotation, type):
        return None
    return next((kind for kind, (base, _) in KINDS.items() if issubclass(annotation, base)), None)


def is_table(annotation: Any) -> TypeGuard[type]:
    """Whether the annotation is a class that a table of options stands for."""
    return isinstance(annotation, type) and (kind_of(annotation) is not None or dataclasses.is_dataclass(annotation))


def words(annotation: Any, *, plural: bool = False) -> str:
    """What an annotation allows, in plain words."""
    annotation = bare(annotation)
    origin = get_origin(annotation) or annotation
    if annotation in WORDS:
        return WORDS[annotation][plural]
    if members := members_of(annotation):
        return " or ".join(words(member, plural=plural) for member in members if member is not types.NoneType)
    if choices := choices_of(annotation):
        return " or ".join(map(repr, choices))
    if is_table(annotation):
        return _table_words(annotation, plural)
    if origin in ARRAYS or origin in TABLES:
        return _container_words(annotation, "table" if origin in TABLES else "array", plural)
    return "anything" if annotation in (Any, object) else str(getattr(annotation, "__name__", annotation))


def _table_words(cls: type, plural: bool) -> str:
    kind = kind_of(cls)
    if kind is None:
        return "tables" if plural else "a table"
    return f"{KINDS[kind].noun}s" if plural else f"{KINDS[kind].one} (its name, or a table with its name and options)"


def _container_words(annotation: Any, noun: str, plural: bool) -> str:
    items = [item for item in get_args(annotation) if item is not ...]
    text = f"{noun}s" if plural else f"{'a' if noun == 'table' else 'an'} {noun}"
    if get_origin(annotation) is tuple and ... not in get_args(annotation):
        same = len(set(items)) == 1
        return f"{text} of {len(items)} {words(items[0], plural=len(items) != 1)}" if same else f"{text} of {len(items)} values"
    return f"{text} of {words(items[-1], plural=True)}" if items and items[-1] is not Any else text


def fits(annotation: Any, raw: object) -> bool:
    """Whether a value has the shape that an annotation asks for, whatever is inside: what tells the members of a union apart."""
    annotation = bare(annotation)
    origin = get_origin(annotation) or annotation
    if members := members_of(annotation):
        return any(fits(member, raw) for member in members)
    if is_table(annotation):
        named = kind_of(annotation) is not None
        return (named and isinstance(raw, str)) or (isinstance(raw, Mapping) and (not inspect.isabstract(annotation) or "name" in raw))
    if origin in ARRAYS:
        return isinstance(raw, list | tuple)
    if origin in TABLES:
        tables = is_table((Any, *get_args(annotation))[-1])
        return isinstance(raw, Mapping) and not (tables and not all(isinstance(value, Mapping | str) for value in raw.values()))
    if choices := choices_of(annotation):
        return any(type(raw) is type(choice) for choice in choices)
    found = {int: int, float: int | float, bool: bool, str: str, Path: str | PurePath, types.NoneType: types.NoneType}
    return annotation not in found or (isinstance(raw, found[annotation]) and (annotation is bool or not isinstance(raw, bool)))


def check(annotation: Any, raw: Any, path: str) -> Any:
    """Check a value that holds no table of options, strictly: no ``"100"`` for 100, no ``true`` for 1, no inf and no nan.

    Raises:
        RecipeError: the value is wrong.
        PluginError: no recipe could hold a value of this type.
    """
    if annotation in (Any, object):
        return raw
    if choices := choices_of(annotation):
        return choose(choices, raw, path)
    adapter = _adapter(annotation, path)
    try:
        # As JSON: strictly read, it has the types of TOML (a string may be a path, an array a set), which Python objects do not.
        return adapter.validate_json(json.dumps(raw, default=_plain_path))
    except TypeError as error:  # TOML's dates
        raise RecipeError(f"{path}: must be {words(annotation)}", found=raw, fix=_quoted(annotation, raw)) from error
    except ValidationError as error:
        problem = error.errors()[0]
        rule = f"must be {words(annotation)}" if annotation in WORDS else _rule(problem["msg"])
        fix = _quoted(annotation, raw)
        raise RecipeError(f"{path}: {'must be finite' if problem['type'] == 'finite_number' else rule}", found=raw, fix=fix) from error


def _quoted(annotation: Any, raw: object) -> str:
    """What to do where a string was meant: ``root = 2024`` is a number, and a shell eats quotes."""
    if annotation is not str or not isinstance(raw, bool | int | float | date | time):
        return ""
    return f"""put it in quotes, "{raw}"; on a command line '"{raw}"'""" if type(raw) is int else "put it in quotes"


def check_constraints(metadata: tuple[Any, ...], value: Any, path: str) -> Any:
    """Check what stands beside a type in ``Annotated[type, ...]``, such as ``pydantic.Field(gt=0)``."""
    try:
        return _adapter(Annotated[Any, *metadata], path).validate_python(value)
    except ValidationError as error:
        raise RecipeError(f"{path}: {_rule(error.errors()[0]['msg'])}", found=value) from error


def _adapter(annotation: Any, path: str) -> TypeAdapter[Any]:
    try:
        return TypeAdapter(annotation, config=_STRICT)
    except (PydanticUserError, NameError, TypeError) as error:
        raise PluginError(
            f"{path}: a recipe cannot hold values of the type {words(annotation)}", fix="annotate the option otherwise"
        ) from error


def choose(choices: Mapping[Any, Any], raw: Any, path: str, *, others: Sequence[str] = ()) -> Any:
    """The Python value of one of some choices.

    Args:
        choices: by what a recipe writes.
        raw: what it has written.
        path: where.
        others: what else would have been right, in words.

    Raises:
        RecipeError: it is none of them.
    """
    for choice, value in choices.items():
        if type(choice) is type(raw) and choice == raw:  # 1 == True, and hashing a list would fail
            return value
    near = did_you_mean(raw, [choice for choice in choices if isinstance(choice, str)]) if isinstance(raw, str) else ""
    raise RecipeError(f"{path}: unknown choice", found=raw, allowed=[*map(repr, choices), *others], fix=near)


def _rule(message: str) -> str:
    """Pydantic's message in our words: ``Input should be greater than 0`` -> ``must be greater than 0``."""
    message = message.removeprefix("Value error, ").replace(" after validation", "")
    return message.replace("Input should", "must", 1).replace("Value should", "must", 1)


def _plain_path(value: object) -> str:
    if isinstance(value, PurePath):
        return str(value)
    raise TypeError(type(value).__name__)
