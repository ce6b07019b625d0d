"""The recipes and weights that ship: each loads, would work on data of its size, says what it is, and is in the wheel."""

import hashlib
import math
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest
import tomli_w
import torch
from hatchling.builders.wheel import WheelBuilder
from torch import Tensor

from sslkit import Dataset, ImageSet, ImageSpec, OptionError, RecipeError, Split, load_backbone, load_recipe
from sslkit.data.cache import OpenedDataset
from sslkit.recipe.bundled import BundledRecipe, bundled_recipes, bundled_weights, find_recipe
from sslkit.recipe.stages import training_of
from sslkit.recipe.toml import copy_recipe, read_recipe
from sslkit.run.artifacts import read_weights
from sslkit.run.preflight import check
from tests.run.model_cards import FACTS, read_card

ROOT = Path(__file__).parents[2]
BUNDLED = bundled_recipes()
WEIGHTS = bundled_weights()
every_recipe = pytest.mark.parametrize("bundled", BUNDLED, ids=[recipe.name for recipe in BUNDLED])
every_weights = pytest.mark.parametrize("name", WEIGHTS)


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


class LabelsOfCifar(Dataset):
    """In place of data that is not here: as many labels as CIFAR-10 has, for images of the recipe's size."""

    def __init__(self, data: Dataset) -> None:
        self._data = data

    def image(self) -> ImageSpec:
        return self._data.image()

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
def test_each_loads_under_the_name_of_its_file_and_comes_back_equal(bundled, tmp_path):
    recipe = load_recipe(bundled.path)
    (tmp_path / "recipe.toml").write_text(tomli_w.dumps(dict(recipe.table)))
    assert load_recipe(tmp_path / "recipe.toml") == recipe
    assert recipe.name == bundled.name
    assert list(dict.fromkeys(stage.name for stage in recipe.stages)) == list(read_recipe(bundled.path)[0]["stages"])


@pytest.mark.parametrize("name", [recipe.name.removesuffix("_cpu") for recipe in BUNDLED if recipe.name.endswith("_cpu")])
def test_a_recipe_for_the_cpu_is_the_large_one_but_for_its_size(name):
    large, small = (load_recipe(ROOT / "recipes" / f"{name}{suffix}.toml") for suffix in ("", "_cpu"))
    assert (small.data, small.margins, small.paper) == (large.data, large.margins, {})
    pairs = {stage.name: stage for stage in large.stages}
    assert {stage.name for stage in small.stages} == pairs.keys()
    for stage in small.stages:
        method = [type(vars(one).get("evaluator") or vars(one).get("task")) for one in (stage, pairs[stage.name])]
        assert method[0] is method[1]
        assert stage.backbone.options["width"] == 0.25
        found = training_of(stage)
        assert found is None or (found[1].batch_size == 64 and found[1].epochs <= 5)


@every_recipe
def test_each_passes_every_check_that_needs_no_pixels(bundled):
    recipe = load_recipe(bundled.path)
    check(recipe, OpenedDataset(LabelsOfCifar(recipe.data)))


def test_the_check_could_fail():
    recipe = load_recipe(ROOT / "recipes" / "rotnet_cifar10.toml", ["stages.conv_probe.evaluator.layers=['conv7']"])
    with pytest.raises((RecipeError, OptionError), match=r"stages\.conv_probe\.evaluator\.layers: layer does not exist"):
        check(recipe, OpenedDataset(LabelsOfCifar(recipe.data)))


# ------------------------------------------------------------------------------------------------------------------ weights


def test_a_trained_backbone_ships():
    assert "rotnet_cifar10_cpu" in WEIGHTS


def test_weights_are_the_ones_of_the_repository_each_with_its_card():
    folder = ROOT / "recipes" / "weights"
    assert [path.resolve() for path in WEIGHTS.values()] == sorted(folder.glob("*.safetensors"))
    assert sorted(path.name for path in folder.iterdir()) == sorted(f"{name}{end}" for name in WEIGHTS for end in (".md", ".safetensors"))


@every_weights
def test_each_is_small_and_loads_by_its_name(name):
    assert WEIGHTS[name].stat().st_size <= 3_000_000
    backbone = load_backbone(name)
    image = backbone.image
    images = torch.randint(0, 256, (2, image.num_chs, image.height, image.width), dtype=torch.uint8)
    with torch.no_grad():
        assert all(torch.isfinite(backbone.embed(images, layer)).all() for layer in backbone.layer_names)


@every_weights
def test_each_has_a_card_that_says_everything_of_this_very_file(name):
    path = WEIGHTS[name]
    card, origin = read_card(path.with_suffix(".md")), read_weights(path).origin
    assert card.facts.keys() == FACTS
    assert all(card.facts.values())
    assert card.facts["SHA-256 of the file"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert card.facts["SHA-256 of the trained state"] == origin["sha256"]
    assert card.facts["File"] == f"{name}.safetensors, {path.stat().st_size:,} bytes"
    assert re.fullmatch(r"[0-9a-f]{7,40}", card.facts["Commit"]), "trained by sources that no commit has"
    assert "pretrain" in {stage for stage, _ in card.metrics}
    assert all(math.isfinite(value) for value in card.metrics.values())
    assert card.front["license"] == "apache-2.0"
    assert len(card.sections["Licence"]) > 100


@every_weights
def test_each_can_be_trained_again_from_its_card(name, tmp_path):
    path = WEIGHTS[name]
    (tmp_path / "again.toml").write_text(read_card(path.with_suffix(".md")).recipe, encoding="utf-8")
    recipe = load_recipe(tmp_path / "again.toml")
    pretraining, record = recipe.stages[-1], read_weights(path).backbone
    assert (pretraining.backbone.name, pretraining.backbone.options) == (record["class"], record["options"])


# ----------------------------------------------------------------------------------------------------------- finding, copying


def test_a_name_or_a_file_is_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").write_text("")
    assert find_recipe("quickstart").name == "quickstart.toml"
    assert find_recipe("mine") == Path("mine")
    assert find_recipe("not/there.toml") == Path("not/there.toml")  # reading it says that it is missing
    with pytest.raises(RecipeError, match=r"^quickstrt: no such file, and no bundled recipe .* did you mean 'quickstart'\?$"):
        find_recipe("quickstrt")


def test_a_folder_of_its_name_does_not_hide_a_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("quickstart", "photos"):
        (tmp_path / name).mkdir()
    assert find_recipe("quickstart").is_file()
    with pytest.raises(RecipeError, match=r"^photos: is a folder, and no bundled recipe of this name; allowed: "):
        find_recipe("photos")


@pytest.mark.parametrize("name", ["quickstart", "quickstart.toml"])
def test_copies_go_into_a_folder_or_a_new_file(tmp_path, name):
    source = (ROOT / "recipes" / "quickstart.toml").read_text().replace("sslkit run recipes/", "sslkit run ")
    assert copy_recipe(name, tmp_path) == tmp_path / "quickstart.toml"
    assert copy_recipe(name, tmp_path / "new" / "mine.toml") == tmp_path / "new" / "mine.toml"
    assert (tmp_path / "quickstart.toml").read_text() == source
    assert (tmp_path / "new" / "mine.toml").read_text() == re.sub(r"\bquickstart(?=\.toml|\"\n)", "mine", source)
    assert load_recipe(tmp_path / "new" / "mine.toml").name == "mine"


@pytest.mark.parametrize("recipe", bundled_recipes(), ids=lambda recipe: recipe.name)
def test_every_copy_has_the_name_of_its_file(tmp_path, recipe):
    copied = load_recipe(copy_recipe(recipe.name, tmp_path / "mine.toml"))
    assert copied.name == "mine"
    original = load_recipe(recipe.path)
    assert (copied.stages, copied.data, copied.paper, copied.margins) == (original.stages, original.data, original.paper, original.margins)
    text = (tmp_path / "mine.toml").read_text()
    assert text.startswith(f"# {recipe.summary}\n")
    assert "\nextends" not in text, "a copy holds what it extends"


def test_a_recipe_of_ones_own_is_copied(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.safetensors").write_bytes(b"")
    start = (ROOT / "recipes" / "quickstart.toml").read_text()
    Path("base.toml").write_text(
        f'{start}\n[stages.other]\nweights = "file:w.safetensors"\nevaluator = {{ name = "knn", layers = ["conv2"] }}\n'
    )
    Path("sub").mkdir()
    Path("sub/transfer.toml").write_text("# Mine\nextends = '../base.toml'\nname = 'any'  # of the run\nseed = 3\n")
    original = load_recipe("sub/transfer.toml")
    for target in ("copied.toml", "sub/copied.toml", "elsewhere/copied.toml"):
        assert copy_recipe("sub/transfer.toml", Path(target)) == Path(target)
        copied = load_recipe(target)
        assert (copied.name, copied.stages, copied.data) == ("copied", original.stages, original.data)
        assert Path(target).read_text().startswith("# Mine\n")
    assert copy_recipe("base.toml", Path("beside.toml")).read_text() == Path("base.toml").read_text().replace('"quickstart"', '"beside"')
    assert load_recipe(copy_recipe("base.toml", Path("sub"))).stages == load_recipe("base.toml").stages  # file:w.safetensors is found
    with pytest.raises(RecipeError, match=r"^gone\.toml: no such file, and no bundled recipe of this name; "):
        copy_recipe("gone.toml", Path("new.toml"))


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


def shipped() -> dict[str, bytes]:
    """The recipes, and the weights with their cards, by their paths below ``recipes``."""
    weights = [path.with_suffix(end) for path in WEIGHTS.values() for end in (".safetensors", ".md")]
    files = {recipe.path.name: recipe.path for recipe in BUNDLED} | {f"weights/{path.name}": path for path in weights}
    return {name: path.read_bytes() for name, path in files.items()}


def test_the_wheel_holds_recipes_weights_plugins_and_templates(tmp_path):
    wheel = next(WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"]))
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
        recipes = {name: file.read(name) for name in names if name.startswith("sslkit/_recipes/")}
    assert recipes == {f"sslkit/_recipes/{name}": content for name, content in shipped().items()}
    assert {"sslkit/cli/commands.py", "sslkit/testing/__init__.py", "sslkit_rotnet/task.py"} <= names
    templates = {path.relative_to(ROOT).as_posix() for path in (ROOT / "sslkit" / "report" / "templates").iterdir()}
    assert "sslkit/report/templates/page.html.jinja" in templates
    assert {"sslkit/run/model_card.md.jinja", "sslkit/data/digits.safetensors", "sslkit/data/digits.txt"} <= names
    assert templates <= names
    assert not [name for name in names if name.startswith(("tests/", "plugins/", "benchmarks/")) or name.endswith(".pyc")]
