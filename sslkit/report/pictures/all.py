"""The pictures of a run that are computed from its networks and its data, or the reason why there are none."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

from sslkit.catalog.discovery import load_catalog
from sslkit.contract.errors import SslkitError
from sslkit.data.cache import OpenedDataset
from sslkit.recipe.recipe import Recipe, parse_recipe
from sslkit.recipe.stages import PretrainStage
from sslkit.report.pictures.attention import draw_attention
from sslkit.report.pictures.confusion import draw_confusion
from sslkit.report.pictures.filters import draw_filters
from sslkit.report.pictures.grid import draw_sheets
from sslkit.report.pictures.neighbours import draw_neighbours
from sslkit.report.pictures.networks import Network, best_layer, load_networks
from sslkit.report.pictures.picture import Picture
from sslkit.report.pictures.sample import ImageSample, sample_images, spread
from sslkit.report.pictures.views import pretraining_stages, stage_views, views_note, views_sheet
from sslkit.report.run_folder import RunFolder
from sslkit.training.device import tf32

MAX_SHEETS = 6
NUM_IMAGES = 6
"""On each sheet of views."""


class Pictures(NamedTuple):
    """What there is to see.

    Attributes:
        pictures: in the order to show them.
        note: why there are none, or no more.
    """

    pictures: tuple[Picture, ...] = ()
    note: str = ""


def run_pictures(folder: Path, recipe: Recipe, data: OpenedDataset) -> Pictures:
    """Draw a run's pictures from what its folder holds; downloads nothing."""
    pictures: list[Picture] = []
    try:
        if not data.available():
            return Pictures(note="There are no pictures, because the data is not on this machine.")
        data.load("pretrain")  # tells of a folder of images that is gone
        pictures.extend(draw_pictures(folder, recipe, data))
    except (SslkitError, OSError) as error:
        return Pictures(tuple(pictures), f"There are no {'more ' if pictures else ''}pictures: {error}")
    return Pictures(tuple(pictures))


def saved_run_pictures(run: RunFolder, *, allow_code: bool) -> Pictures:
    """The same for a run of which there is only the folder: its recipe is loaded again.

    Args:
        run: the run.
        allow_code: import the classes that the recipe names as ``module:Class``.
    """
    table = {key: value for key, value in run.recipe.items() if key != "observers"}  # nobody watches a report
    try:
        recipe = parse_recipe(table, load_catalog(allow_code=allow_code))
    except SslkitError as error:
        return Pictures(note=f"There are no pictures, because the recipe cannot be loaded: {error}")
    return run_pictures(run.folder, recipe, OpenedDataset(recipe.data))


def draw_pictures(folder: Path, recipe: Recipe, data: OpenedDataset) -> Iterator[Picture]:
    """Draw what can be drawn of a run, finished or not: a picture that cannot be drawn does not stand in the way of the others.

    Args:
        folder: the run's folder.
        recipe: the run's.
        data: its dataset. Images are read once, and only as many as are shown or searched.

    Yields:
        What each pretext task sees; first-layer filters; attention maps; nearest neighbours; confusion matrices.
    """
    for draw in _Drawings(folder, recipe, data).all():
        picture = None
        # Damaged weights, images that are gone: the other pictures may need neither.
        with suppress(SslkitError), tf32(allowed=False):
            picture = draw()
        if picture is not None:
            yield picture


class _Drawings:
    """What the drawings of one run share: its networks are read once, and its images."""

    def __init__(self, folder: Path, recipe: Recipe, data: OpenedDataset) -> None:
        self._folder = folder
        self._recipe = recipe
        self._data = data

    def all(self) -> Iterator[Callable[[], Picture | None]]:
        """Every drawing, in the order of the report."""
        for stage in spread(pretraining_stages(self._recipe), MAX_SHEETS):
            yield partial(self._views, stage)
        yield lambda: draw_filters(self._networks)
        yield lambda: None if self._sample is None else draw_attention(self._networks, self._sample)
        yield self._neighbours
        yield lambda: draw_confusion(self._folder, self._recipe)

    @cached_property
    def _networks(self) -> list[Network]:
        return load_networks(self._folder, self._recipe, self._data)

    @cached_property
    def _sample(self) -> ImageSample | None:
        return sample_images(self._data)

    def _views(self, stage: PretrainStage) -> Picture:
        views = stage_views(self._recipe, stage, self._data, NUM_IMAGES)
        note = views_note(views)
        made = ", ".join(view.name for view in views.views) or "nothing that can be shown"
        return Picture(
            key=f"views-{stage.key.replace('/', '-')}",
            title=f"What the pretext task sees: {stage.key}",
            caption="Each row: a training image after augmentation, and what the task makes of it for the network."
            + (f" {note[0].upper()}{note[1:]}." if note else ""),
            alt=f"A contact sheet of {len(views.images)} training images with the views that the task makes of them: {made}.",
            figure=draw_sheets(views_sheet(views)),
            raster=True,
        )

    def _neighbours(self) -> Picture | None:
        if self._sample is None or not self._networks:
            return None
        best = best_layer(self._folder, self._recipe, self._networks[0].backbone.layer_names)
        return draw_neighbours(self._networks, self._sample, best)
