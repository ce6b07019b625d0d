"""What the documents say is so: their recipes load, their tables hold every option with its default, their code runs."""

import ast
import dataclasses
import importlib
import re
import sys
import tomllib
from inspect import Parameter
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from PIL import Image

import sslkit
from sslkit import Augment, Catalog, OptimizerFactory, Schedule, TrainingOptions, load_catalog
from sslkit.audit.sources import SOURCES
from sslkit.audit.task_audit import BATCH_SIZE, MEASURED_IMAGES, AuditOptions
from sslkit.catalog.catalog import KINDS
from sslkit.contract.runtime import Runtime
from sslkit.recipe.build import REQUIRED, build, options_of
from sslkit.recipe.recipe import parse_recipe
from sslkit.recipe.toml import read_recipe
from sslkit.views.presets import PRESETS
from sslkit.views.view import OPTIONS, View

pytestmark = pytest.mark.docs

ROOT = Path(__file__).parents[2]
DOCUMENTS = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))
}
CATALOG = load_catalog()
SECTIONS = {
    "Optimizers": "optimizers",
    "Schedules": "schedules",
    "Data": "datasets",
    "Backbones": "backbones",
    "Pretext tasks": "pretext_tasks",
    "Evaluators": "evaluators",
}
"""Headings in docs/recipes.md with a table of the options of all classes of a kind."""


class Row(NamedTuple):
    """One option in a table; ``of`` is empty where the table is about one class."""

    option: str
    of: tuple[str, ...]
    default: str


def blocks(document: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", DOCUMENTS[document], flags=re.MULTILINE | re.DOTALL)


def section(heading: str) -> str:
    return re.split(r"^#+ ", DOCUMENTS["docs/recipes.md"].split(f"# {heading}\n")[1], maxsplit=1, flags=re.MULTILINE)[0]


def rows(heading: str) -> list[Row]:
    """The first table under a heading whose first column is ``option`` or ``key``."""
    lines = [line.strip("|").split("|") for line in section(heading).splitlines() if line.startswith(("| `", "| option"))]
    columns = [name.strip() for name in lines[0]]
    found = []
    for line in lines[1:]:
        cells = dict(zip(columns, (cell.strip() for cell in line), strict=False))
        if len(line) == len(columns):
            found.append(Row(cells["option"].strip("`"), tuple(re.findall(r"`(\w+)`", cells.get("of", ""))), cells["default"]))
    return found


def first_party(kind: str) -> dict[str, type]:
    """What this distribution offers: other installed plugins have documents of their own."""
    offers = [
        offer for offer in CATALOG.offers if offer.kind == kind and offer.plugin is not None and offer.plugin.distribution == "sslkit"
    ]
    return {offer.name: offer.cls for offer in offers}


def assert_default(text: str, option: Parameter) -> None:
    """A default in TOML, in backticks; in words where it is None."""
    if option.default is REQUIRED:
        assert text == "required"
    elif option.default is None:
        assert text
        assert not text.startswith("`")
    else:
        value = tomllib.loads(f"value = {text.removeprefix('`').removesuffix('`')}")["value"]
        assert type(value) is type(plain(option.default, value))
        assert value == plain(option.default, value)


def plain(default: Any, like: object) -> Any:
    """A default as a recipe would write it."""
    if dataclasses.is_dataclass(default):
        kind = next((base for base in (OptimizerFactory, Schedule) if isinstance(default, base)), type(default))
        assert build(kind, like, "x", CATALOG) == default
        return like
    return list(default) if isinstance(default, tuple) else default


@pytest.mark.parametrize(("heading", "kind"), SECTIONS.items())
def test_every_option_of_every_class_is_in_the_tables_with_its_default(heading, kind):
    documented = {(name, row.option): row.default for row in rows(heading) for name in row.of}
    expected = {
        (name, option.name): option
        for name, cls in first_party(kind).items()
        for option in options_of(cls).values()
        if not (issubclass(cls, TrainingOptions) and option.name in options_of(TrainingOptions))
    }
    assert documented.keys() == expected.keys()
    for key, option in expected.items():
        assert_default(documented[key], option)


@pytest.mark.parametrize(("heading", "cls"), [("Training", TrainingOptions), ("Augmentation", Augment), ("Machine", Runtime)])
def test_options_that_stages_share_are_in_the_tables_with_their_defaults(heading, cls):
    documented = {row.option: row.default for row in rows(heading)}
    assert documented.keys() == options_of(cls).keys()
    for option in options_of(cls).values():
        assert_default(documented[option.name], option)


def test_every_function_of_a_view_and_every_preset_is_in_the_tables():
    documented = {(function, row.option): row.default for row in rows("Views") for function in row.of}
    expected = {(name, option.name): option for name, options in OPTIONS.items() for option in options_of(options).values()}
    assert documented.keys() == expected.keys()
    for key, option in expected.items():
        assert_default(documented[key], option)
    sizes = {}
    for names, pixels in re.findall(r"^\| (`.*?`) \| (\d+) \|", section("Presets"), flags=re.MULTILINE):
        sizes |= dict.fromkeys(re.findall(r"`(\w+)`", names), int(pixels))
    image = sslkit.ImageSpec(300, 300, "rgb", (0.5,) * 3, (0.25,) * 3)
    assert sizes == {name: View(name).image_spec(image).height for name in PRESETS}


def test_the_documented_views_are_views():
    (block,) = [block for block in blocks("docs/recipes.md", "toml") if block.startswith("view = ")]
    views = {key: build(View, value, key, CATALOG) for key, value in tomllib.loads(block).items()}
    assert views["same"] == View("simclr_cifar")
    assert views["calm"].functions == ("random_resized_crop", "horizontal_flip", "color_jitter", "grayscale", "solarize")


def test_the_documented_protocol_runs_on_a_small_folder(tmp_path, monkeypatch):
    (block,) = [block for block in blocks("docs/recipes.md", "toml") if "imagenet_linear" in block]
    pixels = torch.randint(0, 256, (12, 280, 300, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)).numpy()
    for index, image in enumerate(pixels):
        folder = tmp_path / "imagenet" / ("train" if index < 8 else "val") / "ab"[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{index}.png")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.toml").write_text(block)
    smaller = ["epochs=1", "batch_size=4", 'layers=["layer4"]']
    smaller = [f"stages.linear.evaluator.{setting}" for setting in smaller]
    smaller += ['backbone={ name = "timm", model = "test_resnet" }', "device=cpu", "num_workers=0"]
    recipe = sslkit.load_recipe(tmp_path / "small.toml", smaller)
    assert set(sslkit.run_recipe(recipe, output=tmp_path / "run").results.stages["linear"]) == {"layer4.top1"}


def test_every_key_of_a_recipe_is_in_the_tables():
    for heading, refused in {
        "Top level": {"x": 1},
        "Stages": {"name": "x", "data": "digits", "stages": {"x": {"evaluator": "knn", "x": 1}}},
    }.items():
        with pytest.raises(sslkit.RecipeError) as caught:
            parse_recipe(refused, CATALOG)
        allowed = re.split("; allowed: ", str(caught.value))[1].split(", ")
        keys = set(re.findall(r"^\| `(\w+)`", section(heading), flags=re.MULTILINE))
        assert set(allowed) - options_of(Runtime).keys() <= keys
    assert {"task", "evaluate_every"} <= set(re.findall(r"^\| `(\w+)`", section("Stages"), flags=re.MULTILINE))


def test_the_audits_document_holds_every_source_and_default():
    text = DOCUMENTS["docs/audit.md"]
    assert re.findall(r"^\| `(\w+)` \|", text, flags=re.MULTILINE) == list(SOURCES)
    default = AuditOptions()
    assert f"makes `--num-images` images to train on ({default.num_images})" in text
    assert f"for `--epochs` passes ({default.epochs})" in text
    assert f"`--seed` ({default.seed}) decides all randomness" in text
    assert f"batches of {BATCH_SIZE} images" in text
    assert f"at most {MEASURED_IMAGES} images" in text


def test_every_hook_and_variable_is_named_for_authors():
    text = DOCUMENTS["docs/plugins.md"]
    assert [kind for kind in KINDS if kind not in text] == []
    used = {name for path in (ROOT / "sslkit").rglob("*.py") for name in re.findall(r'"(SSLKIT_\w+)"', path.read_text(encoding="utf-8"))}
    expected = {"ALLOW_PLUGINS", "COMMIT", "DATA", "DISABLE_PLUGINS", "STRICT_PLUGINS"}
    assert used == {f"SSLKIT_{name}" for name in expected}
    assert [name for name in used if f"| `{name}` |" not in text] == []


def test_links_lead_somewhere():
    for document, text in DOCUMENTS.items():
        for target in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
            path, _, anchor = target.partition("#")
            linked = (ROOT / document).parent / path if path else ROOT / document
            assert linked.exists(), f"{document}: {target}"
            if anchor:
                headings = re.findall(r"^#+ (.+)$", linked.read_text(encoding="utf-8"), flags=re.MULTILINE)
                assert anchor in [heading.lower().replace(" ", "-").replace(",", "") for heading in headings], f"{document}: {target}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_toml_parses_and_whole_recipes_load(document, documented_plugin, tmp_path):
    offered = {kind: {name: CATALOG.find(kind, name) for name in CATALOG.names(kind)} for kind in KINDS}
    for kind in ("pretext_tasks", "backbones", "evaluators"):
        offered[kind] |= getattr(documented_plugin, kind)()
    for block in blocks(document, "toml"):
        if "stages" in tomllib.loads(block):
            (tmp_path / "documented.toml").write_text(block)
            parse_recipe(read_recipe(tmp_path / "documented.toml")[0], Catalog.of(**offered))


def test_there_are_recipes_to_load():
    recipes = [block for document in DOCUMENTS for block in blocks(document, "toml") if "[stages." in block]
    assert len(recipes) >= 3


@pytest.fixture(scope="module")
def documented_plugin(tmp_path_factory: pytest.TempPathFactory):
    """The code of docs/plugins.md as one module."""
    folder = tmp_path_factory.mktemp("plugin")
    (folder / "sslkit_mirrored.py").write_text("\n\n".join(blocks("docs/plugins.md", "python")))
    sys.path.insert(0, str(folder))
    try:
        yield importlib.import_module("sslkit_mirrored")
    finally:
        sys.path.remove(str(folder))
        del sys.modules["sslkit_mirrored"]


def test_the_documented_plugin_passes_its_own_tests(documented_plugin):
    tests = [test for name, test in vars(documented_plugin).items() if name.startswith("test_")]
    assert len(tests) == 4
    for test in tests:
        test()


def test_the_documented_plugin_runs_as_a_recipe(documented_plugin, tmp_path):
    recipe = blocks("docs/plugins.md", "toml")[-1]
    for name in ("mirrored", "strided", "nearest_mean"):
        cls = {**documented_plugin.pretext_tasks(), **documented_plugin.backbones(), **documented_plugin.evaluators()}[name]
        recipe = recipe.replace(f'name = "{name}"', f'name = "sslkit_mirrored:{cls.__name__}"')
    recipe = recipe.replace('name = "sslkit_mirrored:Mirrored"', 'name = "mirrored"', 1).replace("epochs = 5", "epochs = 1")
    (tmp_path / "mirrored.toml").write_text(recipe)
    run = sslkit.run_recipe(
        sslkit.load_recipe(tmp_path / "mirrored.toml", ["device=cpu"], allow_code=True), output=tmp_path / "run", report=False
    )
    assert 0 < run.results.stages["nearest_mean"]["layer2.top1"] <= 100


def test_the_documented_data_set_is_what_the_contract_says(documented_plugin):
    data = documented_plugin.StripesData(num_images=20)
    backbone = documented_plugin.Strided(data.image())
    metrics = sslkit.evaluate(sslkit.KNN(layers=backbone.layer_names, k=1), backbone, data).metrics
    assert set(metrics.values()) == {100.0}


def test_python_in_the_readme_compiles():
    assert len(blocks("README.md", "python")) == 2
    for block in blocks("README.md", "python"):
        ast.parse(block)


def test_the_readmes_own_network_runs(capsys):
    """With a handful of images where the reader has their own."""
    code = next(block for block in blocks("README.md", "python") if "class MyNet" in block)
    images = torch.randint(0, 256, (128, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(128) % 2
    names: dict[str, Any] = {"images": images, "labels": labels, "test_images": images[:32], "test_labels": labels[:32]}
    exec(compile(code, "README.md", "exec"), {"__name__": "__main__", **names})
    assert 0 <= float(capsys.readouterr().out) <= 100


def test_the_readmes_python_api_is_there():
    code = next(block for block in blocks("README.md", "python") if "load_recipe" in block)
    used = {node.attr for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "sslkit"}
    assert {"load_recipe", "run_recipe", "load_backbone"} <= used <= set(sslkit.__all__)
    stages = tomllib.loads((ROOT / "recipes" / "quickstart.toml").read_text(encoding="utf-8"))["stages"]
    assert "rotnet_probe" in stages
    assert "conv2" in stages["rotnet_probe"]["evaluator"]["layers"]
