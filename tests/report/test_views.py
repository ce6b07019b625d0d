from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import pytest
import torch
from torch import Tensor

from sslkit import Augment, Backbone, DataError, DataInfo, ImageSet, Objective, PluginError, PretextTask
from sslkit.data.cache import OpenedDataset
from sslkit.report.pictures.grid import DPI, MAX_WIDTH, draw_sheets
from sslkit.report.pictures.views import (
    MAX_COLUMNS,
    NUM_DRAWS,
    Shown,
    Views,
    apply_views,
    draw_evaluation_views,
    is_image,
    make_views,
    pretraining_stages,
    stage_views,
    viewing_stages,
    views_note,
    views_sheet,
)
from sslkit.views import View
from tests.contract.families import FAMILIES, Family, every_family
from tests.contract.miniatures.backbones import TinyConv
from tests.contract.miniatures.images import TinyImages, tiny_images
from tests.report.drawn import words_of
from tests.report.inputs import Splits
from tests.report.run_folders import STAGES, recipe_of

IMAGES = tiny_images(22)
BACKBONE = TinyConv(IMAGES.image)


@final
@dataclass(frozen=True, kw_only=True)
class Fake(PretextTask):
    """Views made by a function."""

    make: Callable
    words: Callable = lambda _: {}

    def build_objective(self, backbone: Backbone, data: DataInfo) -> Objective:
        return FakeObjective(backbone, self)


class FakeObjective(Objective):
    def __init__(self, backbone: Backbone, task: Fake) -> None:
        super().__init__(backbone)
        self.task = task

    def make_views(self, batch, generator, *, train):
        return self.task.make(batch.images, generator)

    def forward(self, views, step):
        raise NotImplementedError

    def captions(self, views):
        return self.task.words(views)


def views_of(make: Callable, *, num_images: int = 4, seed: int = 0, options: Augment | None = None, **words: Callable) -> Views:
    return make_views(Fake(make=make, **words), BACKBONE, IMAGES, num_images=num_images, seed=seed, options=options)


def view_after_view(images: Tensor, _: Any) -> dict[str, Tensor]:
    return {"both": torch.cat([images, images.flip(-1)])}


@pytest.mark.parametrize("num_images", [1, 2, 5])
def test_the_views_of_an_image_stand_together(num_images: int):
    views = views_of(view_after_view, num_images=num_images)
    (both,) = views.views
    assert torch.equal(both.images, torch.stack([views.images, views.images.flip(-1)], dim=1).flatten(0, 1))


def test_captions_follow_their_images():
    views = views_of(view_after_view, words=lambda views: {"both": [f"{i}" for i in range(len(views["both"]))]})
    assert views.views[0].captions == ("0", "4", "1", "5", "2", "6", "3", "7")


def test_a_caption_too_few_is_the_methods_fault():
    with pytest.raises(PluginError, match=r"FakeObjective\.captions: 'both' needs one caption per image; found 1; allowed: 8"):
        views_of(view_after_view, words=lambda _: {"both": ["alone"]})


@pytest.mark.parametrize(
    ("make", "shown"),
    [
        (lambda images: images[1:].repeat(2, 1, 1, 1), "(6, 3, 16, 16) uint8"),  # not of every image
        (lambda images: torch.arange(len(images)), "(4,) int64"),
        (lambda images: torch.zeros(len(images), 2, 8, 8), "(4, 2, 8, 8) float32"),
        (lambda images: images > 3, "(4, 3, 16, 16) bool"),
        (lambda images: images[:, 0, 0, :0].bfloat16(), "(4, 0) bfloat16"),
    ],
)
def test_what_is_no_image_is_reported_by_its_shape(make: Callable, shown: str):
    views = views_of(lambda images, _: {"images": images, "other": make(images)})
    assert [view.name for view in views.views] == ["images"]
    assert views.others == {"other": shown}


@pytest.mark.parametrize(
    ("view", "shown"),
    [
        (torch.zeros(2, 3, 4, 4), True),
        (torch.zeros(2, 1, 4, 4, dtype=torch.bfloat16), True),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), True),
        (torch.zeros(2, 3, 4, 4, dtype=torch.int64), False),
        (torch.zeros(2, 4, 4, 4), False),
        (torch.zeros(3, 4, 4), False),
        (torch.zeros(0, 3, 4, 4), False),
    ],
)
def test_images_are_distinguished_from_other_tensors(view: Tensor, shown: bool):
    assert is_image(view) == shown


@every_family
def test_every_family_can_be_looked_at(family: Family):
    views = make_views(family.task, family.backbone(family.task.image_spec(IMAGES.image)), IMAGES, num_images=3, seed=0)
    assert views.images.shape == (3, 3, 16, 16)
    assert views.views
    assert all(len(view.images) % 3 == 0 for view in views.views)


def test_tiles_stay_with_their_image():
    views = make_views(FAMILIES["jigsaw"].task, BACKBONE, IMAGES, num_images=3, seed=0)
    (tiles,) = views.views
    for image, of_image in zip(views.images, tiles.images.chunk(3), strict=True):
        assert torch.equal(of_image.flatten().sort().values, image.flatten().sort().values)


def test_images_are_augmented_and_spread_over_the_set():
    plain, cropped = (
        views_of(view_after_view, num_images=3, options=options).images for options in (None, Augment(crop_padding=8, horizontal_flip=True))
    )
    assert torch.equal(plain, IMAGES.read([0, 10, 21]))
    assert not torch.equal(cropped, plain)
    assert (cropped == 0).sum() > (plain == 0).sum(), "the padding shows"


def test_the_same_seed_makes_the_same_views():
    state = torch.get_rng_state()
    first, second = (
        views_of(lambda images, generator: {"images": images.float() / 255 * torch.rand((), generator=generator) * torch.rand(())})
        for _ in range(2)
    )
    assert torch.equal(first.views[0].images, second.views[0].images)
    assert torch.equal(torch.get_rng_state(), state)


def shown(*views: Shown, others: dict[str, str] | None = None) -> Views:
    return Views(IMAGES.read(range(3)), views, others or {})


def view(num_views: int, captions: tuple[str, ...] = (), *, name: str = "images", side: int = 16) -> Shown:
    return Shown(name, IMAGES.read(range(3))[:, :, :side, :side].repeat_interleave(num_views, dim=0), captions)


def written(views: Views, title: str = "") -> list[str]:
    return words_of(draw_sheets(views_sheet(views, title)))


def test_a_caption_that_a_whole_column_shares_is_its_heading():
    assert written(shown(view(2, ("left", "right") * 3))) == ["image", "images, 16 x 16", "left", "right"]


def test_captions_that_differ_stand_under_their_images():
    captions = tuple(f"no. {index}" for index in range(6))
    assert written(shown(view(2, captions))) == ["image", "images, 16 x 16", *captions]
    with_captions, without = (draw_sheets(views_sheet(shown(view(2, words)))).get_figheight() for words in (captions, ()))
    assert with_captions > without


def test_every_view_has_a_block_of_its_own():
    assert written(shown(view(1, name="global"), view(2, name="local", side=4))) == ["image", "global, 16 x 16", "local, 4 x 4"]


def test_the_title_and_what_is_not_shown_stand_above():
    words = written(shown(view(2), others={"labels": "(3,) int64", "noise": "(3, 6) float32"}), "mine")
    assert words[:2] == ["mine", "also made: labels (3,) int64, noise (3, 6) float32"]


@pytest.mark.parametrize("captions", [(), tuple(map(str, range(40))) * 3, tuple(map(str, range(120)))])
def test_more_columns_than_fit_are_cut_and_counted(captions: tuple[str, ...]):
    many = shown(view(40, captions))
    assert views_note(many) == f"shown of images, 16 x 16: {MAX_COLUMNS} of 40"
    assert draw_sheets(views_sheet(many, "many")).get_figwidth() * DPI <= MAX_WIDTH
    assert (
        written(many)[2:]
        == [caption for index, caption in enumerate(captions) if index % 40 < MAX_COLUMNS][: 16 if len(set(captions)) == 40 else 48]
    )


def test_variants_that_share_a_task_share_a_sheet():
    same = recipe_of(STAGES + "[sweep]\n'stages.pretrain.epochs' = [2, 3]\n")
    assert len(pretraining_stages(same)) == 1
    different = recipe_of(
        STAGES + "[sweep]\nhalves = { 'stages.pretrain.task.angles' = [0, 180] }\nquarters = { 'stages.pretrain.task.angles' = [0, 90] }\n"
    )
    assert [stage.key for stage in pretraining_stages(different)] == ["halves/pretrain", "quarters/pretrain"]
    assert pretraining_stages(recipe_of("[stages.supervised]\nweights = 'random'\nevaluator = { name = 'supervised' }\n")) == []


def test_a_stage_sees_its_augmented_images():
    recipe = recipe_of(STAGES.replace("epochs = 2", "epochs = 2\naugment = { crop_padding = 4 }", 1))
    data = OpenedDataset(recipe.data)
    views = stage_views(recipe, pretraining_stages(recipe)[0], data, 3)
    (turned,) = views.views
    assert turned.captions == ("0°", "90°", "180°", "270°") * 3
    assert torch.equal(turned.images[::4], views.images)
    images = data.load("pretrain")
    assert not torch.equal(views.images, images.read([0, (len(images) - 1) // 2, len(images) - 1]))


@pytest.mark.parametrize("images", [None, TinyImages(torch.zeros(0, 1, 8, 8, dtype=torch.uint8))])
def test_without_images_there_is_nothing_to_see(images: ImageSet | None):
    with pytest.raises(DataError, match="no images"):
        stage_views(recipe_of(), pretraining_stages(recipe_of())[0], OpenedDataset(Splits(pretrain=images)), 3)


def test_a_random_view_is_drawn_several_times():
    named = [("train_view", View("simclr_cifar", size=12)), ("test_view", View(center_crop={"size": 8}))]
    views = apply_views(named, IMAGES, num_images=3, seed=0)
    train, test = views.views
    assert (train.heading, len(train.images)) == ("train_view, 12 x 12", 3 * NUM_DRAWS)
    assert torch.equal(test.images, views.images[..., 4:12, 4:12])
    again = apply_views(named, IMAGES, num_images=3, seed=0).views[0]
    assert torch.equal(train.images, again.images)
    assert len(train.images.flatten(1).unique(dim=0)) == len(train.images)


def test_each_set_of_views_of_evaluations_has_a_picture():
    view = "train_view = { random_resized_crop = { size = 8 } }\ntest_view = { resize = { size = 8 } }\n"
    stages = [
        f'[stages.{name}]\nweights = "random"\n[stages.{name}.evaluator]\nname = "{kind}"\nlayers = ["conv2"]\n{options}'
        for name, kind, options in (
            ("a", "linear_probe", view),
            ("b", "mlp_probe", view),
            ("c", "linear_probe", ""),
            ("d", "mlp_probe", view),
        )
    ]
    recipe = recipe_of("\n".join([*stages, "[stages.d.data]\nmax_images = 20"]))
    stage, other = viewing_stages(recipe)
    assert other.key == "d", "its images are others"
    picture = draw_evaluation_views(stage, OpenedDataset(recipe.data))
    assert picture.title == "What the evaluation sees: a"
    assert picture.alt == "A contact sheet of 6 training images with the views that the evaluator makes of them: test_view, train_view."
    assert {"train_view, 8 x 8", "test_view, 8 x 8"} <= set(words_of(picture.figure))
