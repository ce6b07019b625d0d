"""One recipe, several variants: which there are, which stages they share, and that a variant is what its recipe alone would be."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from sslkit import RecipeError, load_backbone, load_recipe, run_recipe
from sslkit.catalog.discovery import load_catalog
from sslkit.recipe.recipe import Recipe, parse_recipe
from sslkit.recipe.sweep import expand
from sslkit.storage.identity import state_hash
from tests.recipes import HEAD, SMALL, refusal

BASE = f"""{SMALL}
[stages.random_probe]
weights = "random"
evaluator = {{ name = "linear_probe", layers = ["conv1"], epochs = 1, batch_size = 500 }}
"""
CATALOG = load_catalog()


def parse(sweep: str, base: str = BASE) -> Recipe:
    return parse_recipe(tomllib.loads(base + sweep), CATALOG)


def keys(sweep: str) -> list[str]:
    return [stage.key for stage in parse(sweep).stages]


def refused(sweep: str) -> str:
    return refusal(RecipeError, parse, sweep)


# --------------------------------------------------------------------------------------------------------------- the variants


def variants(sweep: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {variant.name: variant.table for variant in expand({"seed": 0, "sweep": sweep})}


def test_without_a_sweep_the_recipe_is_its_only_variant():
    table = {"name": "x", "stages": {}}
    assert expand(table) == [((), table)]


def test_an_array_is_an_axis_and_axes_multiply():
    assert variants({"backbone.width": [0.5, 1], "seed": [3, 4]}) == {
        "width=0.5,seed=3": {"seed": 3, "backbone": {"width": 0.5}},
        "width=0.5,seed=4": {"seed": 4, "backbone": {"width": 0.5}},
        "width=1,seed=3": {"seed": 3, "backbone": {"width": 1}},
        "width=1,seed=4": {"seed": 4, "backbone": {"width": 1}},
    }


def test_tables_are_named_points_of_one_axis():
    found = variants({"a": {"x.y": [1, 2], "x.z": 3}, "b": {"x.y": []}, "seed": [1, 2]})
    assert list(found) == ["a,seed=1", "a,seed=2", "b,seed=1", "b,seed=2"]
    assert found["a,seed=2"] == {"seed": 2, "x": {"y": [1, 2], "z": 3}}


def test_axes_whose_last_words_are_equal_are_distinguished():
    assert list(variants({"a.epochs": [1], "b.epochs": [2], "precision": ["float32"], "compile": [True]})) == [
        "a.epochs=1,b.epochs=2,precision=float32,compile=true"
    ]


def test_variants_do_not_share_tables():
    one, two = (variant.table for variant in expand({"x": {"y": []}, "sweep": {"seed": [1, 2]}}))
    one["x"]["y"].append(1)
    assert two["x"]["y"] == []


# ------------------------------------------------------------------------------------------------------------- shared stages


def test_a_stage_is_named_after_the_axes_that_change_it():
    assert keys('[sweep]\n"stages.probe.evaluator.epochs" = [1, 2]') == ["pretrain", "epochs=1/probe", "random_probe", "epochs=2/probe"]


def test_what_changes_a_stage_changes_the_stages_after_it():
    recipe = parse('[sweep]\n"stages.pretrain.epochs" = [1, 2]')
    expected = ["epochs=1/pretrain", "epochs=1/probe", "random_probe", "epochs=2/pretrain", "epochs=2/probe"]
    assert [stage.key for stage in recipe.stages] == expected
    assert [recipe.stage(f"epochs={n}/probe").weights for n in (1, 2)] == ["epochs=1/pretrain", "epochs=2/pretrain"]


def test_a_grid_shares_along_each_axis():
    sweep = '[sweep]\n"backbone.num_blocks" = [3, 4]\n"stages.probe.evaluator.batch_size" = [600, 700]'
    found = keys(sweep)
    assert sorted(key for key in found if "pretrain" in key) == ["num_blocks=3/pretrain", "num_blocks=4/pretrain"]
    assert sorted(key for key in found if key.endswith("random_probe")) == ["num_blocks=3/random_probe", "num_blocks=4/random_probe"]
    assert len([key for key in found if key.endswith("/probe")]) == 4


def test_a_seed_is_an_axis_like_any_other():
    recipe = parse("[sweep]\nseed = [4, 5]")
    assert {stage.key: stage.seed for stage in recipe.stages if stage.name == "pretrain"} == {"seed=4/pretrain": 4, "seed=5/pretrain": 5}


def test_figures_name_a_stage_by_its_folder_also_where_it_has_dots():
    recipe = parse('[sweep]\n"backbone.width" = [0.05, 0.1]\n[paper]\n"width=0.05/probe.conv2.top1" = 90.0')
    assert recipe.paper == {"width=0.05/probe.conv2.top1": 90.0}
    message = refused('[sweep]\n"backbone.width" = [0.05, 0.1]\n[paper]\n"width=0.06/probe.conv2.top1" = 90.0')
    assert message.startswith("paper: not a metric of a stage; found 'width=0.06/probe.conv2.top1'")
    assert message.endswith("did you mean 'width=0.05/probe'?")


def test_variants_may_bring_all_stages():
    sweep = """[sweep]
    turned = { "stages.pretrain.task" = "rotnet" }
    measured = { "stages.knn" = { weights = "random", evaluator = { name = "knn", layers = ["conv2"] } } }
    """
    assert [stage.key for stage in parse(sweep, HEAD).stages] == ["turned/pretrain", "measured/knn"]


def test_each_variants_recipe_is_resolved():
    recipe = parse('[sweep]\n"backbone.num_blocks" = [3, 4]')
    for number in (3, 4):
        table = recipe.variants[f"num_blocks={number}"]
        assert table["stages"]["pretrain"]["backbone"]["num_blocks"] == number
        assert "sweep" not in table
        assert [stage.name for stage in parse_recipe(table, CATALOG).stages] == ["pretrain", "probe", "random_probe"]


# --------------------------------------------------------------------------------------------------------------- what is wrong


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ("[sweep]\n", "sweep: must be a table; found {}"),
        ('[sweep]\n"backbone.width" = 1', 'sweep."backbone.width": must be an array of values; found 1'),
        ('[sweep]\n"backbone.width" = []', 'sweep."backbone.width": must be an array of values; found []'),
        ('[sweep]\n"backbone.width" = [1, 1]', 'sweep."backbone.width": has a value twice; found [1, 1]'),
        ('[sweep]\n"stages.pretrain.task.angles" = [[0, 90]]', 'sweep."stages.pretrain.task.angles": this value cannot name a folder'),
        ('[sweep]\n"backbone.name" = ["../up"]', "sweep.\"backbone.name\": this value cannot name a folder; found '../up'"),
        ('[sweep]\n"a b" = { seed = 1 }', "sweep: 'a b' cannot name a variant"),
        ('[sweep]\n"../a" = { seed = 1 }', "sweep: '../a' cannot name a variant"),
        ('[sweep]\n"data.name" = ["digits"]', "sweep: data is the same in all variants; found 'data.name'"),
        ('[sweep]\na = { name = "x" }', "sweep.a: name is the same in all variants; found 'name'"),
        ("[sweep.a]\nstages.pretrain.epochs = 1", "sweep.a: write the whole key in quotes; found 'stages'"),
        ('[sweep]\na = { "name.x" = 1 }', "sweep.a: name is the same in all variants"),
        ('[sweep]\na = { "stages.pretrain.epochs.x" = 1 }', "sweep.a: stages.pretrain.epochs is not a table; found 1"),
    ],
)
def test_a_wrong_sweep_is_refused_in_one_line(sweep: str, message: str):
    assert refused(sweep).startswith(message)


def test_a_sweep_that_is_no_table_is_refused():
    with pytest.raises(RecipeError, match="sweep: must be a table; found 3"):
        parse_recipe({**tomllib.loads(BASE), "sweep": 3}, CATALOG)


def test_a_key_that_no_recipe_has_is_refused_in_a_variant_too():
    message = refused("[sweep]\nsettings.fast = {}")
    assert message.startswith("fast: unknown key; allowed: name, seed, ")
    assert message.endswith("(in the sweep's variant settings)")


def test_what_is_wrong_in_a_variant_says_where_and_in_which():
    message = refused('[sweep]\n"stages.pretrain.epochs" = [1, 0]')
    assert message == "stages.pretrain.epochs: must be positive; found 0; allowed: 1 or more (in the sweep's variant epochs=0)"


# ------------------------------------------------------------------------------------------------------------------ a real run


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("swept")
    path = folder / "recipe.toml"
    path.write_text(BASE + '[sweep]\n"backbone.num_blocks" = [3, 4]\n"stages.probe.evaluator.epochs" = [1, 2]\n')
    return run_recipe(load_recipe(path), output=folder / "run", report=False).folder


def test_every_stage_has_its_folder_and_its_results(swept: Path):
    results = json.loads((swept / "results.json").read_text())["stages"]
    assert set(results) == {
        *(f"num_blocks={n}/{stage}" for n in (3, 4) for stage in ("pretrain", "random_probe")),
        *(f"num_blocks={n},epochs={e}/probe" for n in (3, 4) for e in (1, 2)),
    }
    assert all((swept / key / "artifact.json").exists() for key in results)
    assert len(list((swept / "variants").glob("*.toml"))) == 4


def test_a_variant_has_the_bits_of_a_recipe_of_its_own(swept: Path, tmp_path: Path):
    path = tmp_path / "alone.toml"
    path.write_text(BASE)
    overrides = ["backbone.num_blocks=4", "stages.probe.evaluator.epochs=2"]
    alone = run_recipe(load_recipe(path, overrides), output=tmp_path / "alone", report=False)
    results = json.loads((swept / "results.json").read_text())["stages"]
    assert alone.results.stages["probe"] == results["num_blocks=4,epochs=2/probe"]
    assert state_hash(load_backbone(alone.folder)) == state_hash(load_backbone(swept / "num_blocks=4" / "pretrain"))


def test_a_variants_resolved_recipe_runs_to_the_same_figures(swept: Path, tmp_path: Path):
    again = run_recipe(load_recipe(swept / "variants" / "num_blocks=3,epochs=1.toml"), output=tmp_path / "again", report=False)
    results = json.loads((swept / "results.json").read_text())["stages"]
    assert again.results.stages["probe"] == results["num_blocks=3,epochs=1/probe"]


def test_a_second_start_repeats_nothing_and_the_written_recipe_is_the_run(swept: Path):
    before = (swept / "results.json").read_bytes()
    stamps = {path: path.stat().st_mtime_ns for path in swept.glob("**/artifact.json")}
    run_recipe(load_recipe(swept / "recipe.toml"), output=swept, report=False)
    assert {path: path.stat().st_mtime_ns for path in swept.glob("**/artifact.json")} == stamps
    assert (swept / "results.json").read_bytes() == before
