"""The pictures of a run that are computed from its networks and its data."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cached_property, partial
from pathlib import Path

from sslkit.contract.errors import SslkitError
from sslkit.data.cache import OpenedDataset
from sslkit.recipe.recipe import Recipe
from sslkit.recipe.stages import PretrainStage
from sslkit.report.pictures.attention import draw_attention
from sslkit.report.pictures.best_layer import best_layer
from sslkit.report.pictures.confusion import draw_confusion
from sslkit.report.pictures.contact_sheet import Sheet, draw_sheets
from sslkit.report.pictures.filters import draw_filters
from sslkit.report.pictures.gallery import Gallery, open_gallery
from sslkit.report.pictures.neighbours import draw_neighbours
from sslkit.report.pictures.networks import Network, line_up
from sslkit.report.pictures.picture import Picture
from sslkit.report.pictures.recipe_views import pretraining_stages, stage_views
from sslkit.report.pictures.spread import spread
from sslkit.training.device import tf32

MAX_SHEETS = 6
NUM_IMAGES = 6
"""On each contact sheet."""

Draw = Callable[[], Picture | None]


def draw_pictures(folder: Path, recipe: Recipe, data: OpenedDataset) -> Iterator[Picture]:
    """Draw what can be drawn of a run, finished or not: a picture that cannot be drawn does not stand in the way of the others.

    Args:
        folder: the run's folder.
        recipe: the run's.
        data: its data set. Images are read once, and only as many as are shown or searched.

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

    def all(self) -> Iterator[Draw]:
        """Every drawing, in the order of the report."""
        for stage in spread(pretraining_stages(self._recipe), MAX_SHEETS):
            yield partial(self._sheet, stage)
        yield from (self._filters, self._attention, self._neighbours, self._confusion)

    @cached_property
    def _networks(self) -> list[Network]:
        return line_up(self._folder, self._recipe, self._data)

    @cached_property
    def _gallery(self) -> Gallery | None:
        return open_gallery(self._data)

    def _sheet(self, stage: PretrainStage) -> Picture:
        sheet = Sheet("", stage_views(self._recipe, stage, self._data, NUM_IMAGES))
        note = f" {sheet.note[0].upper()}{sheet.note[1:]}." if sheet.note else ""
        made = ", ".join(view.name for view in sheet.views.views) or "nothing that can be shown"
        return Picture(
            key=f"views-{stage.key.replace('/', '-')}",
            title=f"What the pretext task sees: {stage.key}",
            caption=f"Each row: a training image after augmentation, and what the task makes of it for the network.{note}",
            alt=f"A contact sheet of {len(sheet.views.images)} training images with the views that the task makes of them: {made}.",
            figure=draw_sheets([sheet]).figure(),
            raster=True,
        )

    def _filters(self) -> Picture | None:
        return draw_filters(self._networks)

    def _attention(self) -> Picture | None:
        return None if self._gallery is None else draw_attention(self._networks, self._gallery)

    def _neighbours(self) -> Picture | None:
        if self._gallery is None or not self._networks:
            return None
        best = best_layer(self._folder, self._recipe, self._networks[0].backbone.layer_names)
        return draw_neighbours(self._networks, self._gallery, best)

    def _confusion(self) -> Picture | None:
        return draw_confusion(self._folder, self._recipe)
