"""Stages with data of their own: pretraining on one dataset, measuring on another or on a part."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from torch import Tensor

from sslkit import BackboneError, DataError, ImageSpec, RecipeError, StageSkipped, load_catalog, load_recipe, run_recipe
from sslkit.catalog.catalog import Offer
from sslkit.cli.preview import write_preview
from sslkit.contract.events import DataFound
from sslkit.data.digits import Digits
from sslkit.data.subset import Subset
from sslkit.recipe.recipe import Recipe, parse_recipe
from sslkit.report.page import write_report
from sslkit.report.run_folder import read_run
from sslkit.report.run_tables import facts_table
from sslkit.run.artifacts import load_backbone, read_artifact
from sslkit.run.networks import check_images
from sslkit.run.preflight import check_recipe
from tests.contract.miniatures.backbones import TinyConv
from tests.observers import Recorder, stop_after
from tests.recipes import refusal, weights

CATALOG = load_catalog()

PRETRAIN = {"task": "rotnet", "epochs": 1, "batch_size": 8}
KNN = {"name": "knn", "layers": ["conv2"]}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of colour images without classes."""
    folder = tmp_path_factory.mktemp("photos")
    for number in range(16):
        noise = Image.effect_noise((12, 12), 40 + number)
        Image.merge("RGB", (noise, noise.rotate(90), noise.rotate(180))).save(folder / f"{number:02}.png")
    return folder


def table(photos: Path, **stages: Any) -> dict[str, Any]:
    data = {"name": "image_folder", "root": str(photos), "image_size": 12}
    backbone = {"name": "nin", "num_blocks": 3, "width": 0.05}
    return {"name": "transfer", "device": "cpu", "data": data, "backbone": backbone, "stages": stages}


def parse(photos: Path, **stages: Any) -> Recipe:
    return parse_recipe(table(photos, **stages), CATALOG)


def probe(data: Any = None, weights: str = "pretrain", **evaluator: Any) -> dict[str, Any]:
    return {"weights": weights, "evaluator": KNN | evaluator, **({} if data is None else {"data": data})}


SMALL_DIGITS = {"name": "digits", "max_images": 40}
TRANSFER = {
    "pretrain": PRETRAIN,
    "probe": probe(SMALL_DIGITS),
    "untrained": probe(SMALL_DIGITS, "random"),
    "zeros": probe({**SMALL_DIGITS, "classes": [0, 1]}),
}


def test_from_a_folder_to_digits_in_one_recipe(photos: Path, tmp_path: Path):
    recipe, seen = parse(photos, **TRANSFER), Recorder()
    assert check_recipe(recipe) == ""
    result = run_recipe(recipe, output=tmp_path / "run", observers=[seen], report=False)
    assert list(result.results.stages) == ["pretrain", "probe", "untrained", "zeros"]
    assert [(event.stage, list(event.splits)) for event in seen.of(DataFound)] == [
        ("", ["pretrain"]),
        ("probe", ["train", "test"]),
        ("zeros", ["train", "test"]),
    ]
    assert "max_images: 40 of 1,442 train images" in seen.messages()
    network = load_backbone(tmp_path / "run" / "pretrain")
    assert network.image.color == "rgb", "a later stage keeps its network's own images"
    artifact = read_artifact(tmp_path / "run" / "probe")
    assert artifact["identity"]["backbone"]["image"][2] == "rgb"
    assert artifact["identity"]["backbone"]["weights"] == read_artifact(tmp_path / "run" / "pretrain")["fingerprint"]
    assert read_artifact(tmp_path / "run" / "untrained")["identity"]["backbone"]["image"][2] == "gray"
    assert read_artifact(tmp_path / "run" / "zeros")["classes"] == ["0", "1"]
    facts = facts_table(read_run(tmp_path / "run")).markdown()
    assert "probe, untrained: digits" in facts
    assert "zeros: digits" in facts
    again = Recorder()
    run_recipe(load_recipe(tmp_path / "run" / "recipe.toml"), output=tmp_path / "run", observers=[again], report=False)
    assert again.stages(StageSkipped) == ["pretrain", "probe", "untrained", "zeros"], "the resolved recipe says the same"


@pytest.mark.slow
def test_a_report_shows_networks_on_images_that_are_converted_for_them(photos: Path, tmp_path: Path):
    run_recipe(parse(photos, **TRANSFER), output=tmp_path / "run")
    assert "There are no" not in (tmp_path / "run" / "report.md").read_text()
    assert write_report([tmp_path / "run"], tmp_path / "report").notes == ()


def test_a_table_without_a_name_changes_single_keys(photos: Path):
    digits = {
        **table(photos, pretrain=PRETRAIN, probe=probe({"max_images": 50})),
        "data": {"name": "digits", "image_size": 12, "max_images": 90},
    }
    recipe = parse_recipe(digits, CATALOG)
    assert recipe.data == Subset(source=Digits(image_size=12), max_images=90)
    assert recipe.stage("pretrain").data is None
    assert recipe.stage("probe").data == Subset(source=Digits(image_size=12), max_images=50)
    whole = parse_recipe({**digits, "stages": {"pretrain": PRETRAIN, "probe": probe("digits")}}, CATALOG)
    assert whole.stage("probe").data == Digits(), "a name replaces the whole table"
    assert parse_recipe(dict(recipe.table), CATALOG) == recipe
    named = parse_recipe({**digits, "data": "digits"}, CATALOG)
    assert named.stage("probe").data == Subset(source=Digits(), max_images=50)


def test_an_override_changes_one_stage_and_runs_no_other_again(tmp_path: Path):
    path = tmp_path / "mine.toml"
    path.write_text(
        'name = "mine"\ndevice = "cpu"\ndata = { name = "digits", max_images = 60 }\nbackbone = { name = "nin", num_blocks = 3, width = 0.05 }\n'
        '[stages.pretrain]\ntask = "rotnet"\nepochs = 1\nbatch_size = 8\n'
        '[stages.probe]\nweights = "pretrain"\nevaluator = { name = "knn", layers = ["conv2"] }\n'
    )
    run_recipe(load_recipe(path), output=tmp_path / "run", report=False)
    changed = load_recipe(path, ["stages.probe.data.max_images=30"])
    message = refusal(Exception, run_recipe, changed, output=tmp_path / "run", report=False)
    assert "holds stage 'probe' of a different recipe (data.test: " in message
    (tmp_path / "run" / "probe" / "artifact.json").unlink()
    seen = Recorder()
    run_recipe(changed, output=tmp_path / "run", observers=[seen], report=False)
    assert seen.stages(StageSkipped) == ["pretrain"]
    assert read_artifact(tmp_path / "run" / "probe")["num_images"] == 30


@pytest.mark.slow
def test_it_is_resumed_with_the_same_bits(photos: Path, tmp_path: Path):
    tuned = {
        "weights": "pretrain",
        "data": {**SMALL_DIGITS, "image_size": 12},
        "evaluator": {"name": "finetune", "epochs": 2, "batch_size": 8},
    }
    recipe = parse(photos, pretrain=PRETRAIN, tuned=tuned)
    run_recipe(recipe, output=tmp_path / "whole", report=False)
    with pytest.raises(Exception, match="stopped in stage 'tuned'"):
        run_recipe(recipe, output=tmp_path / "halves", report=False, **stop_after(7))
    run_recipe(recipe, output=tmp_path / "halves", report=False)
    finished = {key: value for key, value in weights(tmp_path / "whole").items() if "checkpoint" not in key}
    assert finished == {key: value for key, value in weights(tmp_path / "halves").items() if "checkpoint" not in key}


def test_equal_data_are_loaded_once(photos: Path, monkeypatch: pytest.MonkeyPatch):
    loaded: list[str] = []
    load = Digits.load
    monkeypatch.setattr(Digits, "load", lambda self, split: loaded.append(split) or load(self, split))
    digits = {"name": "digits", "image_size": 12}
    recipe = parse(photos, pretrain=PRETRAIN, one=probe(digits), two=probe({"image_size": 12, "name": "digits"}), three=probe(digits, k=3))
    assert check_recipe(recipe) == ""
    assert loaded == ["train", "test"]


def test_a_sweep_may_change_the_data_of_a_stage_and_shares_the_rest(photos: Path):
    swept = {**table(photos, pretrain=PRETRAIN, probe=probe("digits")), "sweep": {"stages.probe.data.max_images": [20, 40]}}
    recipe = parse_recipe(swept, CATALOG)
    assert [stage.key for stage in recipe.stages] == ["pretrain", "max_images=20/probe", "max_images=40/probe"]
    assert check_recipe(recipe) == ""
    seeds = {**table(photos, probe=probe(weights="random")), "data": SMALL_DIGITS, "sweep": {"seed": [0, 1]}}
    drawn = parse_recipe(seeds, CATALOG)
    assert [stage.data for stage in drawn.stages] == [None, Subset(source=Digits(), max_images=40, seed=1)]
    assert set(drawn.variants) == {"seed=0", "seed=1"}


@pytest.mark.parametrize(
    ("data", "kind", "message"),
    [
        ({"name": "digits", "classes": ["ten"]}, RecipeError, "stages.probe.data.classes: no such class; found 'ten'; allowed: 0, 1, 2, "),
        ({"name": "digits", "max_images": 5}, RecipeError, "stages.probe.data.max_images: are fewer than the classes of the train images"),
        ({"name": "digits", "max_images": 0}, RecipeError, "stages.probe.data.max_images: must be positive; found 0"),
        ({"name": "digits", "max_images": "5"}, RecipeError, "stages.probe.data.max_images: must be an integer; found '5'"),
        ({"name": "digits", "classes": "ten"}, RecipeError, "stages.probe.data.classes: must be an array"),
        ({"name": "digits", "max_imags": 5}, RecipeError, "stages.probe.data.max_imags: unknown option; did you mean 'max_images'?"),
        ({"name": "dogits"}, RecipeError, "stages.probe.data.name: no dataset is called 'dogits'"),
        ({"image_sise": 3}, RecipeError, "stages.probe.data.image_sise: unknown option; did you mean 'image_size'?"),
        (3, RecipeError, "stages.probe.data: must be a dataset"),
        ({"max_images": 5}, DataError, "stages.probe: "),
    ],
)
def test_what_is_wrong_has_its_path(photos: Path, data: Any, kind: type[Exception], message: str):
    found = refusal(kind, lambda: check_recipe(parse(photos, pretrain=PRETRAIN, probe=probe(data))))
    assert found.startswith(message), found


class Fixed(TinyConv):
    """Takes images of its own size alone."""

    def extract(self, x: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        if x.shape[2:] != (8, 8):
            raise ValueError("only 8 x 8")
        return super().extract(x, layers)


def test_images_of_another_kind_are_tried_on_the_network():
    network = Fixed(ImageSpec(8, 8, "rgb", (0.5,) * 3, (0.5,) * 3))
    check_images(ImageSpec(8, 8, "gray", (0.5,), (0.5,)), network)
    message = refusal(BackboneError, check_images, ImageSpec(9, 8, "gray", (0.5,), (0.5,)), network)
    assert message == (
        "gray images of 9 x 8 pixels cannot be taken by a network that was built for rgb images of 8 x 8 pixels (only 8 x 8); "
        "set image_size where the data has that option, or choose another network"
    )
    assert network.training


def test_a_network_of_one_size_takes_what_a_view_makes_of_larger_images():
    own = replace(CATALOG, offers=(*CATALOG.offers, Offer("backbones", "fixed", Fixed, None)))
    knn = {"name": "knn", "layers": ["body"], "test_view": {"center_crop": {"size": 8}}}
    recipe = {"name": "crops", "data": {"name": "digits", "image_size": 12}, "backbone": "fixed"}
    recipe["stages"] = {"knn": {"weights": "random", "evaluator": knn}}
    assert check_recipe(parse_recipe(recipe, own)) == ""
    recipe["stages"]["knn"]["evaluator"] = KNN | {"layers": ["body"]}
    recipe["data"]["image_size"] = 8
    assert check_recipe(parse_recipe(recipe, own)) == ""


@pytest.mark.slow
def test_images_that_the_network_cannot_take_are_refused_before_anything_is_computed(photos: Path):
    vit = {
        **table(photos, pretrain=PRETRAIN, probe=probe("digits", layers=["norm"])),
        "backbone": {"name": "timm", "model": "vit_tiny_patch16_224"},
    }
    vit["data"]["image_size"] = 32
    message = refusal(RecipeError, lambda: check_recipe(parse_recipe(vit, CATALOG)))
    assert message.startswith(
        "stages.probe.data: gray images of 8 x 8 pixels cannot be taken by a network that was built for rgb images of 32 x 32 pixels ("
    )
    vit["stages"]["probe"]["data"] = {"name": "digits", "image_size": 16}
    assert check_recipe(parse_recipe(vit, CATALOG)) == ""


@pytest.mark.slow
def test_show_draws_each_stage_on_its_own_images(photos: Path, tmp_path: Path):
    path = tmp_path / "mine.toml"
    path.write_text(
        f"name = 'mine'\ndata = {{ name = 'image_folder', root = '{photos}', image_size = 12 }}\nbackbone = 'nin'\n"
        "[stages.one]\ntask = 'rotnet'\n[stages.two]\ntask = 'rotnet'\ndata = 'digits'\n"
    )
    assert write_preview(str(path), output=tmp_path / "views.png").stat().st_size > 1000
    assert "is inside the data" in refusal(Exception, write_preview, str(path), output=photos / "views.png")


def test_a_schema_for_editors_knows_the_keys():
    from sslkit.recipe.schema import json_schema

    schema = json_schema(CATALOG)
    digits = next(each for each in schema["$defs"]["datasets"]["anyOf"] if each.get("properties", {}).get("name") == {"const": "digits"})
    assert {"classes", "max_images", "image_size"} <= digits["properties"].keys()
    stages = schema["properties"]["stages"]["additionalProperties"]["anyOf"]
    assert all({"data", "weights", "allow_missing"} <= stage["properties"].keys() for stage in stages)
    assert json.dumps(schema)
