"""The networks of a recipe: what they are built for, as a stage begins with them, and as it left them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from sslkit.contract.backbone import Backbone
from sslkit.contract.blame import blaming
from sslkit.contract.errors import ArtifactError, BackboneError, DataError, OptionError, PluginError, RecipeError
from sslkit.contract.evaluator import Evaluator
from sslkit.contract.images import Dataset, ImageSpec
from sslkit.contract.objective import PretextTask
from sslkit.data.cache import OpenedDataset
from sslkit.recipe.describe import BackboneOptions
from sslkit.recipe.recipe import Recipe
from sslkit.recipe.stages import PretrainStage, Stage
from sslkit.run.artifacts import load_weights, weights_path
from sslkit.run.weights_file import fit_weights
from sslkit.training.device import explaining_breakdown
from sslkit.training.features import evaluating
from sslkit.training.seeds import derive_seed, global_seed
from sslkit.views.view import views_of


def open_data(recipe: Recipe) -> Recipe:
    """The recipe with its datasets opened: what several stages read is loaded once."""
    opened: dict[int, OpenedDataset] = {}

    def once(dataset: Dataset) -> OpenedDataset:
        return opened.setdefault(id(dataset), OpenedDataset.of(dataset))

    stages = (stage if stage.data is None else replace(stage, data=once(stage.data)) for stage in recipe.stages)
    return replace(recipe, data=once(recipe.data), stages=tuple(stages))


def data_of(stage: Stage, data: OpenedDataset) -> OpenedDataset:
    """What a stage reads: its own data, or the recipe's, ``data``."""
    return data if stage.data is None else OpenedDataset.of(stage.data)


def reads(recipe: Recipe, data: OpenedDataset) -> list[tuple[OpenedDataset, list[Stage]]]:
    """Each dataset with the stages that read it, in the order of the stages; ``data`` is the recipe's."""
    found: dict[int, tuple[OpenedDataset, list[Stage]]] = {}
    for stage in recipe.stages:
        own = data_of(stage, data)
        found.setdefault(id(own), (own, []))[1].append(stage)
    return list(found.values())


def data_path(stage: Stage) -> str:
    """The dotted path of the table that says what a stage reads."""
    return "data" if stage.data is None else f"stages.{stage.name}.data"


def backbone_image(recipe: Recipe, stage: Stage, data: ImageSpec) -> ImageSpec:
    """The images that the stage's backbone is built for, as the task or evaluator that it begins with says, or the run that it comes from.
    ``data`` describes the recipe's images.
    """
    while stage.earlier is not None:
        stage = recipe.stage(stage.earlier)
    if stage.source is not None and stage.source.image is not None:
        return stage.source.image
    data = data if stage.data is None else stage.data.image()
    if not isinstance(stage, PretrainStage):
        with located(f"stages.{stage.name}.evaluator"):
            return seen_by(stage.evaluator, data)
    with located(f"stages.{stage.name}.task"):
        return seen_by(stage.task, data)


def seen_by(options: PretextTask | Evaluator, image: ImageSpec) -> ImageSpec:
    """The images that a task or an evaluator asks for a network of, where the data's are ``image``.

    Raises:
        OptionError: one of its views, which is named, cannot be made of these.
    """
    for option, view in views_of(options):
        view.check(image, option)
    return options.image_spec(image)


def untrained(options: BackboneOptions, image: ImageSpec, seed: int) -> Backbone:
    """A network with random weights, also where the options ask for pretrained ones."""
    return _built(options.without_downloads(), image, seed)


def _built(options: BackboneOptions, image: ImageSpec, seed: int) -> Backbone:
    """Random weights depend on the run's seed alone, so that every untrained stage starts from the same."""
    cpu = torch.device("cpu")
    with explaining_breakdown("the construction of the backbone", cpu), global_seed(derive_seed(seed, "backbone")):
        return options.build(image)


def begun_with(
    recipe: Recipe, stage: Stage, data: OpenedDataset, folder: Path, tell: Callable[[str], object] = lambda _note: None
) -> Backbone:
    """The network that a stage begins with; earlier stages left theirs in the run's folder. ``tell`` is called with a note on how
    the weights of a file were matched.

    Raises:
        ArtifactError: the weights are missing or do not fit.
    """
    image, source = backbone_image(recipe, stage, data.image()), stage.source
    if stage.earlier is not None:
        return _read(stage.backbone, image, weights_path(folder / stage.earlier, stage.snapshot))
    if source is None:
        return _built(stage.backbone, image, stage.seed)
    if source.image is not None:
        return _read(stage.backbone, image, weights_path(source.path, source.snapshot))
    backbone = _built(stage.backbone.without_downloads(), image, stage.seed)
    fitted = fit_weights(source, backbone)
    backbone.load_state_dict({**backbone.state_dict(), **fitted.tensors})
    tell(f"weights: {fitted.note}")
    return backbone


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
        OptionError: one of the task's views cannot be made of the data's images.
    """
    check_requirements(task.requires, backbone, type(task).__name__)
    images = data.image()
    wanted = seen_by(task, images)
    kinds = [(image.color, image.num_chs) for image in (wanted, backbone.image, images)]
    if kinds[0] not in kinds[1:]:  # a task that takes images as they come takes converted ones too
        raise BackboneError(
            f"{type(task).__name__} needs a backbone built for {wanted.meaning}",
            found=backbone.image.meaning if backbone.image.color is None else backbone.image.color,
            fix="build it with task.image_spec(data.image())",
        )
    check_channels(backbone, images)


def check_channels(backbone: Backbone, image: ImageSpec) -> None:
    """Refuse a backbone whose ``prepare`` cannot convert images of this kind.

    Raises:
        BackboneError: they have another number of bands, or no colours.
    """
    own = backbone.image
    if own.num_chs != image.num_chs if own.color is None else image.color is None and image.num_chs not in (1, 3):
        raise BackboneError(f"the backbone is built for {own.meaning}", found=image.meaning, fix="choose other images, or another backbone")


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


def check_images(images: ImageSpec, backbone: Backbone) -> None:
    """Refuse images that :meth:`Backbone.prepare` cannot convert, or whose size the network cannot take. Needs no weights.

    Raises:
        BackboneError: says which images.
    """
    own = backbone.image
    check_channels(backbone, images)
    if images[:3] == own[:3]:
        return
    shape = (2, images.num_chs, images.height, images.width)
    try:
        with torch.no_grad(), evaluating(backbone):
            backbone(torch.zeros(shape, dtype=torch.uint8, device=backbone.mean.device), backbone.layer_names)
    except (BackboneError, RuntimeError, ValueError, AssertionError) as error:
        what, built = (f"{spec.meaning} of {spec.height} x {spec.width} pixels" for spec in (images, own))
        reason = " ".join(str(error).split())
        fix = "set image_size where the data has that option, or choose another network"
        raise BackboneError(f"{what} cannot be taken by a network that was built for {built} ({reason})", fix=fix) from error


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
    except (ArtifactError, DataError, PluginError) as error:
        raise type(error)(f"{path}: {error}") from error


def _read(options: BackboneOptions, image: ImageSpec, path: Path) -> Backbone:
    with global_seed(0):  # what is drawn is read over, and must not move what others draw
        backbone = options.without_downloads().build(image)
    load_weights(backbone, path)
    return backbone
