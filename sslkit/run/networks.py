"""The networks of a recipe: as a stage begins with them, and as it left them."""

from pathlib import Path

from sslkit.contract.backbone import Backbone
from sslkit.contract.images import ImageSpec
from sslkit.data.cache import OpenedDataset
from sslkit.recipe.describe import BackboneOptions
from sslkit.recipe.recipe import Recipe
from sslkit.recipe.stages import BEGINNINGS, Stage
from sslkit.run.artifacts import load_weights, weights_path
from sslkit.run.preflight import backbone_image
from sslkit.training.seeds import derive_seed, global_seed


def built(options: BackboneOptions, image: ImageSpec, seed: int) -> Backbone:
    """A network as its options say. Random weights depend on the run's seed alone, so that every untrained stage starts from the same."""
    with global_seed(derive_seed(seed, "backbone")):
        return options.build(image)


def untrained(options: BackboneOptions, image: ImageSpec, seed: int) -> Backbone:
    """The same network with random weights, also where the options ask for pretrained ones."""
    return built(options.without_downloads(), image, seed)


def begun_with(recipe: Recipe, stage: Stage, data: OpenedDataset, folder: Path) -> Backbone:
    """The network that a stage begins with.

    Args:
        recipe: the stage's.
        stage: that is to be run.
        data: its data set.
        folder: the run's folder, where earlier stages left theirs.

    Raises:
        ArtifactError: the weights are missing or do not fit.
    """
    image = backbone_image(recipe, stage, data.image())
    if stage.weights in BEGINNINGS:
        return built(stage.backbone, image, stage.seed)
    return _read(stage.backbone, image, weights_path(folder / stage.weights, stage.snapshot))


def left_by(recipe: Recipe, stage: Stage, data: OpenedDataset, folder: Path) -> Backbone:
    """The network that a finished stage left.

    Args:
        recipe: the stage's.
        stage: that has pretrained or fine-tuned.
        data: its data set.
        folder: the run's folder.

    Raises:
        ArtifactError: the weights are missing or do not fit.
    """
    return _read(stage.backbone, backbone_image(recipe, stage, data.image()), weights_path(folder / stage.key, None))


def _read(options: BackboneOptions, image: ImageSpec, path: Path) -> Backbone:
    with global_seed(0):  # what is drawn is read over, and must not move what others draw
        backbone = options.without_downloads().build(image)
    load_weights(backbone, path)
    return backbone
