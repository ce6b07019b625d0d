"""Views in recipes: presets by name, tables of functions, lists of views; and back."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import pytest
import tomli_w

from sslkit import OptionError, PretextTask, RecipeError, load_recipe
from sslkit.catalog.catalog import Catalog
from sslkit.contract.checks import Checked
from sslkit.recipe.build import build
from sslkit.recipe.describe import describe
from sslkit.recipe.schema import json_schema
from sslkit.recipe.toml import parse_table
from sslkit.storage.identity import differences, plain
from sslkit.views.presets import PRESETS
from sslkit.views.view import OPTIONS, View
from tests.recipes import HEAD, refusal
from tests.views.test_view import EVERY_FUNCTION


@final
@dataclass(frozen=True, kw_only=True)
class Options(Checked):
    """What tasks declare: one view, two that may differ, large and small crops."""

    view: View = View("simclr_cifar")
    other: View | None = None
    pair: View | tuple[View, View] = View("byol_1")
    large: tuple[View, ...] = (View("dino_global"), View("dino_global_2"))
    num_small: int = 8


CATALOG = Catalog.of()


def built(toml: str) -> Options:
    return build(Options, parse_table(toml, "text"), "task", CATALOG)


def test_a_table_of_every_function_in_its_order():
    for names in (list(EVERY_FUNCTION), list(EVERY_FUNCTION)[::-1]):
        options = built(tomli_w.dumps({"view": {name: EVERY_FUNCTION[name] for name in names}}))
        assert options.view == View(**{name: EVERY_FUNCTION[name] for name in names})
        assert options.view.functions == tuple(names)


@pytest.mark.parametrize(
    ("toml", "expected"),
    [
        ("", Options()),
        ('view = "mae"', Options(view=View("mae"))),
        ("view = { random_resized_crop = { size = 32, scale = [0.2, 1] }, horizontal_flip = {} }",
         Options(view=View(random_resized_crop={"size": 32, "scale": (0.2, 1.0)}, horizontal_flip={}))),
        ('other = { name = "simclr", size = [32, 48] }', Options(other=View("simclr", size=(32, 48)))),
        ('other = { gaussian_blur = false, name = "simclr", color_jitter = { hue = 0 }, solarize = {} }',
         Options(other=View("simclr", color_jitter={"hue": 0.0}, gaussian_blur=False, solarize={}))),
        ('pair = "byol_2"', Options(pair=View("byol_2"))),
        ('pair = ["byol_1", { name = "byol_2", size = 32 }]', Options(pair=(View("byol_1"), View("byol_2", size=32)))),
        ("large = []\nnum_small = 2", Options(large=(), num_small=2)),
    ],
)  # fmt: skip
def test_what_is_written_is_what_is_built_and_described(toml: str, expected: Options):
    options = built(toml)
    assert options == expected
    assert plain(options) == plain(expected)  # to the type of each number: a fingerprint is of their text
    written = tomli_w.dumps(describe(options, CATALOG))
    assert "name" not in written  # a preset of the same name may have other numbers one day
    again = built(written)
    assert again == options
    assert plain(again) == plain(options)


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("view = 3", "task.view: must be a view (a preset's name, or a table of functions); found 3"),
        ("view = []", "task.view: must be a view (a preset's name, or a table of functions); found []"),
        ("pair = 3", "task.pair: must be a view (a preset's name, or a table of functions) or an array of 2 views; found 3"),
        ('pair = ["mae"]', "task.pair: must be an array of 2 views; found ['mae']"),
        ('large = "mae"', "task.large: must be an array of views; found 'mae'; write [\"mae\"]"),
        ('view = "simclrr"', f"task.view: no such preset; found 'simclrr'; allowed: {', '.join(PRESETS)}; did you mean 'simclr'?"),
        ('large = ["mae", { name = "mea" }]', f"task.large[1].name: no such preset; found 'mea'; allowed: {', '.join(PRESETS)}; did you mean 'mae'?"),
        ("view = { name = 3 }", f"task.view.name: no such preset; found 3; allowed: {', '.join(PRESETS)}"),
        ("view = { color_jiter = {} }", "task.view.color_jiter: unknown function; did you mean 'color_jitter'?"),
        ("view = { multi_crop = {} }", f"task.view.multi_crop: unknown function; allowed: {', '.join(OPTIONS)}"),
        ("view = { grayscale = 0.1 }", "task.view.grayscale: must be a table of its options; found 0.1; allowed: {} for the defaults"),
        ("view = { grayscale = { p = 0.1 } }", "task.view.grayscale.p: unknown option; allowed: probability"),
        ("view = { gaussian_blur = { kernel = 3 } }", "task.view.gaussian_blur.kernel: unknown option; did you mean 'kernel_size'?"),
        ("view = { resize = {} }", "task.view.resize.size: missing; required; allowed: an integer or an array of 2 integers"),
        ("view = { resize = { size = [8] } }", "task.view.resize.size: must be an array of 2 integers; found [8]"),
        ('view = { resize = { size = "8" } }', "task.view.resize.size: must be an integer or an array of 2 integers; found '8'"),
        ("view = { grayscale = { probability = true } }", "task.view.grayscale.probability: must be a number; found True"),
        ("view = { random_resized_crop = { size = 8, scale = [0.2, 1.5] } }",
         "task.view.random_resized_crop.scale: is not an interval within bounds; found (0.2, 1.5); allowed: (low, high) with low <= high, both within 0 and 1"),
        ('view = { resize = { size = 8, interpolation = "bilinar" } }',
         "task.view.resize.interpolation: unknown choice; found 'bilinar'; allowed: 'bilinear', 'bicubic'; did you mean 'bilinear'?"),
        ("other = { grayscale = { probability = 2 } }", "task.other.grayscale.probability: is out of range; found 2.0; allowed: 0 to 1"),
        ('other = { name = "simclr", size = 8 }', "task.other.gaussian_blur.kernel_size: does not fit; found 23; allowed: an odd number up to 15"),
        ('pair = ["mae", { center_crop = { size = -1 } }]',
         "task.pair[1].center_crop.size: must be positive; found -1; allowed: pixels of a square, or (height, width)"),
        ('view = { preset = "mae", size = 8 }', "task.view.preset: unknown function; found 'mae'; for a preset write name = \"mae\""),
        ('large = ["mae", {}]', f"task.large[1]: is a view without a function; found {{}}; allowed: {', '.join(OPTIONS)}; images as they are: {{ horizontal_flip = {{ probability = 0 }} }}"),
        ("view = { size = 8 }", "task.view.size: is for a preset; found 8; give it to a function: center_crop = { size = 224 }"),
    ],
)  # fmt: skip
def test_a_wrong_view_is_refused_in_a_line_with_its_path(toml: str, message: str):
    assert refusal(RecipeError, built, toml) == message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"view": "simclr"}, "view: must be an object of the class View; found 'simclr'; a name is for recipes: in Python, pass an object"),
        (
            {"view": View},
            "view: must be an object of the class View; found <class 'sslkit.views.view.View'>; make an object of it: View(...)",
        ),
        ({"large": (View("mae"), {})}, "large[1]: must be an object of the class View; found {}"),
    ],
)
def test_in_python_a_view_is_an_object(options: dict[str, Any], message: str):
    assert refusal(OptionError, Options, **options) == message


def test_a_changed_view_is_named_by_option():
    before, after = (plain(built(f"view = {{ resize = {{ size = {size} }}, grayscale = {{}} }}")) for size in (8, 16))
    assert differences(before, after) == ["view.options.resize.size: 8 -> 16"]
    turned = plain(built("view = { grayscale = {}, resize = { size = 8 } }"))
    assert differences(before, turned) == ["view.functions: ['resize', 'grayscale'] -> ['grayscale', 'resize']"]


def test_the_schema_knows_presets_functions_and_their_options():
    class Task(PretextTask):
        def __init__(self, *, view: View, views: tuple[View, ...] = ()) -> None:
            self.view, self.views = view, views

        def build_objective(self, backbone, data):
            raise NotImplementedError

    schema = json_schema(Catalog.of(pretext_tasks={"some": Task}))
    task = schema["$defs"]["pretext_tasks"]["anyOf"][2]["properties"]
    assert task["view"] == {"$ref": "#/$defs/View"}
    assert task["views"]["items"] == {"$ref": "#/$defs/View"}
    names, preset, functions = schema["$defs"]["View"]["anyOf"]
    assert names == {"enum": [*PRESETS]}
    assert set(functions["properties"]) == set(OPTIONS)
    assert set(preset["properties"]) == {"name", "size", *OPTIONS}
    assert preset["additionalProperties"] is functions["additionalProperties"] is False
    crop = functions["properties"]["random_resized_crop"]
    assert (crop["required"], crop["additionalProperties"]) == (["size"], False)
    assert crop["properties"]["interpolation"]["enum"] == ["bilinear", "bicubic"]


def test_views_are_extended_and_swept_like_other_tables(tmp_path: Path):
    stage = '[stages.probe]\nweights = "random"\n[stages.probe.evaluator]\nname = "knn"\nlayers = ["conv2"]\n'
    base = "test_view = { resize = { size = 16 }, center_crop = { size = 12 } }\n"
    (tmp_path / "base.toml").write_text(HEAD + stage + base)
    (tmp_path / "more.toml").write_text('extends = "base.toml"\nname = "more"\n[stages.probe.evaluator.test_view]\ncenter_crop.size = 8\n')
    (tmp_path / "other.toml").write_text(HEAD + stage + "[sweep]\n'stages.probe.evaluator.test_view.center_crop.size' = [4, 6]\n")
    more = load_recipe(tmp_path / "more.toml").stages[0].evaluator  # pyright: ignore[reportAttributeAccessIssue]
    assert more.test_view == View(resize={"size": 16}, center_crop={"size": 8})
    swept = [stage.evaluator.test_view for stage in load_recipe(tmp_path / "other.toml").stages]  # pyright: ignore[reportAttributeAccessIssue]
    assert swept == [View(center_crop={"size": 4}), View(center_crop={"size": 6})]
