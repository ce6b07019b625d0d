"""What a recipe may say: the keys of its tables, which check it, and the JSON Schema of them, for editors that complete and underline."""

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import PlainValidator, TypeAdapter, WithJsonSchema
from pydantic.json_schema import GenerateJsonSchema
from typing_extensions import override

from sslkit.catalog.catalog import KINDS, Catalog
from sslkit.contract.backbone import Backbone
from sslkit.contract.errors import OptionError, PluginError, RecipeError, did_you_mean
from sslkit.contract.evaluator import Evaluator
from sslkit.contract.events import Observer
from sslkit.contract.images import Dataset
from sslkit.contract.objective import PretextTask
from sslkit.contract.runtime import Runtime
from sslkit.data.subset import Subset
from sslkit.recipe.build import build, kind_of, options_of, table_of, table_with
from sslkit.storage.json_files import dotted
from sslkit.training.options import TrainingOptions
from sslkit.views.presets import PRESETS
from sslkit.views.view import OPTIONS, View


def _name(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", value) or value == "random" or len(value) > 100:
        raise OptionError("", "not a name", found=value, allowed="letters, digits, _ and -, but not 'random'")
    return value


def _at_least(minimum: int) -> Any:
    def check(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            raise OptionError("", f"must be an integer, {minimum} or more", found=value)
        return value

    return Annotated[int, PlainValidator(check), WithJsonSchema({"type": "integer", "minimum": minimum})]


def _later(schema: dict[str, Any]) -> Any:
    """A key whose value is checked later, when the stages and variants are known."""
    return Annotated[Any, WithJsonSchema(schema)]


Keys = Mapping[str, Any]
"""The keys that a table may have, and the annotation of each."""

NAME = Annotated[str, PlainValidator(_name), WithJsonSchema({"type": "string"})]
"""A name that is also a folder's, on every system."""

_TEXTS = {"type": "array", "items": {"type": "string"}}
_PAIR = {**_TEXTS, "minItems": 2, "maxItems": 2}

RUNTIME_KEYS, TRAINING_KEYS = (
    {option.name: option.annotation for option in options_of(cls).values()} for cls in (Runtime, TrainingOptions)
)
_COMMON_KEYS = {
    "weights": _later({"type": "string"}),
    "allow_missing": tuple[str, ...],
    "backbone": _later({"anyOf": [{"table": Backbone}, {"type": "object"}]}),  # or single options, which change the recipe's
    "data": _later({"anyOf": [{"table": Dataset}, {"type": "object"}]}),  # the same
    **RUNTIME_KEYS,
}
PRETRAIN_KEYS: Keys = {
    "task": PretextTask,
    "evaluate_every": _at_least(1),
    "snapshot_epochs": tuple[int, ...],
    "quality_epochs": tuple[int, ...],
    **TRAINING_KEYS,
    **_COMMON_KEYS,
}
SUBSET_KEYS: Keys = {key: option.annotation for key, option in options_of(Subset).items() if key in ("classes", "max_images")}
"""Keys that every table of data may have in addition to the options of its class."""

EVALUATE_KEYS: Keys = {"evaluator": Evaluator, **_COMMON_KEYS}
RECIPE_KEYS: Keys = {
    "name": NAME,
    "seed": _at_least(0),
    "data": _later({"table": Dataset}),  # by datasets.py, as it may ask for a part
    "backbone": _later({"table": Backbone}),
    "stages": Mapping[str, Any],
    "sweep": _later({"type": "object"}),
    "paper": Annotated[Mapping[str, Any], WithJsonSchema({"type": "object", "additionalProperties": {"type": "number"}})],
    "margins": Annotated[Mapping[str, Any], WithJsonSchema({"type": "object", "additionalProperties": _PAIR})],
    "observers": _later({"type": "array", "items": {"table": Observer}}),
    "extends": _later({"type": "string"}),
    "without": _later(_TEXTS),
    **RUNTIME_KEYS,
}


def build_keys(keys: Keys, table: Mapping[str, Any], path: str, catalog: Catalog, fixes: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Build the value of each key that the table at a dotted path has; ``fixes`` says what to do about keys that belong elsewhere."""
    for key in table:
        if key not in keys:
            fix = (fixes or {}).get(key) or did_you_mean(key, keys)
            raise RecipeError(f"{dotted(path, key)}: unknown key", allowed=keys, fix=fix)
    return {key: build(annotation, table[key], dotted(path, key), catalog) for key, annotation in keys.items() if key in table}


class _Generator(GenerateJsonSchema):
    """Anything goes where JSON has no such type."""

    @override
    def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> dict[str, Any]:
        return {}


def json_schema(catalog: Catalog) -> dict[str, Any]:
    """What a recipe may say, with the options of every class that the catalog offers."""
    definitions: dict[str, Any] = {}
    address = {"type": "string", "pattern": "^[\\w.]+:[\\w.]+$"}
    own = {"type": "object", "properties": {"name": address}, "required": ["name"]}
    part = _schema_of(table_with("Part", SUBSET_KEYS, []), definitions)["properties"]
    for kind in KINDS:
        tables = []
        for name in catalog.names(kind):
            try:
                table = _schema_of(table_of(catalog.find(kind, name)), definitions)
            except PluginError:  # offered twice
                continue
            properties = {"name": {"const": name}, **(part if KINDS[kind].cls is Dataset else {}), **table["properties"]}
            tables.append({**table, "properties": properties, "required": ["name", *table.get("required", ())]})
        names = [table["properties"]["name"]["const"] for table in tables]
        definitions[kind] = {"anyOf": [{"enum": names}, address, *tables, own]}
    tables = [
        table_with("Pretraining", PRETRAIN_KEYS, ["task"]),
        table_with("Evaluation", EVALUATE_KEYS, ["evaluator"]),
        table_with("Recipe", RECIPE_KEYS, ["name"]),
    ]
    *stages, recipe = [_schema_of(table, definitions) for table in tables]
    recipe["properties"]["stages"] = {"type": "object", "additionalProperties": {"anyOf": stages}}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **recipe, "$defs": definitions}


def _schema_of(table: TypeAdapter[Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """The keys of a table; the tables in it are links."""

    def linked(value: Any) -> Any:
        if isinstance(value, list):
            return [linked(entry) for entry in value]
        if not isinstance(value, dict):
            return value
        inner = value.get("table")  # what build.py leaves in the place of a class
        if not isinstance(inner, type):
            return {key: linked(entry) for key, entry in value.items()}
        name = kind_of(inner) or inner.__name__
        if name not in KINDS and name not in definitions:
            definitions[name] = {}  # it may hold itself
            definitions[name] = _schema_of_views(definitions) if inner is View else _schema_of(table_of(inner), definitions)
        return {"$ref": f"#/$defs/{name}"}

    return linked(table.json_schema(schema_generator=_Generator))


def _schema_of_views(definitions: dict[str, Any]) -> dict[str, Any]:
    """A preset's name, or a table of functions; where the table names a preset, each function has its changes, or ``false``."""
    own = {name: _schema_of(table_of(options), definitions) for name, options in OPTIONS.items()}
    size = {"anyOf": [{"type": "integer"}, {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2}]}
    changes = {name: {"anyOf": [{**table, "required": []}, {"const": False}]} for name, table in own.items()}
    preset = {"type": "object", "properties": {"name": {"enum": [*PRESETS]}, "size": size, **changes}, "required": ["name"]}
    functions = {"type": "object", "properties": own, "minProperties": 1}
    return {"anyOf": [{"enum": [*PRESETS]}, *({**table, "additionalProperties": False} for table in (preset, functions))]}
