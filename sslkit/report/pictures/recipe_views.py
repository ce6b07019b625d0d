"""The views of a recipe's pretraining stages, each task once."""

from sslkit.contract.errors import DataError
from sslkit.data.cache import OpenedDataset
from sslkit.recipe.recipe import Recipe
from sslkit.recipe.stages import PretrainStage
from sslkit.report.pictures.views import Views, make_views
from sslkit.run.networks import backbone_image, untrained


def pretraining_stages(recipe: Recipe) -> list[PretrainStage]:
    """One stage for each distinct task: variants of a sweep often share theirs."""
    distinct: list[PretrainStage] = []
    for stage in recipe.stages:
        if isinstance(stage, PretrainStage) and all(stage.task != other.task for other in distinct):
            distinct.append(stage)
    return distinct


def stage_views(recipe: Recipe, stage: PretrainStage, data: OpenedDataset, num_images: int) -> Views:
    """What a stage's network is fed at the beginning of its training.

    Args:
        recipe: the stage's.
        stage: that pretrains.
        data: its data set.
        num_images: how many images to look at.

    Raises:
        DataError: there are no images.
        PluginError: the task's captions are wrong.
    """
    images = data.load("pretrain")
    if images is None:
        raise DataError("the data set has no images to pretrain on")
    backbone = untrained(stage.backbone, backbone_image(recipe, stage, data.image()), stage.seed)
    return make_views(stage.task, backbone, images, num_images=num_images, seed=stage.seed, options=stage.training.augment)
