"""The JSON Schema of a recipe, from the models that check it: for editors that complete and underline."""

from collections.abc import Mapping
from typing import Any

from pydantic.json_schema import GenerateJsonSchema
from typing_extensions import override

from sslkit.catalog.catalog import KINDS, Catalog
from sslkit.contract.errors import PluginError
from sslkit.contract.runtime import Runtime
from sslkit.recipe.build import kind_of, table_of
from sslkit.recipe.parse import EVALUATE_KEYS, PRETRAIN_KEYS
from sslkit.recipe.recipe import TOP_KEYS
from sslkit.training.options import TrainingOptions

_KEYS = {
    "name": {"type": "string"},
    "extends": {"type": "string"},
    "weights": {"type": "string"},
    "seed": {"type": "integer", "minimum": 0},
    "evaluate_every": {"type": "integer", "minimum": 1},
    "without": {"type": "array", "items": {"type": "string"}},
    "snapshot_epochs": {"type": "array", "items": {"type": "integer"}},
    "paper": {"type": "object", "additionalProperties": {"type": "number"}},
    "margins": {"type": "object", "additionalProperties": {"type": "array", "items": {"type": "string"}, "minItems": 2, "maxItems": 2}},
    "sweep": {"type": "object"},
}
_TABLES = {"data": "datasets", "backbone": "backbones", "task": "pretext_tasks", "evaluator": "evaluators"}


class _Generator(GenerateJsonSchema):
    """Anything goes where JSON has no such type."""

    @override
    def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> dict[str, Any]:
        return {}


def json_schema(catalog: Catalog) -> dict[str, Any]:
    """What a recipe may say, with the options of every class that the catalog offers."""
    definitions: dict[str, Any] = {}
    for kind in KINDS:
        named = {name: _table(cls, definitions) for name in catalog.names(kind) if (cls := _found(catalog, kind, name))}
        tables = [
            {**table, "properties": {"name": {"const": name}, **table["properties"]}, "required": ["name", *table.get("required", ())]}
            for name, table in named.items()
        ]
        address = {"type": "string", "pattern": "^[\\w.]+:[\\w.]+$"}
        own = {"type": "object", "properties": {"name": address}, "required": ["name"]}
        definitions[kind] = {"anyOf": [{"enum": [*named]}, address, *tables, own]}
    shared = {cls: _table(cls, definitions)["properties"] for cls in (Runtime, TrainingOptions)}
    known = {**_KEYS, **shared[Runtime], **shared[TrainingOptions], **{key: _link(kind) for key, kind in _TABLES.items()}}
    known["observers"] = {"type": "array", "items": _link("observers")}
    changes = {**known, "backbone": {"anyOf": [_link("backbones"), {"type": "object"}]}}  # of a stage: single options of the recipe's
    stages = [_object(PRETRAIN_KEYS, changes, "task"), _object(EVALUATE_KEYS, changes, "evaluator")]
    known["stages"] = {"type": "object", "additionalProperties": {"anyOf": stages}}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **_object(TOP_KEYS, known, "name"), "$defs": definitions}


def _found(catalog: Catalog, kind: str, name: str) -> type | None:
    try:
        return catalog.find(kind, name)
    except PluginError:  # offered twice
        return None


def _object(keys: tuple[str, ...], known: Mapping[str, Any], *required: str) -> dict[str, Any]:
    return {"type": "object", "properties": {key: known[key] for key in keys}, "required": [*required], "additionalProperties": False}


def _link(name: str) -> dict[str, str]:
    return {"$ref": f"#/$defs/{name}"}


def _table(cls: type, definitions: dict[str, Any]) -> dict[str, Any]:
    """The options of a class; the tables in it are links."""

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
            definitions[name] = _table(inner, definitions)
        return _link(name)

    return linked(table_of(cls).json_schema(schema_generator=_Generator))
