"""The pictures of a run's networks, or the reason why there are none."""

from pathlib import Path
from typing import NamedTuple

from sslkit.catalog.discovery import load_catalog
from sslkit.contract.errors import SslkitError
from sslkit.data.cache import OpenedDataset
from sslkit.recipe.recipe import Recipe, parse_recipe
from sslkit.report.pictures.all import draw_pictures
from sslkit.report.pictures.picture import Picture
from sslkit.report.run_folder import RunFolder


class Album(NamedTuple):
    """What there is to see.

    Attributes:
        pictures: in the order to show them.
        note: why there are none, or no more.
    """

    pictures: tuple[Picture, ...] = ()
    note: str = ""


def fill_album(folder: Path, recipe: Recipe, data: OpenedDataset) -> Album:
    """Draw a run's pictures from what its folder holds; downloads nothing."""
    pictures: list[Picture] = []
    try:
        if not data.available():
            return Album(note="There are no pictures, for the data is not on this machine.")
        data.load("pretrain")  # tells of a folder of images that is gone
        pictures.extend(draw_pictures(folder, recipe, data))
    except (SslkitError, OSError) as error:
        return Album(tuple(pictures), f"There are no {'more ' if pictures else ''}pictures: {error}")
    return Album(tuple(pictures))


def open_album(run: RunFolder, *, allow_code: bool) -> Album:
    """The same for a run of which there is only the folder: its recipe is loaded again.

    Args:
        run: the run.
        allow_code: import the classes that the recipe names as ``module:Class``.
    """
    table = {key: value for key, value in run.recipe.items() if key != "observers"}  # nobody watches a report
    try:
        recipe = parse_recipe(table, load_catalog(allow_code=allow_code))
    except SslkitError as error:
        return Album(note=f"There are no pictures, for the recipe cannot be loaded: {error}")
    return fill_album(run.folder, recipe, OpenedDataset(recipe.data))
