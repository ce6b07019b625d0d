import json
from typing import Any

from sslkit import LARS
from sslkit.catalog.catalog import Catalog
from sslkit.recipe.schema import json_schema
from tests.recipe.test_options import CATALOG, Kinds, SomeTask as Task, Trained


def options(schema: dict[str, Any], kind: str, name: str) -> dict[str, Any]:
    return next(table for table in schema["$defs"][kind]["anyOf"] if table.get("properties", {}).get("name") == {"const": name})


def test_classes_are_distinguished_by_name():
    schema = json_schema(CATALOG)
    json.dumps(schema, allow_nan=False)
    assert schema["properties"]["data"] == {"$ref": "#/$defs/datasets"}
    assert schema["$defs"]["optimizers"]["anyOf"][0] == {"enum": ["adam", "sgd"]}
    sgd = options(schema, "optimizers", "sgd")
    assert sgd["required"] == ["name", "lr"]
    assert sgd["additionalProperties"] is False
    assert sgd["properties"]["lr"]["type"] == "number"
    assert options(schema, "backbones", "net")["properties"]["act"]["enum"] == ["relu", "gelu"]
    pretrain, evaluate = schema["properties"]["stages"]["additionalProperties"]["anyOf"]
    assert pretrain["properties"]["task"] == {"$ref": "#/$defs/pretext_tasks"}
    assert pretrain["properties"]["epochs"]["type"] == "integer"
    assert "epochs" not in evaluate["properties"]


def test_choices_and_options_without_a_value_are_in_it():
    lars = options(json_schema(Catalog.of(optimizers={"lars": LARS})), "optimizers", "lars")
    assert lars["properties"]["flavour"]["enum"] == ["classic", "larc", "larc_clip"]
    assert {"type": "boolean"} in lars["properties"]["exclude_norm_and_bias"]["anyOf"]
    stage = json_schema(CATALOG)["properties"]["stages"]["additionalProperties"]["anyOf"][0]["properties"]
    assert stage["lr_scaling"]["enum"] == ["none", "linear", "sqrt"]
    assert {"type": "boolean"} in stage["drop_last"]["anyOf"]
    assert stage["accumulate_batches"]["type"] == "integer"
    assert "float16" in stage["precision"]["enum"]


def test_tables_inside_are_links():
    class Nested(Task):
        def __init__(self, *, trained: Trained, kinds: Kinds | None = None):
            self.trained, self.kinds = trained, kinds

    schema = json_schema(Catalog.of(pretext_tasks={"nested": Nested}))
    assert options(schema, "pretext_tasks", "nested")["properties"]["trained"] == {"$ref": "#/$defs/Trained"}
    trained, kinds = schema["$defs"]["Trained"]["properties"], schema["$defs"]["Kinds"]["properties"]
    assert trained["optimizer"]["anyOf"] == [
        {"$ref": "#/$defs/optimizers"},
        {"type": "object", "additionalProperties": {"$ref": "#/$defs/optimizers"}},
    ]
    assert trained["chain"]["items"] == {"$ref": "#/$defs/schedules"}
    assert (kinds["integer"]["type"], kinds["texts"]["items"]) == ("integer", {"type": "string"})
