"""A class and a TOML table -> a checked value.

There is no central schema: each class's typed constructor is its own, and pydantic checks it. Ours are names, dotted paths and words.
"""

import dataclasses
import functools
import inspect
import json
import re
import typing
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, time
from functools import partial
from inspect import Parameter
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, TypeGuard, TypeVar, get_args, get_origin, get_type_hints, overload

import pydantic
from pydantic import PlainValidator, TypeAdapter, ValidationError, ValidationInfo, WithJsonSchema
from typing_extensions import TypedDict

from sslkit.catalog.catalog import KINDS, Catalog
from sslkit.contract.backbone import Backbone
from sslkit.contract.blame import blaming
from sslkit.contract.checks import ARRAYS, TABLES, WORDS, bare, choices_of, is_fixed, is_plain, members_of, unalias
from sslkit.contract.errors import BackboneError, OptionError, PluginError, RecipeError, did_you_mean
from sslkit.storage.json_files import dotted
from sslkit.views.view import OPTIONS, View, functions_of

T = TypeVar("T")

REQUIRED: Any = Parameter.empty
"""The default of an option that has none."""

_WORDS = {**WORDS, View: ("a view (a preset's name, or a table of functions)", "views")}
_CONFIG = pydantic.ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True)


class _ClassError(OptionError):
    """The class is wrong, not the recipe: none could set the option."""


def options_of(cls: type) -> dict[str, Parameter]:
    """The options of a class by name: the fields of a dataclass, or the parameters of a constructor, but for the ``image`` of a backbone.

    Annotations are resolved and default factories called; an option that must be given has the default ``REQUIRED``. A constructor that
    cannot be checked is a ``PluginError``: an option has no annotation, or it takes ``**kwargs``.
    """
    constructor, fields = cls.__init__, dataclasses.is_dataclass(cls) and not issubclass(cls, Backbone)
    if constructor is object.__init__:
        return {}
    try:
        hints = get_type_hints(cls if fields else constructor, include_extras=True)
    except (NameError, AttributeError, TypeError, SyntaxError) as error:
        raise PluginError(f"{cls.__name__}: its annotations cannot be read ({error})", fix="import what they name at run time") from error
    given = dataclasses.fields(cls) if fields else ()
    defaults = {option.name: option.default_factory() for option in given if callable(option.default_factory)}
    parameters = list(inspect.signature(constructor).parameters.values())[1:]
    if issubclass(cls, Backbone):
        if not parameters or parameters[0].name != "image" or parameters[0].kind is Parameter.KEYWORD_ONLY:
            what = f"{cls.__name__}: the constructor of a backbone must take 'image' first"
            raise PluginError(what, fix="def __init__(self, image, *, ...)")
        parameters = parameters[1:]
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL, parameter.POSITIONAL_ONLY):
            problem = "options cannot be checked" if parameter.kind is not parameter.POSITIONAL_ONLY else "it has no name in a recipe"
            what = f"{cls.__name__}: the constructor takes {parameter}, so {problem}"
            raise PluginError(what, fix="name every option, annotated and keyword-only")
        if parameter.name not in hints:
            raise PluginError(f"{cls.__name__}.{parameter.name}: the option has no annotation", fix="annotate it with its type")
        if parameter.name == "name":
            raise PluginError(f"{cls.__name__}.name: an option cannot be called 'name', which chooses the class", fix="rename it")
    return {each.name: each.replace(annotation=hints[each.name], default=defaults.get(each.name, each.default)) for each in parameters}


def kind_of(annotation: Any) -> str | None:
    """The kind of class that an annotation asks for, or None."""
    return next((kind for kind, (base, _) in KINDS.items() if isinstance(annotation, type) and issubclass(annotation, base)), None)


def is_table(annotation: Any) -> TypeGuard[type]:
    """Whether a table of options in a recipe means an object of this class."""
    return isinstance(annotation, type) and (kind_of(annotation) is not None or dataclasses.is_dataclass(annotation))


def words(annotation: Any, *, plural: bool = False) -> str:
    """What an annotation allows, in plain words."""
    annotation = bare(annotation)
    origin, items = get_origin(annotation) or annotation, [item for item in get_args(annotation) if item is not ...]
    if annotation in _WORDS:
        return _WORDS[annotation][plural]
    members = [words(member, plural=plural) for member in members_of(annotation) if member is not NoneType]
    if alternatives := members or [repr(choice) for choice in choices_of(annotation)]:
        return " or ".join(alternatives)
    if kind := kind_of(annotation):
        return f"{KINDS[kind].noun}s" if plural else f"{KINDS[kind].one} (its name, or a table with its name and options)"
    if not (origin in ARRAYS or origin in TABLES or is_table(annotation)):
        return "anything" if annotation in (Any, object) else str(getattr(annotation, "__name__", annotation))
    noun = ("arrays" if plural else "an array") if origin in ARRAYS else "tables" if plural else "a table"
    if is_fixed(annotation):
        return f"{noun} of {len(items)} {words(items[0], plural=len(items) != 1) if len(set(items)) == 1 else 'values'}"
    return f"{noun} of {words(items[-1], plural=True)}" if items and items[-1] is not Any else noun


@overload
def build(target: type[T], value: object, path: str, catalog: Catalog) -> T: ...
@overload
def build(target: object, value: object, path: str, catalog: Catalog) -> Any: ...
def build(target: Any, value: object, path: str, catalog: Catalog) -> Any:
    """Build a value from what a recipe says.

    Args:
        target: a kind of class (``PretextTask`` or ``"pretext_tasks"``): the table's ``name`` chooses the class from the catalog,
            and a string alone is the name. Or a dataclass, whose table has no ``name``; or any other annotation of an option.
        value: a table of options, mostly. Tables inside it are built by what the options' annotations ask for.
        path: the value's dotted path in the recipe; errors begin with that of the option at fault.
        catalog: where names are looked up.
    """
    target = KINDS[target].cls if isinstance(target, str) else target
    with blaming(path), refusing(path, getattr(target, "__name__", "")):
        return _adapter(target).validate_python(value, context=catalog)


@contextmanager
def refusing(path: str, name: str = "") -> Iterator[None]:
    """Turn what is refused inside into a recipe's error that begins with the dotted path of the option at fault, or else with ``name``."""
    try:
        yield
    except (ValidationError, OptionError) as error:
        cause: Any = error
        if isinstance(error, ValidationError):
            problem: Any = error.errors()[0]
            for part in problem["loc"]:
                path = f"{path}[{part}]" if isinstance(part, int) else dotted(path, part)
            cause = problem.get("ctx", {}).get("error")
            if problem["type"] == "is_instance_of":
                what = f"a recipe cannot hold values of the type {problem['ctx']['class']}"
                cause = _ClassError("", what, fix="annotate the option otherwise")
        if not isinstance(cause, OptionError):
            raise cause from None  # an assertion of the class's own
        path = dotted(path, cause.option) if cause.option else path
        kind = PluginError if isinstance(cause, _ClassError) else RecipeError
        raise kind(f"{path or name}: {cause.detail}") from cause.__cause__ or cause


def _instance(annotation: type, raw: Any, catalog: Catalog) -> Any:
    cls, arguments = class_and_arguments(annotation, raw, catalog)
    if issubclass(cls, Backbone):
        raise _ClassError("", "a backbone cannot be an option, as it is built for an image", fix="use build_backbone_options")
    return construct(cls, (), arguments)


def class_and_arguments(annotation: type, raw: Any, catalog: Catalog) -> tuple[Any, dict[str, Any]]:
    """The class that a table is for, and the options that are given, checked."""
    kind, cls = kind_of(annotation), annotation
    at = "" if isinstance(raw, str) else "name"
    table = {"name": raw} if isinstance(raw, str) and kind else raw
    if not isinstance(table, Mapping):
        raise OptionError("", f"must be {words(annotation)}", found=raw)
    if kind and "name" not in table and inspect.isabstract(annotation):
        raise OptionError(at, "missing; required", allowed=catalog.names(kind) or "'package.module:Class'")
    if kind and "name" in table:
        name, table = table["name"], {key: value for key, value in table.items() if key != "name"}
        if not isinstance(name, str):
            raise OptionError(at, "must be a string", found=name)
        try:
            cls = catalog.find(kind, name)
        except PluginError as error:
            raise OptionError(at, str(error)) from error
        if not issubclass(cls, annotation):
            raise OptionError(at, f"must name a {annotation.__name__}", found=name)
    return cls, _arguments(cls, table, catalog)


def _arguments(cls: type, table: Mapping[str, Any], catalog: Catalog) -> dict[str, Any]:
    """The options given, checked. Unknown ones come first: to name a misspelt option helps more than to name a missing one."""
    options = options_of(cls)
    try:
        return table_of(cls).validate_python(dict(table), context=catalog)
    except ValidationError as error:
        own = {problem["type"]: str(problem["loc"][0]) for problem in reversed(error.errors()) if len(problem["loc"]) == 1}
        if (key := own.get("extra_forbidden")) is not None:
            value = inspect.getattr_static(cls, key, None)
            annotated = any(key in inspect.get_annotations(base) for base in cls.__mro__) or key.startswith("_")
            if dataclasses.is_dataclass(cls) and not annotated and isinstance(value, bool | int | float | str | tuple | list | dict):
                # ``key = value`` in the body makes no field: its author forgot the type
                raise PluginError(f"{cls.__name__}.{key}: the option has no annotation", fix="annotate it with its type") from None
            near = did_you_mean(key, options)
            raise OptionError(key, "unknown option", allowed="" if near else options or "no options", fix=near) from None
        if (key := own.get("missing")) is not None:
            raise OptionError(key, "missing; required", allowed=words(options[key].annotation)) from None
        raise


def construct(cls: Any, positional: tuple[Any, ...], arguments: Mapping[str, Any]) -> Any:
    """Call a constructor; what it refuses is an ``OptionError``."""
    try:
        return cls(*positional, **arguments)
    except OptionError:
        raise
    except (ValueError, TypeError, BackboneError) as error:
        raise OptionError("", " ".join(str(error).split())) from error


@functools.cache
def table_of(cls: type) -> TypeAdapter[Any]:
    """The table of a class's options, as pydantic checks it."""
    options = options_of(cls)
    required = [name for name, option in options.items() if option.default is REQUIRED]
    try:
        return table_with(cls.__name__, {name: option.annotation for name, option in options.items()}, required)
    except (pydantic.PydanticUserError, NameError, TypeError) as error:
        raise PluginError(f"{cls.__name__}: a recipe cannot hold its options", found=str(error), fix="annotate them otherwise") from error


def table_with(title: str, annotations: Mapping[str, Any], required: Collection[str]) -> TypeAdapter[Any]:
    """A table with these keys, as pydantic checks it."""
    entries = {key: (typing.Required if key in required else typing.NotRequired)[_typed(each)] for key, each in annotations.items()}
    return TypeAdapter(pydantic.with_config(_CONFIG)(TypedDict(title, entries)))  # pyright: ignore


@functools.cache
def _adapter(annotation: Any) -> TypeAdapter[Any]:
    return TypeAdapter(_typed(annotation), config=_CONFIG)


def _typed(annotation: Any) -> Any:
    """An annotation as pydantic reads it in a recipe: arrays are what they are said to become, classes are tables."""
    annotation = unalias(annotation)
    origin, items = get_origin(annotation) or annotation, get_args(annotation)
    if members := members_of(annotation):
        adapters = [(member, TypeAdapter(_typed(member), config=_CONFIG)) for member in members]
        return Annotated[Any, PlainValidator(partial(_member, adapters), json_schema_input_type=typing.Union[tuple(map(_typed, members))])]  # noqa: UP007
    if choices := choices_of(annotation):
        return Annotated[Any, PlainValidator(partial(_choice, choices)), WithJsonSchema({"enum": [*choices]})]
    if annotation is View:
        return Annotated[Any, PlainValidator(partial(_view, table_with("View", OPTIONS, ()))), WithJsonSchema({"table": View})]
    if is_table(annotation):
        return Annotated[
            Any, PlainValidator(lambda raw, info: _instance(annotation, raw, info.context)), WithJsonSchema({"table": annotation})
        ]
    typed = annotation
    if origin is Annotated:
        typed = Annotated[_typed(items[0]), *items[1:]]
    elif origin in ARRAYS:
        kind, entries = ARRAYS[origin], tuple(item if item is ... else _typed(item) for item in items or (Any, ...))
        typed = kind[entries if origin is tuple else (entries[0], ...) if kind is tuple else entries[0]]
    elif origin in TABLES:
        key, value = items or (str, Any)
        typed = dict[_typed(key), _typed(value)]
    lax = [pydantic.Strict(False)] if origin in (*ARRAYS, Path) else []  # a list is a tuple, a string a path
    return Annotated[typed, *lax, pydantic.WrapValidator(partial(_worded, annotation))]


def _view(table: TypeAdapter[Any], raw: Any, info: ValidationInfo) -> View:
    options = table.validate_python(functions := functions_of(raw), context=info.context)
    return View(**{name: options[name] for name in functions})  # in their order, which the table has forgotten


def _choice(choices: Mapping[Any, Any], raw: Any, *, others: Sequence[str] = ()) -> Any:
    """The Python value of a choice; ``others`` says in words what else would have been right."""
    for choice, value in choices.items():
        if type(choice) is type(raw) and choice == raw:  # 1 == True, and hashing a list would fail
            return value
    near = did_you_mean(raw, [choice for choice in choices if isinstance(choice, str)]) if isinstance(raw, str) else ""
    raise OptionError("", "unknown choice", found=raw, allowed=[*map(repr, choices), *others], fix=near)


def _member(adapters: Sequence[tuple[Any, TypeAdapter[Any]]], raw: Any, info: ValidationInfo) -> Any:
    """A union: the member whose shape fits. Where several do, the first that takes the value; where one does, its error counts."""
    only = [member for member, _ in adapters if member is not NoneType]
    single = len(only) == 1 and raw is not None
    fitting = [(member, adapter) for member, adapter in adapters if (member in only if single else _fits(member, raw))]
    if isinstance(raw, Mapping):  # one optimizer has a name; optimizers by phase have none
        fitting = [(member, adapter) for member, adapter in fitting if kind_of(bare(member))] or fitting
    if len(fitting) == 1 and (choices := choices_of(bare(fitting[0][0]))):
        return _choice(choices, raw, others=[words(member) for member in only if member is not fitting[0][0]])
    for _, adapter in sorted(fitting, key=lambda each: each[0] is not type(raw)):  # 1 stays an integer in float | int
        try:
            return adapter.validate_python(raw, context=info.context)
        except ValidationError:
            if len(fitting) == 1:
                raise
    nameless = isinstance(raw, Mapping) and "name" not in raw and any(kind_of(bare(member)) for member in only)
    raise OptionError("", f"must be {' or '.join(map(words, only))}", found=raw, fix="add its name" if nameless else "")


def _fits(annotation: Any, raw: object) -> bool:
    """Whether a value has the shape that an annotation asks for, whatever is inside: what distinguishes the members of a union."""
    annotation = bare(annotation)
    origin = get_origin(annotation) or annotation
    if members := members_of(annotation):
        return any(_fits(member, raw) for member in members)
    if is_table(annotation):
        table = isinstance(raw, Mapping) and ("name" in raw or not inspect.isabstract(annotation))
        return table or (isinstance(raw, str) and (annotation is View or kind_of(annotation) is not None))
    if origin in TABLES:
        tables = is_table((Any, *get_args(annotation))[-1])
        return isinstance(raw, Mapping) and all(isinstance(value, Mapping | str) for value in raw.values() if tables)
    if choices := choices_of(annotation):
        return any(type(raw) is type(choice) for choice in choices)
    return isinstance(raw, list | tuple) if origin in ARRAYS else annotation not in (*WORDS, NoneType) or is_plain(annotation, raw)


def _worded(annotation: Any, raw: Any, handler: Callable[[Any], Any]) -> Any:
    """Check a value that is no table of options, strictly: no ``"100"`` for 100, no ``true`` for 1, no inf and no nan."""
    origin = get_origin(annotation) or annotation
    if origin in ARRAYS and (not isinstance(raw, list | tuple) or (is_fixed(annotation) and len(raw) != len(get_args(annotation)))):
        fix = f"write [{json.dumps(raw)}]" if isinstance(raw, str | int | float) else ""
        raise OptionError("", f"must be {words(annotation)}", found=raw, fix=fix)
    try:
        return handler(raw)
    except ValidationError as error:
        problem: Any = next((problem for problem in error.errors() if not problem["loc"]), None)
        if (
            problem is None
            or problem["type"] == "is_instance_of"
            or isinstance(problem.get("ctx", {}).get("error"), OptionError | AssertionError)
        ):
            raise
    # Pydantic's message in our words: "Input should be greater than 0" -> "must be greater than 0"
    rule = re.sub(r"^\w+ should", "must", problem["msg"].removeprefix("Value error, ").replace(" after validation", ""))
    rule = f"must be {words(annotation)}" if annotation in WORDS or origin in TABLES else rule
    fix = ""
    if annotation is str and isinstance(raw, bool | int | float | date | time):  # root = 2024 is a number, and a shell eats quotes
        fix = f"""put it in quotes, "{raw}"; on a command line '"{raw}"'""" if type(raw) is int else "put it in quotes"
    raise OptionError("", "must be finite" if problem["type"] == "finite_number" else rule, found=raw, fix=fix)
