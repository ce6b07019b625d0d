"""A checked value -> the table that it could have been built from; and the options of a backbone, which is built later, for an image."""

import dataclasses
import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from inspect import Parameter
from pathlib import PurePath
from typing import Any

from sslkit.catalog.catalog import Catalog
from sslkit.contract.backbone import Backbone
from sslkit.contract.blame import blaming
from sslkit.contract.errors import PluginError
from sslkit.contract.images import ImageSpec
from sslkit.recipe.build import class_and_arguments, construct, kind_of, options_of, refusing
from sslkit.views.view import View


def describe(value: object, catalog: Catalog) -> dict[str, Any]:
    """Write an instance of a dataclass as the table that it could have been built from, with every default, of plain values that TOML
    and JSON know. Options that are None are left out, as TOML has no such value.
    """
    if isinstance(value, View):  # its functions alone: a preset of that name may change
        return {name: describe(options, catalog) for name, options in value.options.items()}
    cls = type(value)
    if not dataclasses.is_dataclass(cls):
        raise PluginError(f"{cls.__name__} cannot be written into a recipe", fix="make it a frozen dataclass")
    table = {"name": catalog.spec_of(cls)} if kind_of(cls) else {}
    options = options_of(cls)
    return table | _plain_options(cls, options, {name: getattr(value, name) for name in options}, catalog)


@dataclass(frozen=True, kw_only=True)
class BackboneOptions:
    """How to build a backbone, as far as a recipe says. Only the stage knows the image."""

    cls: type[Backbone]
    name: str  # in the catalog, or ``package.module:Class``
    options: dict[str, Any]  # all of them, defaults included, as plain values that TOML and JSON know; None is left out
    path: str = field(default="backbone", compare=False)  # in the recipe, dotted
    arguments: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)  # the options as the constructor takes them

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
        """Build the network for images of this size and color, with random weights, or pretrained ones where its options ask for them."""
        with blaming(self.path), refusing(self.path):
            return construct(self.cls, (image,), self.arguments)


def build_backbone_options(table: object, path: str, catalog: Catalog) -> BackboneOptions:
    """Check the table of a backbone without building it."""
    with refusing(path):
        cls, arguments = class_and_arguments(Backbone, table, catalog)
    options = options_of(cls)
    arguments = {name: option.default for name, option in options.items()} | arguments
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


def _plain_options(cls: type, options: Mapping[str, Parameter], values: Mapping[str, Any], catalog: Catalog) -> dict[str, Any]:
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
