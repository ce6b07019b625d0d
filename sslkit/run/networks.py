"""The networks of a recipe: what they are built for, as a stage begins with them, and as it left them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from sslkit.contract.backbone import Backbone
from sslkit.contract.blame import blaming
from sslkit.contract.errors import BackboneError, DataError, OptionError, PluginError, RecipeError
from sslkit.contract.images import Dataset, ImageSpec
from sslkit.contract.objective import PretextTask
from sslkit.data.cache import OpenedDataset
from sslkit.recipe.describe import BackboneOptions
from sslkit.recipe.recipe import Recipe
from sslkit.recipe.stages import BEGINNINGS, PretrainStage, Stage
from sslkit.run.artifacts import load_weights, weights_path
from sslkit.training.device import explaining_breakdown
from sslkit.training.seeds import derive_seed, global_seed


def backbone_image(recipe: Recipe, stage: Stage, data: ImageSpec) -> ImageSpec:
    """What the stage's backbone is built for: the data's images, or what the task that first trained it wants."""
    while stage.weights not in BEGINNINGS:
        stage = recipe.stage(stage.weights)
    if not isinstance(stage, PretrainStage):
        return data
    with located(f"stages.{stage.name}.task"):
        return stage.task.image_spec(data)


def untrained(options: BackboneOptions, image: ImageSpec, seed: int) -> Backbone:
    """A network with random weights, also where the options ask for pretrained ones."""
    return _built(options.without_downloads(), image, seed)


def _built(options: BackboneOptions, image: ImageSpec, seed: int) -> Backbone:
    """Random weights depend on the run's seed alone, so that every untrained stage starts from the same."""
    cpu = torch.device("cpu")
    with explaining_breakdown("the construction of the backbone", cpu), global_seed(derive_seed(seed, "backbone")):
        return options.build(image)


def begun_with(recipe: Recipe, stage: Stage, data: OpenedDataset, folder: Path) -> Backbone:
    """The network that a stage begins with; earlier stages left theirs in the run's folder.

    Raises:
        ArtifactError: the weights are missing or do not fit.
    """
    image = backbone_image(recipe, stage, data.image())
    if stage.weights in BEGINNINGS:
        return _built(stage.backbone, image, stage.seed)
    return _read(stage.backbone, image, weights_path(folder / stage.weights, stage.snapshot))


def left_by(recipe: Recipe, stage: Stage, data: OpenedDataset, folder: Path) -> Backbone:
    """The network that a finished stage left in the run's folder.

    Raises:
        ArtifactError: the weights are missing or do not fit.
    """
    return _read(stage.backbone, backbone_image(recipe, stage, data.image()), weights_path(folder / stage.key, None))


def check_pretraining(task: PretextTask, backbone: Backbone, data: Dataset) -> None:
    """Refuse a backbone that the task cannot work with.

    Raises:
        BackboneError: a capability is missing, or the backbone is built for another colour.
    """
    check_requirements(task.requires, backbone, type(task).__name__)
    wanted = task.image_spec(data.image())
    if (backbone.image.color, backbone.image.num_chs) != (wanted.color, wanted.num_chs):
        raise BackboneError(
            f"{type(task).__name__} needs a backbone built for {wanted.meaning}",
            found=backbone.image.meaning if backbone.image.color is None else backbone.image.color,
            fix="build it with task.image_spec(data.image())",
        )


def check_channels(backbone: Backbone, image: ImageSpec) -> None:
    """Refuse a backbone whose ``prepare`` cannot convert images of this kind.

    Raises:
        BackboneError: they have another number of bands, or no colours.
    """
    own = backbone.image
    if own.num_chs != image.num_chs if own.color is None else image.color is None and image.num_chs not in (1, 3):
        raise BackboneError(f"the backbone is built for {own.meaning}", found=image.meaning, fix="measure it on images of its own kind")


def check_requirements(requires: frozenset[str], backbone: Backbone, user: str) -> None:
    """Refuse a backbone that lacks a capability.

    Raises:
        BackboneError: names what is missing.
    """
    if missing := sorted(requires - backbone.capabilities):
        raise BackboneError(
            f"{user} needs a backbone with {', '.join(missing)}",
            found=sorted(backbone.capabilities),
            fix=f"choose another backbone than {type(backbone).__name__}",
        )


@contextmanager
def located(path: str) -> Iterator[None]:
    """Put the recipe's dotted path before an error of an option."""
    try:
        with blaming(path):
            yield
    except OptionError as error:
        raise RecipeError(f"{path}.{error}" if path else str(error)) from error
    except BackboneError as error:
        raise RecipeError(f"{path}: {error}") from error
    except (DataError, PluginError) as error:
        raise type(error)(f"{path}: {error}") from error


def _read(options: BackboneOptions, image: ImageSpec, path: Path) -> Backbone:
    with global_seed(0):  # what is drawn is read over, and must not move what others draw
        backbone = options.without_downloads().build(image)
    load_weights(backbone, path)
    return backbone
