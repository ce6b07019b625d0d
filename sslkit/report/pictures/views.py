"""The views that a method makes of a few images: the inputs of its network."""

from collections.abc import Mapping
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
from sslkit.recipe.stages import PretrainStage
from sslkit.report.picture import Picture
from sslkit.report.pictures.grid import Panel, Sheet, draw_sheets, drawable
from sslkit.report.pictures.sample import spread
from sslkit.run.networks import backbone_image, untrained
from sslkit.training.seeds import derive_seed, global_seed, make_generator

NUM_IMAGES = 6
"""Of a stage, in the report."""

MAX_COLUMNS = 16
"""Of one view; more are left out."""


class View(NamedTuple):
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
    views: tuple[View, ...]  # those that are images
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
            others[name] = f"{tuple(view.shape)} {str(view.dtype).removeprefix('torch.')}"
            continue
        words = captions.get(name)
        if words is not None and len(words) != len(view):
            who = type(objective).__name__
            raise PluginError(f"{who}.captions: {name!r} needs one caption per image", found=len(words), allowed=str(len(view)))
        order = torch.arange(len(view)).reshape(-1, len(pixels)).T.flatten()  # the contract has view after view
        views.append(View(name, drawn(view[order]), () if words is None else tuple(words[int(index)] for index in order)))
    return Views(drawn(pixels), tuple(views), others)


def is_image(view: Tensor, num_chs: int = 3) -> bool:
    """Whether a view can be shown: (M, C, h, w) with 1 or 3 channels, or as many as the data has, uint8 or float."""
    return (
        view.ndim == 4 and view.shape[1] in (1, 3, num_chs) and (view.dtype == torch.uint8 or view.is_floating_point()) and view.numel() > 0
    )


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
    """One stage for each distinct task: variants of a sweep often share theirs."""
    distinct: list[PretrainStage] = []
    for stage in recipe.stages:
        if isinstance(stage, PretrainStage) and all(stage.task != other.task for other in distinct):
            distinct.append(stage)
    return distinct


def stage_views(recipe: Recipe, stage: PretrainStage, data: OpenedDataset, num_images: int) -> Views:
    """The inputs of a stage's network at the beginning of its training; a ``DataError`` where there are no images."""
    images = data.load("pretrain")
    if images is None:
        raise DataError("the dataset has no images to pretrain on")
    backbone = untrained(stage.backbone, backbone_image(recipe, stage, data.image()), stage.seed)
    return make_views(stage.task, backbone, images, num_images=num_images, seed=stage.seed, options=stage.training.augment)


def draw_views(recipe: Recipe, stage: PretrainStage, data: OpenedDataset) -> Picture:
    """Draw :func:`stage_views`."""
    views = stage_views(recipe, stage, data, NUM_IMAGES)
    note = views_note(views)
    made = ", ".join(view.name for view in views.views) or "nothing that can be shown"
    return Picture(
        title=f"What the pretext task sees: {stage.key}",
        caption="Each row: a training image after augmentation, and what the task makes of it for the network."
        + (f" {note[0].upper()}{note[1:]}." if note else ""),
        alt=f"A contact sheet of {len(views.images)} training images with the views that the task makes of them: {made}.",
        figure=draw_sheets(views_sheet(views)),
        raster=True,
    )
