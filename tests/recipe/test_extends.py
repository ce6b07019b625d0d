"""A recipe that takes another one and changes keys of it."""

import re
from pathlib import Path

import pytest

from sslkit import RecipeError, load_recipe
from sslkit.recipe.toml import read_recipe
from tests.recipes import refusal

BASE = """
name = "base"
data = "digits"
[backbone]
name = "nin"
num_blocks = 3
[stages.pretrain]
task = { name = "rotnet", angles = [0, 90, 180, 270] }
schedule = { name = "step", milestones = [1, 2], gamma = 0.2 }
epochs = 3
[stages.probe]
weights = "pretrain"
evaluator = { name = "knn", layers = ["conv2"] }
[paper]
"probe.conv2.top1" = 90
"""


def write(folder: Path, **texts: str) -> Path:
    """The recipe ``mine.toml`` beside ``base.toml``, and others."""
    for name, text in {"base": BASE, **texts}.items():
        (folder / f"{name}.toml").write_text(text)
    return folder / "mine.toml"


def refused(path: Path, *overrides: str) -> str:
    return refusal(RecipeError, load_recipe, path, overrides).replace(f"{path.parent}/", "")


def test_tables_are_merged_and_the_rest_is_replaced(tmp_path: Path):
    text = """
    name = "mine"
    extends = "base.toml"
    without = ["paper"]
    seed = 3
    backbone = { num_blocks = 4 }
    stages.pretrain.task.angles = [0, 180]
    stages.pretrain.schedule = { name = "cosine", warmup_epochs = 1 }
    stages.baseline = { weights = "random", evaluator = { name = "knn", layers = ["conv1"] } }
    """
    path = write(tmp_path, mine=text)
    table, files = read_recipe(path)
    assert table == {
        "name": "mine",
        "data": "digits",
        "backbone": {"name": "nin", "num_blocks": 4},
        "stages": {
            "pretrain": {"task": {"name": "rotnet", "angles": [0, 180]}, "schedule": {"name": "cosine", "warmup_epochs": 1}, "epochs": 3},
            "probe": {"weights": "pretrain", "evaluator": {"name": "knn", "layers": ["conv2"]}},
            "baseline": {"weights": "random", "evaluator": {"name": "knn", "layers": ["conv1"]}},
        },
        "seed": 3,
    }
    assert [file.name for file in files] == ["mine.toml", "base.toml"]
    recipe = load_recipe(path, ["stages.pretrain.epochs=5", "stages.pretrain.task.angles=[0, 90]"])
    assert [stage.key for stage in recipe.stages] == ["pretrain", "probe", "baseline"]
    assert recipe.table["stages"]["pretrain"]["epochs"] == 5
    assert not {"extends", "without"} & recipe.table.keys()


def test_it_goes_on_through_folders_and_to_bundled_recipes(tmp_path: Path):
    (tmp_path / "deep").mkdir()
    write(tmp_path, middle='extends = "base.toml"\nname = "middle"\nseed = 1\nstages.pretrain.epochs = 1')
    (tmp_path / "deep" / "mine.toml").write_text(
        'extends = "../middle.toml"\nname = "mine"\nsweep = { seed = [1, 2] }\nwithout = ["paper"]'
    )
    recipe = load_recipe(tmp_path / "deep" / "mine.toml")
    assert [stage.key for stage in recipe.stages] == ["seed=1/pretrain", "seed=1/probe", "seed=2/pretrain", "seed=2/probe"]
    (tmp_path / "mine.toml").write_text('extends = "quickstart"\nname = "mine"')
    assert load_recipe(tmp_path / "mine.toml").stages == load_recipe("recipes/quickstart.toml").stages


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("extends = 3", "extends: must be a string; found 3; allowed: the name of a bundled recipe, or the path of a file"),
        ('extends = ""', "extends: must be a string; found ''; allowed: the name of a bundled recipe, or the path of a file"),
        ('extends = "none.toml"', "extends: none.toml: no such file; `sslkit recipes` lists the bundled ones"),
        ('extends = "a\\u0000.toml"', "extends: "),
        ('extends = "quickstrt"', "extends: quickstrt: no such file, and no bundled recipe of this name; allowed: "),
        ('extends = "mine.toml"', "extends: goes in a circle; found 'mine.toml -> mine.toml'"),
        ('extends = "other.toml"', "extends: goes in a circle; found 'mine.toml -> other.toml -> mine.toml'"),
        ('extends = "third.toml"', "extends: none.toml: no such file; `sslkit recipes` lists the bundled ones (in third.toml)"),
        ('extends = "base.toml"', "name: missing; required"),
        ('without = ["paper"]', "without: is for a recipe that extends another; found ['paper']; add extends = \"...\""),
        ('extends = "base.toml"\nwithout = "paper"', "without: must be an array of keys; found 'paper'; allowed: [\"paper\", "),
        (
            'extends = "base.toml"\nwithout = ["papr"]',
            "without: no such key in the recipe that is extended; found 'papr'; did you mean 'paper'?",
        ),
        ('extends = "base.toml"\nname = "x"\nstages.pretrain.epoch = 1', "stages.pretrain.epoch: unknown key; allowed: "),
        ('extends = "base.toml"\nname = "x"\nstages.pretrain = 3', "stages.pretrain: must be a table; found 3"),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, message: str):
    path = write(tmp_path, mine=text, other='extends = "mine.toml"', third='extends = "none.toml"')
    found = refused(path)
    assert found.startswith(message)
    assert "(in base.toml)" not in found


def test_the_file_of_a_wrong_key_is_named(tmp_path: Path):
    path = write(tmp_path, mine='extends = "base.toml"\nname = "mine"\nbackbone = { num_blocks = 5 }', base=f"{BASE}\n[data2]\nx = 1")
    assert refused(path).endswith(" (in base.toml)")
    write(tmp_path, base=BASE.replace("angles = [0, 90, 180, 270]", 'angles = [0, "90"]'))
    assert refused(path) == "stages.pretrain.task.angles[1]: must be a number; found '90' (in base.toml)"
    assert refused(path, "stages.pretrain.task.angles=['0']") == "stages.pretrain.task.angles[0]: must be a number; found '0'"


def test_only_a_file_extends(tmp_path: Path):
    path = write(tmp_path, mine=re.sub('"base"', '"mine"', BASE))
    assert refused(path, "extends=quickstart") == "extends: is for a recipe's file; found 'quickstart'; load_recipe reads files"


def test_options_go_into_a_class_that_is_given_by_name_alone(tmp_path: Path):
    path = write(tmp_path, mine='extends = "base.toml"\nname = "mine"\ndata = { image_size = 16 }\nstages.probe.evaluator = { k = 3 }')
    bare = BASE.replace('{ name = "rotnet", angles = [0, 90, 180, 270] }', '"rotnet"')
    (tmp_path / "base.toml").write_text(bare)
    table, _ = read_recipe(path)
    assert table["data"] == {"name": "digits", "image_size": 16}
    recipe = load_recipe(path, ["stages.pretrain.task.angles=[0, 180]", "data.max_images=50"])
    assert recipe.table["stages"]["pretrain"]["task"]["angles"] == [0.0, 180.0]
    assert recipe.table["data"] == {"name": "digits", "image_size": 16, "max_images": 50}
    swept = tmp_path / "swept.toml"
    swept.write_text(f'{bare}[sweep]\nhalf = {{ "stages.pretrain.task.angles" = [0, 180] }}\n')
    assert load_recipe(swept).stages[0].key == "pretrain"
