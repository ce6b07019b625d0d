"""What can be checked of a recipe before any compute: backbones on the meta device, objectives, layers, labels, sizes."""

import copy
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import torch

from sslkit.contract.backbone import Backbone
from sslkit.contract.images import DataInfo, Split
from sslkit.data.cache import OpenedDataset
from sslkit.recipe.describe import BackboneOptions
from sslkit.recipe.recipe import Recipe
from sslkit.recipe.stages import AS_BUILT, EvaluateStage, PretrainStage, Stage, training_of
from sslkit.run.networks import (
    backbone_image,
    check_images,
    check_pretraining,
    check_requirements,
    data_of,
    data_path,
    located,
    open_data,
    reads,
    seen_by,
)
from sslkit.run.stages import evaluation_data, pretraining_images
from sslkit.run.weights_file import fit_weights
from sslkit.training.device import explaining_breakdown
from sslkit.training.handover import check_objective, check_schedule
from sslkit.training.phase_optimizers import build_optimizers
from sslkit.training.seeds import global_seed

T = TypeVar("T")


def check(recipe: Recipe, data: OpenedDataset) -> None:
    """Check every stage against its backbone and the data, which is downloaded if it has to be. Reads labels and counts, and of
    image files the first of each split; no other pixels.

    Raises:
        RecipeError: starts with the dotted path of the option at fault.
        PluginError: what a task builds cannot be trained.
        DataError: the data is missing or unfit.
        RunFailedError: the images do not fit into memory.
    """
    preflight = Preflight(recipe, data)
    preflight.read_data()
    for stage in recipe.stages:
        preflight.check_device(stage)
        preflight.check_backbone(stage)
        preflight.check_data(stage)
    preflight.check_objectives()
    preflight.check_schedules()


def check_recipe(recipe: Recipe) -> str:
    """Check a recipe on its own, downloading nothing.

    Returns:
        What could not be checked, empty if nothing was left out. Where ``recipe.data`` is an :class:`OpenedDataset`, that knows now
        what was found.

    Raises:
        RecipeError: as :func:`check`.
    """
    recipe = open_data(recipe)
    data = OpenedDataset.of(recipe.data)
    if all(data_of(stage, data).available() for stage in recipe.stages):
        check(recipe, data)
        return ""
    preflight = Preflight(recipe, data)
    for stage in recipe.stages:
        preflight.check_device(stage)
        preflight.check_backbone(stage)
    preflight.check_schedules()
    return "objectives, layers, batch sizes and labels, because the data is not on this machine yet"


def fetch_weights(recipe: Recipe, data: OpenedDataset) -> None:
    """Build every pretrained backbone once: weights that do not exist, or cannot be fetched, must not end a run hours later.

    Raises:
        RecipeError: starts with the dotted path of the backbone.
    """
    fetched: list[BackboneOptions] = []
    for stage in recipe.stages:
        if stage.weights == AS_BUILT and stage.backbone.pretrained and stage.backbone not in fetched:
            with global_seed(0):  # what is drawn is discarded, and must not move what others draw
                stage.backbone.build(backbone_image(recipe, stage, data.image()))
            fetched.append(stage.backbone)


class Preflight:
    """The checks of one recipe. Each backbone is built once, however many stages have it."""

    def __init__(self, recipe: Recipe, data: OpenedDataset) -> None:
        self._recipe = recipe
        self._data = data
        self._backbones: dict[str, Backbone] = {}
        self._failures: dict[str, Exception] = {}  # many networks refuse the meta device: they are not asked again

    def read_data(self) -> None:
        """Load the splits that the stages will read; of files the first is decoded."""
        for data, stages in reads(self._recipe, self._data):
            labelled = [isinstance(stage, EvaluateStage) and stage.evaluator.needs_labels for stage in stages]
            splits: tuple[Split, ...] = (*(() if all(labelled) else ("pretrain",)), *(("train",) if any(labelled) else ()), "test")
            for split in splits:
                with located(data_path(stages[0])), explaining_breakdown(f"reading the {split} images", torch.device("cpu")):
                    if (images := data.load(split)) is not None:
                        images.try_first()

    def check_device(self, stage: Stage) -> None:
        """Refuse a device that this machine does not have."""
        own = "device" in self._recipe.table.get("stages", {}).get(stage.name, {})
        with located(f"stages.{stage.name}" if own else ""):
            stage.runtime.resolve_device()

    def check_backbone(self, stage: Stage) -> None:
        """Build the stage's backbone without weights and ask whether the stage can work with it, and whether a file of weights fits it."""
        backbone, data = _on_meta_or_cpu(partial(self._built, stage)), data_of(stage, self._data)
        path = f"stages.{stage.name}.{'task' if isinstance(stage, PretrainStage) else 'evaluator'}"
        with located(path):  # what the network sees, which views may make smaller than the data's images
            seen = seen_by(stage.task if isinstance(stage, PretrainStage) else stage.evaluator, data.image())
        with located(data_path(stage)):
            _on_meta_or_cpu(lambda device: check_images(seen, self._built(stage, device)))
        if stage.source is not None and stage.source.image is None:
            with located(f"stages.{stage.name}.weights"):
                fit_weights(stage.source, backbone)
        with located(path):
            if isinstance(stage, PretrainStage):
                check_pretraining(stage.task, backbone, data)
            else:
                check_requirements(stage.evaluator.requires, backbone, type(stage.evaluator).__name__)

    def check_data(self, stage: Stage) -> None:
        """Compare a stage's options with the number of images and labels there are."""
        path, data = f"stages.{stage.name}", data_of(stage, self._data)
        if isinstance(stage, PretrainStage):
            with located(path):
                stage.training.check_batch_size(len(pretraining_images(data)))
            return
        with located(path):
            labeled = evaluation_data(stage.evaluator, data)
        with located(f"{path}.evaluator"), data.lent_to(stage.evaluator):
            stage.evaluator.check(_on_meta_or_cpu(partial(self._built, stage)), labeled)

    def check_objectives(self) -> None:
        """Build what each pretraining stage trains, with its optimizers, once for all stages in which it is the same."""
        seen = set()
        for stage in self._recipe.stages:
            if (
                isinstance(stage, PretrainStage)
                and (key := repr((stage.task, stage.training, data_path(stage), self._key(stage)))) not in seen
            ):
                seen.add(key)
                _on_meta_or_cpu(partial(self._check_objective, stage))

    def check_schedules(self) -> None:
        """Ask the schedule of each stage that trains for learning rates."""
        for stage in self._recipe.stages:
            if found := training_of(stage):
                path, training = found
                with located(f"{path}.schedule"):
                    check_schedule(training.schedule, training.epochs)

    def _check_objective(self, stage: PretrainStage, device: str) -> None:
        images = pretraining_images(data_of(stage, self._data))
        backbone = copy.deepcopy(self._built(stage, device))
        with located(f"stages.{stage.name}.task"), torch.device(device):
            objective = stage.task.build_objective(backbone, DataInfo(images.image, len(images)))
        with located(f"stages.{stage.name}"):
            check_objective(objective)
            stage.training.drops_last(objective)
            build_optimizers(objective, stage.training.optimizers_for(objective.phases))

    def _built(self, stage: Stage, device: str) -> Backbone:
        key = f"{device} {self._key(stage)}"
        if key in self._failures:
            raise self._failures[key]
        if key not in self._backbones:
            image = backbone_image(self._recipe, stage, self._data.image())
            try:
                with torch.device(device):
                    self._backbones[key] = stage.backbone.without_downloads().build(image)
            except Exception as error:
                self._failures[key] = error
                raise
        return self._backbones[key]

    def _key(self, stage: Stage) -> str:
        return repr((stage.backbone.cls, stage.backbone.options, backbone_image(self._recipe, stage, self._data.image())))


def _on_meta_or_cpu(work: Callable[[str], T]) -> T:
    """Do something on the meta device if that is possible, else on the CPU: nobody who writes a network is asked to provide for that."""
    with global_seed(0):  # what is drawn is discarded, and must not move what others draw
        try:
            return work("meta")
        except Exception:
            return work("cpu")
