"""The pictures of a run that are computed from its networks and its data, or the reason why there are none."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

from sslkit.catalog.discovery import load_catalog
from sslkit.contract.errors import SslkitError
from sslkit.data.cache import OpenedDataset
from sslkit.recipe.recipe import Recipe, parse_recipe
from sslkit.report.picture import Picture
from sslkit.report.pictures.confusion import draw_confusion
from sslkit.report.pictures.features import draw_attention, draw_filters, draw_neighbours
from sslkit.report.pictures.networks import best_layer, load_networks
from sslkit.report.pictures.sample import sample_images, spread
from sslkit.report.pictures.views import draw_evaluation_views, draw_views, pretraining_stages, viewing_stages
from sslkit.report.run_folder import RunFolder
from sslkit.run.networks import data_of, open_data
from sslkit.training.device import tf32


class Pictures(NamedTuple):
    """The pictures in order, and a note on why there are none or not all."""

    pictures: tuple[Picture, ...] = ()
    note: str = ""


def run_pictures(folder: Path, recipe: Recipe, data: OpenedDataset) -> Pictures:
    """Draw a run's pictures from what its folder holds; downloads nothing."""
    pictures: list[Picture] = []
    try:
        if not all(data_of(stage, data).available() for stage in recipe.stages):
            return Pictures(note="There are no pictures, because the data is not on this machine.")
        data.load("pretrain")  # raises where a folder of images is gone
        pictures.extend(draw_pictures(folder, recipe, data))
    except (SslkitError, OSError) as error:
        return Pictures(tuple(pictures), f"There are no {'more ' if pictures else ''}pictures: {error}")
    return Pictures(tuple(pictures))


def saved_run_pictures(run: RunFolder, *, allow_code: bool) -> Pictures:
    """The same for a run of which there is only the folder: its recipe is loaded again, importing ``module:Class`` if ``allow_code``."""
    table = {key: value for key, value in run.recipe.items() if key != "observers"}  # a report emits no events
    try:
        recipe = parse_recipe(table, load_catalog(allow_code=allow_code))
    except SslkitError as error:
        return Pictures(note=f"There are no pictures, because the recipe cannot be loaded: {error}")
    recipe = open_data(recipe)
    return run_pictures(run.folder, recipe, OpenedDataset.of(recipe.data))


def draw_pictures(folder: Path, recipe: Recipe, data: OpenedDataset) -> Iterator[Picture]:
    """Draw what can be drawn of a run, finished or not: what each pretext task sees, first-layer filters, attention maps, nearest neighbours
    and confusion matrices. Networks and images are read once, and only as many images as are shown or searched.
    """
    networks = cache(lambda: load_networks(folder, recipe, data))
    sample = cache(lambda: sample_images(data))
    drawings: list[Callable[[], Picture | None]] = [
        *(partial(draw_views, recipe, stage, data) for stage in spread(pretraining_stages(recipe), 6)),  # of a sweep's many tasks
        *(partial(draw_evaluation_views, stage, data) for stage in spread(viewing_stages(recipe), 6)),
        lambda: draw_filters(networks()),
        lambda: draw_attention(networks(), sample()),
        lambda: draw_neighbours(networks(), sample(), best_layer(folder, recipe, networks())),
        lambda: draw_confusion(folder, recipe),
    ]
    for draw in drawings:
        picture = None
        # Damaged weights, images that are gone: the other pictures may need neither.
        with suppress(SslkitError), tf32(allowed=False):
            picture = draw()
        if picture is not None:
            yield picture
