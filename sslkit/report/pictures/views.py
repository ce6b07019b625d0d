"""The views that a method or an evaluator makes of a few images: the inputs of a network."""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from sslkit.contract.backbone import Backbone
from sslkit.contract.errors import DataError, PluginError
from sslkit.contract.images import Augment, Batch, DataInfo, ImageSet
from sslkit.contract.objective import PretextTask
from sslkit.data.augment import augment
from sslkit.data.cache import OpenedDataset
from sslkit.recipe.recipe import Recipe
from sslkit.recipe.stages import EvaluateStage, PretrainStage, training_of
from sslkit.report.picture import Picture
from sslkit.report.pictures.grid import Panel, Sheet, draw_sheets, drawable
from sslkit.report.pictures.sample import spread
from sslkit.run.networks import backbone_image, data_of, untrained
from sslkit.run.stages import evaluation_data
from sslkit.training.seeds import derive_seed, global_seed, make_generator
from sslkit.views.view import View, views_of

NUM_IMAGES = 6
"""Of a stage, in the report."""

NUM_DRAWS = 4
"""Of a random view, of each image."""

MAX_COLUMNS = 16
"""Of one view; more are left out."""


class Shown(NamedTuple):
    """The images that were made of each image under one name."""

    name: str
    images: Tensor  # (N * K, 1 or 3, h, w) uint8, or float in [0, 1]; image after image
    captions: tuple[str, ...]  # one per image; empty where the method gives none

    @property
    def heading(self) -> str:
        """The name and the size of the images."""
        height, width = self.images.shape[-2:]
        return f"{self.name}, {height} x {width}"


class Views(NamedTuple):
    """Everything that was made of a few images."""

    images: Tensor  # (N, 1 or 3, H, W) uint8, or float in [0, 1], augmented: the input
    views: tuple[Shown, ...]  # those that are images
    others: Mapping[str, str]  # the shape and dtype of the rest, by name


def make_views(
    task: PretextTask, backbone: Backbone, images: ImageSet, *, num_images: int, seed: int, options: Augment | None = None
) -> Views:
    """Augment a few images, evenly spaced in the set, as a training batch is, and let a method make its views of them.

    The weights of the backbone matter only where views come from the network. A ``PluginError`` where there is not one caption per image.
    """
    indices = torch.tensor(spread(range(len(images)), num_images))
    pixels = augment(images.read(indices.tolist()), options or Augment(), make_generator(derive_seed(seed, "views", "augment")))
    with global_seed(derive_seed(seed, "views", "objective")):
        objective = task.build_objective(backbone, DataInfo(images.image, len(images)))
    with torch.no_grad(), global_seed(derive_seed(seed, "views")):
        made = objective.train().make_views(Batch(pixels, indices), make_generator(derive_seed(seed, "views", "draws")), train=True)
    captions, views, others = objective.captions(made), [], {}
    drawn = partial(drawable, num_chs=images.image.num_chs, display=images.display)
    for name, view in made.items():
        if not is_image(view, images.image.num_chs) or len(view) % len(pixels):
            others[name] = _kind(view)
            continue
        words = captions.get(name)
        if words is not None and len(words) != len(view):
            who = type(objective).__name__
            raise PluginError(f"{who}.captions: {name!r} needs one caption per image", found=len(words), allowed=str(len(view)))
        order = torch.arange(len(view)).reshape(-1, len(pixels)).T.flatten()  # the contract has view after view
        views.append(Shown(name, drawn(view[order]), () if words is None else tuple(words[int(index)] for index in order)))
    return Views(drawn(pixels), tuple(views), others)


def apply_views(
    views: Iterable[tuple[str, View]], images: ImageSet, *, num_images: int, seed: int, options: Augment | None = None
) -> Views:
    """Augment a few images, evenly spaced in the set, and make views of them, by name: a few where they are random, else one."""
    pixels = augment(
        images.read(spread(range(len(images)), num_images)), options or Augment(), make_generator(derive_seed(seed, "views", "augment"))
    )
    drawn = partial(drawable, num_chs=images.image.num_chs, display=images.display)
    made, others = [], {}
    for name, view in views:
        generator = make_generator(derive_seed(seed, "views", name))
        found = torch.stack([view(pixels, generator) for _ in range(NUM_DRAWS if view.random else 1)], dim=1).flatten(0, 1)
        if is_image(found, images.image.num_chs):
            made.append(Shown(name, drawn(found), ()))
        else:
            others[name] = _kind(found)
    return Views(drawn(pixels), tuple(made), others)


def is_image(view: Tensor, num_chs: int = 3) -> bool:
    """Whether a view can be shown: (M, C, h, w) with 1 or 3 channels, or as many as the data has, uint8 or float."""
    return (
        view.ndim == 4 and view.shape[1] in (1, 3, num_chs) and (view.dtype == torch.uint8 or view.is_floating_point()) and view.numel() > 0
    )


def _kind(view: Tensor) -> str:
    return f"{tuple(view.shape)} {str(view.dtype).removeprefix('torch.')}"


def views_note(views: Views) -> str:
    """A note on what :func:`views_sheet` does not show."""
    others = ", ".join(f"{name} {shape}" for name, shape in views.others.items())
    columns = {view.heading: len(view.images) // len(views.images) for view in views.views}
    cut = ", ".join(f"{heading}: {MAX_COLUMNS} of {num}" for heading, num in columns.items() if num > MAX_COLUMNS)
    return "; ".join(part for part in (others and f"also made: {others}", cut and f"shown of {cut}") if part)


def views_sheet(views: Views, title: str = "") -> Sheet:
    """A few images, each in a row with the views that were made of it; below a title, what is not shown."""
    num_rows, panels = len(views.images), [Panel(views.images, 1, notes=("image",))]
    for view in views.views:
        num_views = len(view.images) // num_rows
        shown = min(MAX_COLUMNS, num_views)
        images = view.images.unflatten(0, (num_rows, -1))[:, :shown].flatten(0, 1)
        captions = [caption for index, caption in enumerate(view.captions) if index % num_views < shown]
        panel = Panel(images, shown, notes=(view.heading,), captions=captions)
        if captions == captions[:shown] * num_rows:  # one that all images of a column share is its heading
            panel = panel._replace(headings=captions[:shown], captions=())
        panels.append(panel)
    return Sheet(panels, title, views_note(views) if title else "")


def pretraining_stages(recipe: Recipe) -> list[PretrainStage]:
    """One stage for each distinct task and data: variants of a sweep often share theirs."""
    distinct: list[PretrainStage] = []
    for stage in recipe.stages:
        if isinstance(stage, PretrainStage) and all((stage.task, stage.data) != (other.task, other.data) for other in distinct):
            distinct.append(stage)
    return distinct


def viewing_stages(recipe: Recipe) -> list[EvaluateStage]:
    """One evaluation for each distinct set of views and data, of those that have any views."""
    distinct: list[EvaluateStage] = []
    seen: list[tuple[object, object]] = []
    for stage in recipe.stages:
        if isinstance(stage, EvaluateStage) and (views := [*views_of(stage.evaluator)]) and (views, stage.data) not in seen:
            distinct.append(stage)
            seen.append((views, stage.data))
    return distinct


def evaluation_views(stage: EvaluateStage, data: OpenedDataset, num_images: int) -> Views:
    """What an evaluator's views make of its training images."""
    found = training_of(stage)
    images, options = evaluation_data(stage.evaluator, data_of(stage, data)).train, found[1].augment if found else None
    return apply_views(views_of(stage.evaluator), images, num_images=num_images, seed=stage.seed, options=options)


def stage_views(recipe: Recipe, stage: PretrainStage, data: OpenedDataset, num_images: int) -> Views:
    """The inputs of a stage's network at the beginning of its training; a ``DataError`` where there are no images."""
    images = data_of(stage, data).load("pretrain")
    if images is None:
        raise DataError("the dataset has no images to pretrain on")
    backbone = untrained(stage.backbone, backbone_image(recipe, stage, data.image()), stage.seed)
    return make_views(stage.task, backbone, images, num_images=num_images, seed=stage.seed, options=stage.training.augment)


def draw_views(recipe: Recipe, stage: PretrainStage, data: OpenedDataset) -> Picture:
    """Draw :func:`stage_views`."""
    return _picture(f"What the pretext task sees: {stage.key}", "task", stage_views(recipe, stage, data, NUM_IMAGES))


def draw_evaluation_views(stage: EvaluateStage, data: OpenedDataset) -> Picture:
    """Draw :func:`evaluation_views`."""
    return _picture(f"What the evaluation sees: {stage.key}", "evaluator", evaluation_views(stage, data, NUM_IMAGES))


def _picture(title: str, maker: str, views: Views) -> Picture:
    note = views_note(views)
    made = ", ".join(view.name for view in views.views) or "nothing that can be shown"
    return Picture(
        title=title,
        caption=f"Each row: a training image after augmentation, and what the {maker} makes of it for the network."
        + (f" {note[0].upper()}{note[1:]}." if note else ""),
        alt=f"A contact sheet of {len(views.images)} training images with the views that the {maker} makes of them: {made}.",
        figure=draw_sheets(views_sheet(views)),
        raster=True,
    )
