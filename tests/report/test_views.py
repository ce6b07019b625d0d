from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import pytest
import torch
from torch import Generator, Tensor

from sslkit import Augment, Backbone, Batch, DataInfo, Objective, PluginError, PretextTask, StepOutput
from sslkit.report.pictures.views import Views, describe, is_image, make_views
from tests.contract.families import FAMILIES, Family, every_family
from tests.contract.miniatures.backbones import TinyConv
from tests.contract.miniatures.images import tiny_images

IMAGES = tiny_images(22)
BACKBONE = TinyConv(IMAGES.image)

Make = Callable[[Tensor, Generator], dict[str, Tensor]]


@final
@dataclass(frozen=True, kw_only=True)
class Fake(PretextTask):
    """Views made by a function."""

    make: Make
    words: Callable[[Mapping[str, Tensor]], Mapping[str, Sequence[str]]] = lambda _: {}

    def build_objective(self, backbone: Backbone, data: DataInfo) -> Objective:
        return FakeObjective(backbone, self)


class FakeObjective(Objective):
    def __init__(self, backbone: Backbone, task: Fake) -> None:
        super().__init__(backbone)
        self.task = task

    def make_views(self, batch: Batch, generator: Generator, *, train: bool) -> dict[str, Tensor]:
        return self.task.make(batch.images, generator)

    def forward(self, views: dict[str, Tensor], phase: str, schedule: Mapping[str, Tensor]) -> StepOutput:
        raise NotImplementedError

    def captions(self, views: Mapping[str, Tensor]) -> Mapping[str, Sequence[str]]:
        return self.task.words(views)


def views_of(make: Make, *, num_images: int = 4, **options: object) -> Views:
    return make_views(Fake(make=make, **options), BACKBONE, IMAGES, num_images=num_images, seed=0)


def view_after_view(images: Tensor, _: Generator) -> dict[str, Tensor]:
    return {"both": torch.cat([images, images.flip(-1)])}


def image_after_image(images: Tensor, _: Generator) -> dict[str, Tensor]:
    return {"both": torch.stack([images, images.flip(-1)], dim=1).flatten(0, 1)}


@pytest.mark.parametrize("make", [view_after_view, image_after_image])
@pytest.mark.parametrize("num_images", [1, 2, 5])
def test_views_come_image_after_image_whatever_their_order_was(make: Make, num_images: int):
    views = views_of(make, num_images=num_images)
    (both,) = views.views
    assert both.by_image
    assert torch.equal(both.images, torch.stack([views.images, views.images.flip(-1)], dim=1).flatten(0, 1))


def test_captions_follow_their_images():
    views = views_of(view_after_view, words=lambda views: {"both": [f"{i}" for i in range(len(views["both"]))]})
    assert views.views[0].captions == ("0", "4", "1", "5", "2", "6", "3", "7")


def test_an_order_that_nobody_can_tell_is_left_as_it_is():
    def noise(images: Tensor, generator: Generator) -> dict[str, Tensor]:
        return {"noise": torch.rand(2 * len(images), 3, 8, 8, generator=generator), "odd": images[1:].repeat(2, 1, 1, 1)}

    views = views_of(noise, words=lambda views: {"odd": ["a"] * len(views["odd"])})
    assert [(view.name, view.by_image, len(view.images), len(view.captions)) for view in views.views] == [
        ("noise", False, 8, 0),
        ("odd", False, 6, 6),
    ]


def test_what_is_no_image_is_told_by_its_shape():
    def mixed(images: Tensor, _: Generator) -> dict[str, Tensor]:
        return {"images": images, "labels": torch.arange(len(images)), "chroma": torch.zeros(len(images), 2, 8, 8), "mask": images > 3}

    views = views_of(mixed)
    assert [view.name for view in views.views] == ["images"]
    assert views.others == {"labels": "(4,) int64", "chroma": "(4, 2, 8, 8) float32", "mask": "(4, 3, 16, 16) bool"}


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
def test_images_are_told_from_other_tensors(view: Tensor, shown: bool):
    assert is_image(view) == shown


def test_shapes_are_short():
    assert describe(torch.zeros(3, 0, dtype=torch.bfloat16)) == "(3, 0) bfloat16"


@every_family
def test_every_family_can_be_looked_at(family: Family):
    backbone = family.backbone(family.task.image_spec(IMAGES.image))
    views = make_views(family.task, backbone, IMAGES, num_images=3, seed=0)
    assert views.images.shape == (3, 3, 16, 16)
    assert views.views
    for view in views.views:
        assert view.by_image
        assert len(view.images) % 3 == 0


def test_tiles_stay_with_their_image():
    views = make_views(FAMILIES["jigsaw"].task, BACKBONE, IMAGES, num_images=3, seed=0)
    (tiles,) = views.views
    for image, of_image in zip(views.images, tiles.images.chunk(3), strict=True):
        assert torch.equal(of_image.flatten().sort().values, image.flatten().sort().values)


def test_images_are_augmented_and_spread_over_the_set():
    task = Fake(make=view_after_view)
    plain, cropped = (
        make_views(task, BACKBONE, IMAGES, num_images=3, seed=0, options=options)
        for options in (None, Augment(crop_padding=8, horizontal_flip=True))
    )
    assert torch.equal(plain.images, IMAGES.read([0, 10, 21]))
    assert not torch.equal(cropped.images, plain.images)
    assert (cropped.images == 0).sum() > (plain.images == 0).sum(), "the padding shows"


def test_the_same_seed_makes_the_same_views():
    def draw(images: Tensor, generator: Generator) -> dict[str, Tensor]:
        return {"images": images.float() / 255 * torch.rand((), generator=generator) * torch.rand(())}

    state = torch.get_rng_state()
    first, second = views_of(draw), views_of(draw)
    assert torch.equal(first.views[0].images, second.views[0].images)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_caption_too_few_is_the_methods_fault():
    with pytest.raises(PluginError, match=r"FakeObjective\.captions: 'both' needs one caption an image; found 1; allowed: 8"):
        views_of(view_after_view, words=lambda _: {"both": ["alone"]})
