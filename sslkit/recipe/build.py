"""A class and a TOML table -> a checked value, and back.

There is no central schema: the typed constructor of each class is its own (:mod:`sslkit.recipe.schema`).
"""

import dataclasses
import inspect
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import PurePath
from types import NoneType
from typing import Annotated, Any, TypeVar, get_args, get_origin, overload

from sslkit.catalog.catalog import KINDS, Catalog
from sslkit.contract.annotations import ARRAYS, TABLES, bare, choices_of, members_of, unalias
from sslkit.contract.backbone import Backbone
from sslkit.contract.blame import blaming
from sslkit.contract.errors import BackboneError, OptionError, PluginError, RecipeError, did_you_mean
from sslkit.contract.images import ImageSpec
from sslkit.recipe.schema import (
    REQUIRED,
    Option,
    check,
    check_constraints,
    choose,
    fits,
    is_table,
    kind_of,
    options_of,
    words,
)
from sslkit.storage.limits import dotted

__all__ = ["BackboneOptions", "build", "build_backbone_options", "describe", "describe_backbone_options"]

T = TypeVar("T")


@overload
def build(target: type[T], table: object, path: str, catalog: Catalog) -> T: ...
@overload
def build(target: str, table: object, path: str, catalog: Catalog) -> Any: ...
def build(target: type | str, table: object, path: str, catalog: Catalog) -> Any:
    """Build a value from its table in a recipe.

    Args:
        target: a kind of class (``PretextTask`` or ``"pretext_tasks"``): the table's ``name`` chooses the class from the catalog,
            and a string alone is the name. Or a dataclass, whose table has no ``name``.
        table: the options. Tables inside it are built by what the options' annotations ask for.
        path: where the table stands in the recipe, dotted; errors begin with it.
        catalog: where names are looked up.

    Raises:
        RecipeError: the table is wrong; the message begins with the dotted path of the option at fault.
        PluginError: the class is wrong: an option without annotation, for example.
    """
    with blaming(path):
        return _value(KINDS[target].cls if isinstance(target, str) else target, table, path, catalog)


def describe(value: object, catalog: Catalog) -> dict[str, Any]:
    """Write a value as the table that it could have been built from, with every default, of plain values that TOML and JSON know.

    Options that are None are left out, as TOML has no such value.

    Args:
        value: an instance of a dataclass, for example what ``build`` returned.
        catalog: where the name of its class is looked up.

    Raises:
        PluginError: an option holds what no recipe can.
    """
    cls = type(value)
    if not dataclasses.is_dataclass(cls):
        raise PluginError(f"{cls.__name__} cannot be written into a recipe", fix="make it a frozen dataclass")
    table = {"name": catalog.spec_of(cls)} if kind_of(cls) else {}
    options = options_of(cls)
    return table | _plain_options(cls, options, {name: getattr(value, name) for name in options}, catalog)


@dataclass(frozen=True, kw_only=True)
class BackboneOptions:
    """How to build a backbone, as far as a recipe says. Only the stage knows the image.

    Attributes:
        cls: the class.
        name: how a recipe names it: its name in the catalog, or ``package.module:Class``.
        options: all of them, defaults included, as plain values that TOML and JSON know; None is left out.
        path: where it stands in the recipe, dotted.
        arguments: the options as the constructor takes them.
    """

    cls: type[Backbone]
    name: str
    options: dict[str, Any]
    path: str = field(default="backbone", compare=False)
    arguments: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def pretrained(self) -> bool:
        """Whether building it fetches weights."""
        return bool(self.arguments.get("pretrained"))

    def without_downloads(self) -> "BackboneOptions":
        """The same network with ``pretrained`` off: its weights come from elsewhere, or are not wanted at all."""
        if not self.pretrained:
            return self
        off = {"pretrained": False}
        return dataclasses.replace(self, options=self.options | off, arguments=self.arguments | off)

    def build(self, image: ImageSpec) -> Backbone:
        """Build the network for images of this size and colour, with random weights, or pretrained ones where its options ask for them.

        Raises:
            RecipeError: the constructor refuses an option; the message begins with its dotted path.
        """
        with blaming(self.path):
            return _construct(self.cls, (image,), self.arguments, self.path)


def build_backbone_options(table: object, path: str, catalog: Catalog) -> BackboneOptions:
    """Check the table of a backbone without building it.

    Raises:
        RecipeError: the table is wrong; the message begins with the dotted path of the option at fault.
        PluginError: the constructor of the class cannot be checked.
    """
    cls, given = _class_and_options(Backbone, table, path, catalog)
    options = options_of(cls)
    arguments = {name: option.default for name, option in options.items()} | _option_values(cls, options, given, path, catalog)
    plain = _plain_options(cls, options, arguments, catalog)
    return BackboneOptions(cls=cls, name=catalog.spec_of(cls), options=plain, path=path, arguments=arguments)


def describe_backbone_options(backbone: Backbone, catalog: Catalog) -> dict[str, Any] | None:
    """The options that a backbone was built with, as :class:`BackboneOptions` has them; None where no recipe could hold them."""
    cls, (args, kwargs) = type(backbone), backbone.arguments
    try:
        options = options_of(cls)
        given = inspect.signature(cls.__init__).bind(backbone, *args, **kwargs).arguments
        return _plain_options(cls, options, {name: given.get(name, option.default) for name, option in options.items()}, catalog)
    except (PluginError, TypeError):
        return None


# ------------------------------------------------------------------------------------------------------- table -> value


def _value(annotation: Any, raw: Any, path: str, catalog: Catalog) -> Any:
    """Turn what stands in a recipe into what an annotation asks for."""
    annotation = unalias(annotation)
    origin = get_origin(annotation) or annotation
    if origin is Annotated:
        inner, *constraints = get_args(annotation)
        return check_constraints(tuple(constraints), _value(inner, raw, path, catalog), path)
    if members := members_of(annotation):
        return _member(members, raw, path, catalog)
    if is_table(annotation):
        return _instance(annotation, raw, path, catalog)
    if origin in ARRAYS:
        return _array(annotation, raw, path, catalog)
    if origin in TABLES:
        return _mapping(annotation, raw, path, catalog)
    return check(annotation, raw, path)


def _member(members: tuple[Any, ...], raw: Any, path: str, catalog: Catalog) -> Any:
    """A union: the member whose shape fits. Where several do, the first that takes the value; where one does, its error counts."""
    only = [member for member in members if member is not NoneType]
    fitting = only if len(only) == 1 and raw is not None else [member for member in members if fits(member, raw)]
    if isinstance(raw, Mapping):  # one optimiser has a name; optimisers by phase have none
        fitting = [member for member in fitting if kind_of(bare(member))] or fitting
    if len(fitting) == 1 and (choices := choices_of(fitting[0])):
        return choose(choices, raw, path, others=[words(member) for member in only if member is not fitting[0]])
    if len(fitting) == 1:
        return _value(fitting[0], raw, path, catalog)
    for member in sorted(fitting, key=lambda member: member is not type(raw)):  # 1 stays an integer in float | int
        try:
            return _value(member, raw, path, catalog)
        except RecipeError:
            continue
    nameless = isinstance(raw, Mapping) and "name" not in raw and any(kind_of(bare(member)) for member in only)
    fix = "add its name" if nameless else ""
    raise RecipeError(f"{path}: must be {' or '.join(map(words, only))}", found=raw, fix=fix)


def _array(annotation: Any, raw: Any, path: str, catalog: Catalog) -> Any:
    if not isinstance(raw, list | tuple):
        fix = f"write [{json.dumps(raw)}]" if isinstance(raw, str | int | float) else ""
        raise RecipeError(f"{path}: must be {words(annotation)}", found=raw, fix=fix)
    origin = get_origin(annotation) or annotation
    items = get_args(annotation) or (Any, ...)
    if origin is tuple and ... not in items:
        if len(raw) != len(items):
            raise RecipeError(f"{path}: must be {words(annotation)}", found=raw)
    else:
        items = (items[0],) * len(raw)
    return ARRAYS[origin]([_value(item, value, f"{path}[{i}]", catalog) for i, (item, value) in enumerate(zip(items, raw, strict=True))])


def _mapping(annotation: Any, raw: Any, path: str, catalog: Catalog) -> dict[Any, Any]:
    if not isinstance(raw, Mapping):
        raise RecipeError(f"{path}: must be {words(annotation)}", found=raw)
    key_type, value_type = get_args(annotation) or (str, Any)
    return {_value(key_type, key, path, catalog): _value(value_type, value, dotted(path, key), catalog) for key, value in raw.items()}


def _instance(annotation: type, raw: Any, path: str, catalog: Catalog) -> Any:
    cls, table = _class_and_options(annotation, raw, path, catalog)
    if issubclass(cls, Backbone):
        raise PluginError(f"{path}: a backbone cannot be an option, as it is built for an image", fix="use build_backbone_options")
    return _construct(cls, (), _option_values(cls, options_of(cls), table, path, catalog), path)


def _class_and_options(annotation: type, raw: Any, path: str, catalog: Catalog) -> tuple[Any, Mapping[str, Any]]:
    """The class that a table is for, and the table without ``name``."""
    kind = kind_of(annotation)
    at = path
    if kind is not None and isinstance(raw, str):
        raw = {"name": raw}
    elif not isinstance(raw, Mapping):
        raise RecipeError(f"{path or annotation.__name__}: must be {words(annotation)}", found=raw)
    else:
        at = dotted(path, "name")
    if kind is None:
        return annotation, raw
    if "name" not in raw:
        if inspect.isabstract(annotation):
            raise RecipeError(f"{at}: missing; required", allowed=catalog.names(kind) or "'package.module:Class'")
        return annotation, raw
    if not isinstance(raw["name"], str):
        raise RecipeError(f"{at}: must be a string", found=raw["name"])
    try:
        cls = catalog.find(kind, raw["name"])
    except PluginError as error:
        raise RecipeError(f"{at}: {error}") from error
    if not issubclass(cls, annotation):
        raise RecipeError(f"{at}: must name a {annotation.__name__}", found=raw["name"])
    return cls, {key: value for key, value in raw.items() if key != "name"}


def _option_values(cls: type, options: Mapping[str, Option], table: Mapping[str, Any], path: str, catalog: Catalog) -> dict[str, Any]:
    """The options given, checked. Unknown ones come first: a misspelt option is a better message than a missing one."""
    for key in table:
        if key not in options:
            raise _unknown_option(cls, options, str(key), path)
    for name, option in options.items():
        if name not in table and option.default is REQUIRED:
            raise RecipeError(f"{dotted(path, name)}: missing; required", allowed=words(option.annotation))
    return {key: _value(options[key].annotation, value, dotted(path, key), catalog) for key, value in table.items()}


def _unknown_option(cls: type, options: Mapping[str, Option], key: str, path: str) -> Exception:
    if dataclasses.is_dataclass(cls) and _lacks_annotation(cls, key):
        return PluginError(f"{cls.__name__}.{key}: the option has no annotation", fix="annotate it with its type")
    near = did_you_mean(key, options)
    return RecipeError(f"{dotted(path, key)}: unknown option", allowed="" if near else options or "no options", fix=near)


def _lacks_annotation(cls: type, key: str) -> bool:
    """Whether a dataclass has ``key = value`` in its body, which makes no field: its author forgot the type."""
    value = inspect.getattr_static(cls, key, None)
    annotated = any(key in inspect.get_annotations(base) for base in cls.__mro__)
    return isinstance(value, bool | int | float | str | tuple | list | dict) and not annotated and not key.startswith("_")


def _construct(cls: Any, positional: tuple[Any, ...], options: Mapping[str, Any], path: str) -> Any:
    try:
        return cls(*positional, **options)
    except OptionError as error:
        raise RecipeError(f"{dotted(path, error.option)}: {error.detail}") from error
    except (ValueError, TypeError, BackboneError) as error:
        raise RecipeError(f"{path or cls.__name__}: {' '.join(str(error).split())}") from error


# ------------------------------------------------------------------------------------------------------- value -> table


def _plain_options(cls: type, options: Mapping[str, Option], values: Mapping[str, Any], catalog: Catalog) -> dict[str, Any]:
    table = {}
    for name, option in options.items():
        if values[name] is not None:
            table[name] = _plain(values[name], f"{cls.__name__}.{name}", catalog)
        elif option.default is not None:  # leaving it out would bring the default back
            raise PluginError(f"{cls.__name__}.{name}: None cannot be written into a recipe", fix="make None its default")
    return table


def _plain(value: Any, where: str, catalog: Catalog) -> Any:
    """Plain values as they are, everything else as what it is built from."""
    value = value.value if isinstance(value, Enum) else value
    if isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{where}.{key}", catalog) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(_plain(item, where, catalog) for item in value)
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{i}]", catalog) for i, item in enumerate(value)]
    if dataclasses.is_dataclass(type(value)):
        return describe(value, catalog)
    raise PluginError(
        f"{where}: cannot be written into a recipe", found=value, allowed="strings, finite numbers, true, false, arrays and tables"
    )
