"""A method that declares its views: two that may differ, and several small ones; from a recipe to the run's folder and back."""

import tomllib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import pytest
import torch
from torch import Tensor

from sslkit import NIN, Arrays, Digits, Objective, OptionError, PretextTask, RecipeError, StepOutput, load_catalog, pretrain, run_recipe
from sslkit.catalog.catalog import Catalog, Offer
from sslkit.data.cache import OpenedDataset
from sslkit.recipe.recipe import Recipe, parse_recipe
from sslkit.recipe.stages import PretrainStage
from sslkit.report.pictures.views import stage_views
from sslkit.run.preflight import check_recipe
from sslkit.views import View
from tests.recipes import HEAD, changed, refusal


@final
@dataclass(frozen=True, kw_only=True)
class Crops(PretextTask):
    """Attributes:
    views: of the two large views.
    small: of the others.
    num_small: how many others.
    """

    views: View | tuple[View, View] = View("simclr_cifar", size=8)
    small: View | None = None
    num_small: int = 0

    def build_objective(self, backbone, data):
        return Alike(backbone, self)


@final
@dataclass(frozen=True, kw_only=True)
class Shrunk(PretextTask):
    """Its network is built for what its view makes of the images."""

    view: View = View("simclr_cifar")

    def image_spec(self, data):
        return self.view.image_spec(data)

    def build_objective(self, backbone, data):
        return Alike(backbone, Crops(views=self.view))


class Alike(Objective):
    heldout_phase = "main"

    def __init__(self, backbone, options: Crops) -> None:
        super().__init__(backbone)
        views = options.views
        self.large = views if isinstance(views, tuple) else (views, views)
        self.small = (options.small,) * options.num_small if options.small else ()

    def make_views(self, batch, generator, *, train):
        sizes = {"large": self.large, "small": self.small}
        return {name: torch.cat([view(batch.images, generator) for view in views]) for name, views in sizes.items() if views}

    def forward(self, views: dict[str, Tensor], *_: Any) -> StepOutput:
        return StepOutput(torch.stack([self.backbone.embed(images).var() for images in views.values()]).sum(), {})


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    installed = load_catalog()
    offers = (Offer("pretext_tasks", "crops", Crops, None), Offer("pretext_tasks", "shrunk", Shrunk, None))
    return replace(installed, offers=(*installed.offers, *offers))


RECIPE = HEAD + '\n[stages.pretrain]\ntask = "crops"\nepochs = 1\nbatch_size = 600\n'
Parse = Callable[..., Recipe]


@pytest.fixture
def parse(catalog: Catalog) -> Parse:
    def parsed(options: str = "") -> Recipe:
        return parse_recipe(tomllib.loads(changed(f'stages.pretrain.task={{ name = "crops", {options} }}', text=RECIPE)), catalog)

    return parsed


SEVERAL = """
    views = [{ random_resized_crop = { size = 8 }, solarize = {} }, { name = "byol_2", size = 8, gaussian_blur = { kernel_size = 3 } }],
    small = { name = "dino_local", size = 6, gaussian_blur = false }, num_small = 3
""".replace("\n", " ")


def test_a_method_with_several_views_runs_and_is_written_down(parse: Parse, catalog: Catalog, tmp_path: Path):
    recipe = parse(SEVERAL)
    run_recipe(recipe, output=tmp_path, report=False)
    written = tomllib.loads((tmp_path / "recipe.toml").read_text())
    again = parse_recipe(written, catalog)
    assert again.stages == recipe.stages
    before = (tmp_path / "pretrain" / "artifact.json").read_bytes()
    run_recipe(again, output=tmp_path, report=False)  # the same fingerprint: it is finished
    assert (tmp_path / "pretrain" / "artifact.json").read_bytes() == before


def test_views_are_drawn_with_their_sizes(parse: Parse):
    recipe = parse(SEVERAL)
    stage = recipe.stages[0]
    assert isinstance(stage, PretrainStage)
    views = stage_views(recipe, stage, OpenedDataset(recipe.data), 2)
    assert [(view.heading, len(view.images)) for view in views.views] == [("large, 8 x 8", 4), ("small, 6 x 6", 6)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ('views = "byol_3"', "views: no such preset; found 'byol_3'; allowed: simclr_cifar, "),
        ('views = [{ gaussian_blur = { kernel_size = 21 } }, "mae"]', "views[0].gaussian_blur.kernel_size: does not fit; found 21; allowed: an odd number up to 15"),
        ("small = { resize = { size = 6 }, gaussian_blur = { kernel_size = 13 } }", "small.gaussian_blur.kernel_size: does not fit; found 13; allowed: an odd number up to 11"),
    ],
)  # fmt: skip
def test_views_are_checked_against_the_data_before_anything_is_computed(options: str, message: str, parse: Parse):
    found = refusal(RecipeError, lambda: check_recipe(parse(options)))
    assert found.startswith(f"stages.pretrain.task.{message}")


def test_a_network_is_built_for_what_a_view_makes_of_images_that_it_can_take(catalog: Catalog):
    recipe = parse_recipe(tomllib.loads(RECIPE.replace('"crops"', '"shrunk"').replace("600", "4")), catalog)
    check_recipe(replace(recipe, data=Arrays(train_images=torch.zeros(8, 3, 40, 40, dtype=torch.uint8))))
    bands = replace(recipe, data=Arrays(train_images=torch.zeros(8, 13, 40, 40, dtype=torch.uint8)))
    expected = "stages.pretrain.task.view.color_jitter: needs colours, and these images have bands; set saturation = 0 and hue = 0"
    assert refusal(RecipeError, check_recipe, bands) == expected


def test_views_are_checked_in_python_too():
    task = Crops(views=View(gaussian_blur={"kernel_size": 21}))
    found = refusal(OptionError, pretrain, task, NIN(Digits().image(), num_blocks=3, width=0.05), Digits())
    assert found == "views.gaussian_blur.kernel_size: does not fit; found 21; allowed: an odd number up to 15"
