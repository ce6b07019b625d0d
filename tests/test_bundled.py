"""The recipes that ship: each loads, would work on data of its size, says what it is, and is in the wheel."""

import tomllib
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hatchling.builders.wheel import WheelBuilder
from torch import Tensor

from sslkit import ImageSet, ImageSpec, OptionError, RecipeError, Split, load_recipe
from sslkit.bundled import BundledRecipe, bundled_recipes, copy_recipe, find_recipe
from sslkit.data.opened import OpenedDataset
from sslkit.preflight import check

ROOT = Path(__file__).parents[1]
BUNDLED = bundled_recipes()
every_recipe = pytest.mark.parametrize("bundled", BUNDLED, ids=[recipe.name for recipe in BUNDLED])


class Labels(ImageSet):
    """Ten classes of equal size, and no images."""

    def __init__(self, image: ImageSpec, num_images: int) -> None:
        self.image = image
        self.labels = torch.arange(num_images) % 10
        self.classes = tuple("0123456789")
        self.fingerprint = "labels"

    def __len__(self) -> int:
        assert self.labels is not None
        return len(self.labels)

    def read(self, indices: Sequence[int]) -> Tensor:
        raise AssertionError("a check reads no images")


class LabelsOfCifar(OpenedDataset):
    """In place of data that is not here: as many labels as CIFAR-10 has, for images of the recipe's size."""

    def load(self, split: Split) -> ImageSet:
        return Labels(self.image(), 10_000 if split == "test" else 50_000)


def text_of(bundled: BundledRecipe) -> str:
    return bundled.path.read_text(encoding="utf-8")


# ------------------------------------------------------------------------------------------------------------ their content


def test_they_are_the_ones_of_the_repository():
    assert [recipe.path.resolve() for recipe in BUNDLED] == sorted((ROOT / "recipes").glob("*.toml"))
    assert "quickstart" in [recipe.name for recipe in BUNDLED]


@every_recipe
def test_each_says_what_it_is_and_how_to_run_it(bundled):
    assert text_of(bundled).splitlines()[0] == f"# {bundled.summary}"
    assert 20 < len(bundled.summary) < 140
    assert f"#   sslkit run recipes/{bundled.name}.toml" in text_of(bundled)


@every_recipe
def test_each_loads_under_the_name_of_its_file(bundled):
    recipe = load_recipe(bundled.path)
    assert recipe.name == bundled.name
    assert list(dict.fromkeys(stage.name for stage in recipe.stages)) == list(tomllib.loads(text_of(bundled))["stages"])


@every_recipe
def test_each_passes_every_check_that_needs_no_pixels(bundled):
    recipe = load_recipe(bundled.path)
    check(recipe, LabelsOfCifar(recipe.data))


def test_the_check_could_fail():
    recipe = load_recipe(ROOT / "recipes" / "rotnet_cifar10.toml", ["stages.conv_probe.evaluator.layers=['conv7']"])
    with pytest.raises((RecipeError, OptionError), match=r"stages\.conv_probe\.evaluator\.layers: layer does not exist"):
        check(recipe, LabelsOfCifar(recipe.data))


# ----------------------------------------------------------------------------------------------------------- finding, copying


def test_a_name_or_a_file_is_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").write_text("")
    assert find_recipe("quickstart").name == "quickstart.toml"
    assert find_recipe("mine") == Path("mine")
    assert find_recipe("not/there.toml") == Path("not/there.toml")  # reading it says that it is missing
    with pytest.raises(RecipeError, match=r"^quickstrt: no such file, and no bundled recipe .* did you mean 'quickstart'\?$"):
        find_recipe("quickstrt")


@pytest.mark.parametrize("name", ["quickstart", "quickstart.toml"])
def test_copies_go_into_a_folder_or_a_new_file(tmp_path, name):
    source = (ROOT / "recipes" / "quickstart.toml").read_bytes()
    assert copy_recipe(name, tmp_path) == tmp_path / "quickstart.toml"
    assert copy_recipe(name, tmp_path / "new" / "mine.toml") == tmp_path / "new" / "mine.toml"
    assert (tmp_path / "quickstart.toml").read_bytes() == (tmp_path / "new" / "mine.toml").read_bytes() == source


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "quickstart.toml").write_text("mine")
    with pytest.raises(RecipeError, match=r"quickstart\.toml: exists already; name another file, or remove it$"):
        copy_recipe("quickstart", tmp_path)
    assert (tmp_path / "quickstart.toml").read_text() == "mine"


def test_what_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RecipeError, match=r"mine\.toml: cannot be written \(.+\); name another file$"):
        copy_recipe("quickstart", tmp_path / "file" / "mine.toml")


def test_an_unknown_recipe_is_not_copied(tmp_path):
    with pytest.raises(RecipeError, match=r"^nope: no such file, and no bundled recipe of this name; allowed: .*quickstart, "):
        copy_recipe("nope", tmp_path)


# ----------------------------------------------------------------------------------------------------------------- the wheel


def test_the_wheel_holds_recipes_plugins_and_the_reports_template(tmp_path):
    wheel = next(WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"]))
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
        recipes = {name: file.read(name) for name in names if name.startswith("sslkit/_recipes/")}
    assert recipes == {f"sslkit/_recipes/{recipe.path.name}": recipe.path.read_bytes() for recipe in BUNDLED}
    assert {"sslkit/cli.py", "sslkit/testing/__init__.py", "sslkit_rotnet/task.py"} <= names
    templates = {path.relative_to(ROOT).as_posix() for path in (ROOT / "sslkit" / "report" / "templates").iterdir()}
    assert "sslkit/report/templates/page.html.jinja" in templates
    assert templates <= names
    assert not [name for name in names if name.startswith(("tests/", "plugins/", "benchmarks/")) or name.endswith(".pyc")]
