"""The views that a method makes of a few images: what its network is fed."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from sslkit.contract.backbone import Backbone
from sslkit.contract.errors import PluginError
from sslkit.contract.images import Augment, Batch, DataInfo, ImageSet
from sslkit.contract.objective import Objective, PretextTask
from sslkit.data.augment import augment
from sslkit.report.pictures.spread import spread
from sslkit.training.seeds import derive_seed, global_seed, make_generator


class View(NamedTuple):
    """Images that were made of each image, under one name.

    Attributes:
        name: the view's.
        images: (N * K, C, h, w) uint8, or float in [0, 1]; image after image where ``by_image``, else as the method ordered them.
        captions: one an image; empty where the method gives none.
        by_image: whether it is known which of them were made of which image.
    """

    name: str
    images: Tensor
    captions: tuple[str, ...]
    by_image: bool


class Views(NamedTuple):
    """All that was made of a few images.

    Attributes:
        images: (N, C, H, W) uint8, augmented: what went in.
        views: those that can be looked at.
        others: the shape and type of the rest, by name.
    """

    images: Tensor
    views: tuple[View, ...]
    others: Mapping[str, str]


def make_views(
    task: PretextTask, backbone: Backbone, images: ImageSet, *, num_images: int, seed: int, options: Augment | None = None
) -> Views:
    """Augment a few images as a training batch is and let a method make its views of them.

    Args:
        task: the method's options.
        backbone: a network that it can work with; its weights matter to a method alone whose views come from the network.
        images: spread over these.
        num_images: how many.
        seed: of all randomness.
        options: the augmentation.

    Raises:
        PluginError: the captions are not one an image.
    """
    indices = torch.tensor(spread(range(len(images)), num_images))
    pixels = augment(images.read(indices.tolist()), options or Augment(), make_generator(derive_seed(seed, "views", "augment")))
    with global_seed(derive_seed(seed, "views", "objective")):
        objective = task.build_objective(backbone, DataInfo(images.image, len(images)))
    made = _make(objective, Batch(pixels, indices), seed)
    shown = {name: view for name, view in made.items() if is_image(view)}
    captions = _captions(objective, made, shown)
    origins = _origins(objective, Batch(pixels, indices), seed)
    views = tuple(_sorted(name, view, captions.get(name, ()), origins.get(name), len(pixels)) for name, view in shown.items())
    return Views(pixels, views, {name: describe(view) for name, view in made.items() if name not in shown})


def is_image(view: Tensor) -> bool:
    """Whether a view can be looked at: (M, C, h, w) with 1 or 3 channels, uint8 or float."""
    return view.ndim == 4 and view.shape[1] in (1, 3) and (view.dtype == torch.uint8 or view.is_floating_point()) and view.numel() > 0


def describe(view: Tensor) -> str:
    """``(24,) int64``."""
    return f"{tuple(view.shape)} {str(view.dtype).removeprefix('torch.')}"


def _make(objective: Objective, batch: Batch, seed: int) -> dict[str, Tensor]:
    with torch.no_grad(), global_seed(derive_seed(seed, "views")):
        return objective.train().make_views(batch, make_generator(derive_seed(seed, "views", "draws")), train=True)


def _captions(objective: Objective, made: Mapping[str, Tensor], shown: Mapping[str, Tensor]) -> dict[str, tuple[str, ...]]:
    captions = {name: tuple(texts) for name, texts in objective.captions(made).items()}
    for name, view in shown.items():
        if name in captions and len(captions[name]) != len(view):
            who = type(objective).__name__
            raise PluginError(f"{who}.captions: {name!r} needs one caption an image", found=len(captions[name]), allowed=str(len(view)))
    return captions


def _origins(objective: Objective, batch: Batch, seed: int) -> dict[str, Tensor]:
    """Which views were made of the first image, found by making them again with the same draws of one white and many black images.

    The contract leaves the order of N * K views to the method: view after view, as ``torch.cat`` of K views has it, or image after
    image, as tiles that were cut out have it.

    Returns:
        By name (M,) bool, all false where brightness does not tell.
    """
    probe = torch.zeros_like(batch.images)
    probe[0] = 255
    brightness = {
        name: view.float().mean(dim=(1, 2, 3))
        for name, view in _make(objective, Batch(probe, batch.indices), seed).items()
        if is_image(view)
    }
    return {name: light > light.aminmax().min.lerp(light.max(), 0.5) for name, light in brightness.items()}


def _sorted(name: str, view: Tensor, captions: tuple[str, ...], of_first: Tensor | None, num_images: int) -> View:
    """Put the views of each image one after the other, where that can be told."""
    num_views, rest = divmod(len(view), num_images)
    places = torch.arange(len(view))
    if rest or of_first is None or len(of_first) != len(view):
        return View(name, view, captions, by_image=False)
    if num_images == 1 or num_views == 1 or torch.equal(of_first, places < num_views):
        return View(name, view, captions, by_image=True)
    if torch.equal(of_first, places % num_images == 0):
        order = places.reshape(num_views, num_images).T.flatten()
        return View(name, view[order], tuple(captions[int(place)] for place in order) if captions else (), by_image=True)
    return View(name, view, captions, by_image=False)
