import pytest
import torch

from sslkit import DataError, Dataset, ImageSet, ImageSpec, Split
from sslkit.data.cache import OpenedDataset
from sslkit.recipe.stages import PretrainStage
from sslkit.report.pictures.recipe_views import pretraining_stages, stage_views
from tests.contract.miniatures.images import TinyImages
from tests.report.stages import STAGES, recipe_of


class Nothing(Dataset):
    def __init__(self, images: ImageSet | None) -> None:
        self._images = images

    def image(self) -> ImageSpec:
        return ImageSpec(8, 8, "gray", (0.5,), (0.25,))

    def load(self, split: Split) -> ImageSet | None:
        return self._images


def first_stage() -> PretrainStage:
    return pretraining_stages(recipe_of())[0]


def test_variants_that_share_a_task_share_a_sheet():
    same = recipe_of(STAGES + "[sweep]\n'stages.pretrain.epochs' = [2, 3]\n")
    assert len(pretraining_stages(same)) == 1
    different = recipe_of(
        STAGES + "[sweep]\nhalves = { 'stages.pretrain.task.angles' = [0, 180] }\nquarters = { 'stages.pretrain.task.angles' = [0, 90] }\n"
    )
    assert [stage.key for stage in pretraining_stages(different)] == ["halves/pretrain", "quarters/pretrain"]


def test_a_recipe_without_pretraining_has_none():
    assert pretraining_stages(recipe_of("[stages.supervised]\nweights = 'random'\nevaluator = { name = 'supervised' }\n")) == []


def test_a_stage_sees_its_augmented_images():
    recipe = recipe_of(STAGES.replace("epochs = 2", "epochs = 2\naugment = { crop_padding = 4 }", 1))
    data = OpenedDataset(recipe.data)
    views = stage_views(recipe, pretraining_stages(recipe)[0], data, 3)
    (turned,) = views.views
    assert turned.captions == ("0°", "90°", "180°", "270°") * 3
    assert torch.equal(turned.images[::4], views.images)
    images = data.load("pretrain")
    assert images is not None
    assert not torch.equal(views.images, images.read([0, (len(images) - 1) // 2, len(images) - 1]))


@pytest.mark.parametrize("images", [None, TinyImages(torch.zeros(0, 1, 8, 8, dtype=torch.uint8))])
def test_without_images_there_is_nothing_to_see(images: ImageSet | None):
    with pytest.raises(DataError, match="no images"):
        stage_views(recipe_of(), first_stage(), OpenedDataset(Nothing(images)), 3)
