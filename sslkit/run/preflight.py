"""What can be checked of a recipe before any compute: backbones on the meta device, objectives, layers, labels, sizes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import torch

from sslkit.contract.backbone import Backbone
from sslkit.contract.blame import blaming
from sslkit.contract.errors import BackboneError, DataError, OptionError, PluginError, RecipeError
from sslkit.contract.images import DataInfo, ImageSpec, Split
from sslkit.data.cache import OpenedDataset
from sslkit.recipe.describe import BackboneOptions
from sslkit.recipe.recipe import Recipe
from sslkit.recipe.stages import AS_BUILT, BEGINNINGS, EvaluateStage, PretrainStage, Stage, training_of
from sslkit.run.stages import check_pretraining, check_requirements, evaluation_data
from sslkit.training.breakdown import explaining_breakdown
from sslkit.training.handover import check_schedule
from sslkit.training.objective_check import check_objective
from sslkit.training.phase_optimizers import build_optimizers
from sslkit.training.seeds import global_seed

T = TypeVar("T")


def check(recipe: Recipe, data: OpenedDataset) -> None:
    """Check every stage against its backbone and the data. Reads labels and counts, no pixels.

    Args:
        recipe: a loaded recipe.
        data: its data set; opened here, which downloads it if it has to.

    Raises:
        RecipeError: starts with the dotted path of the option at fault.
        PluginError: what a task builds cannot be trained.
        DataError: the data is missing or unfit.
        RunFailedError: the images do not fit into memory.
    """
    for split in _splits(recipe):
        with _at("data"), explaining_breakdown(f"reading the {split} images", torch.device("cpu")):
            data.load(split)
    for stage in recipe.stages:
        check_device(recipe, stage)
        check_backbone(recipe, stage, data)
        check_data(recipe, stage, data)
    check_objectives(recipe, data)
    check_schedules(recipe)


def check_recipe(recipe: Recipe) -> str:
    """Check a recipe on its own, downloading nothing.

    Returns:
        What could not be checked, empty if nothing was left out. Where ``recipe.data`` is an :class:`OpenedDataset`, that knows now
        what was found.

    Raises:
        RecipeError: as :func:`check`.
    """
    data = recipe.data if isinstance(recipe.data, OpenedDataset) else OpenedDataset(recipe.data)
    if data.available():
        check(recipe, data)
        return ""
    for stage in recipe.stages:
        check_device(recipe, stage)
        check_backbone(recipe, stage, data)
    check_schedules(recipe)
    return "objectives, layers, batch sizes and labels, because the data is not on this machine yet"


def check_device(recipe: Recipe, stage: Stage) -> None:
    """Refuse a device that this machine does not have."""
    own = "device" in recipe.table.get("stages", {}).get(stage.name, {})
    with _at(f"stages.{stage.name}" if own else ""):
        stage.runtime.resolve_device()


def check_backbone(recipe: Recipe, stage: Stage, data: OpenedDataset) -> None:
    """Build the stage's backbone without weights and ask whether the stage can work with it."""
    path = f"stages.{stage.name}"
    backbone = _backbone(recipe, stage, data)
    if isinstance(stage, PretrainStage):
        with _at(f"{path}.task"):
            check_pretraining(stage.task, backbone, data)
    else:
        with _at(f"{path}.evaluator"):
            check_requirements(stage.evaluator.requires, backbone, type(stage.evaluator).__name__)


def check_data(recipe: Recipe, stage: Stage, data: OpenedDataset) -> None:
    """Compare a stage's options with the number of images and labels there are."""
    path = f"stages.{stage.name}"
    if isinstance(stage, EvaluateStage):
        with _at(path):
            labeled = evaluation_data(stage.evaluator, data)
        with _at(f"{path}.evaluator"), data.lent_to(stage.evaluator):
            stage.evaluator.check(_backbone(recipe, stage, data), labeled)
        return
    images = data.load("pretrain")
    if images is None:
        raise DataError(f"{path}: the data set has no images to pretrain on")
    with _at(path):
        stage.training.check_batch_size(len(images))


def check_objectives(recipe: Recipe, data: OpenedDataset) -> None:
    """Build what each pretraining stage trains, with its optimisers, once for all stages in which it is the same."""
    seen = set()
    for stage in recipe.stages:
        images = data.load("pretrain") if isinstance(stage, PretrainStage) else None  # an evaluation alone opens none
        if not isinstance(stage, PretrainStage) or images is None:
            continue
        known = repr((stage.task, stage.training, stage.backbone, backbone_image(recipe, stage, data.image())))
        if known in seen:
            continue
        seen.add(known)
        _without_weights(partial(_check_objective, recipe, stage, data, DataInfo(images.image, len(images))))


def check_schedules(recipe: Recipe) -> None:
    """Ask the schedule of each stage that trains for learning rates."""
    for stage in recipe.stages:
        if found := training_of(stage):
            path, training = found
            with _at(f"{path}.schedule"):
                check_schedule(training.schedule, training.epochs)


def _check_objective(recipe: Recipe, stage: PretrainStage, data: OpenedDataset, info: DataInfo, device: str) -> None:
    """Build what the stage trains, and its optimisers, on a device."""
    image = backbone_image(recipe, stage, data.image())
    with _at(f"stages.{stage.name}.task"), torch.device(device):
        backbone = stage.backbone.without_downloads().build(image)
        objective = stage.task.build_objective(backbone, info)
    with _at(f"stages.{stage.name}"):
        check_objective(objective)
        build_optimizers(objective, stage.training)


def backbone_image(recipe: Recipe, stage: Stage, data: ImageSpec) -> ImageSpec:
    """What the stage's backbone is built for: the data's images, or what the task that first trained it wants."""
    while stage.weights not in BEGINNINGS:
        stage = recipe.stage(stage.weights)
    if not isinstance(stage, PretrainStage):
        return data
    with _at(f"stages.{stage.name}.task"):
        return stage.task.image_spec(data)


def fetch_weights(recipe: Recipe, data: OpenedDataset) -> None:
    """Build every pretrained backbone once: weights that do not exist, or cannot be fetched, must not end a run hours later.

    Raises:
        RecipeError: starts with the dotted path of the backbone.
    """
    fetched: list[BackboneOptions] = []
    for stage in recipe.stages:
        if stage.weights == AS_BUILT and stage.backbone.pretrained and stage.backbone not in fetched:
            with global_seed(0):  # what is drawn is thrown away, and must not move what others draw
                stage.backbone.build(backbone_image(recipe, stage, data.image()))
            fetched.append(stage.backbone)


def _backbone(recipe: Recipe, stage: Stage, data: OpenedDataset) -> Backbone:
    """The stage's backbone."""
    image = backbone_image(recipe, stage, data.image())

    def build(device: str) -> Backbone:
        with torch.device(device):
            return stage.backbone.without_downloads().build(image)

    return _without_weights(build)


def _without_weights(work: Callable[[str], T]) -> T:
    """Do something on the meta device if that is possible, else on the CPU: nobody who writes a network is asked to provide for that."""
    with global_seed(0):  # what is drawn is thrown away, and must not move what others draw
        try:
            return work("meta")
        except Exception:
            return work("cpu")


def _splits(recipe: Recipe) -> tuple[Split, ...]:
    """What the stages will read."""
    labelled = [isinstance(stage, EvaluateStage) and stage.evaluator.needs_labels for stage in recipe.stages]
    return (*(() if all(labelled) else ("pretrain",)), *(("train",) if any(labelled) else ()), "test")


@contextmanager
def _at(path: str) -> Iterator[None]:
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
