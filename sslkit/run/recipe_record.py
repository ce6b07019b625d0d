"""The resolved recipe, in the folder of its run."""

from pathlib import Path

import tomli_w

from sslkit.contract.events import Event, Record, StageStart
from sslkit.recipe.recipe import Recipe
from sslkit.storage.json_files import write_text


class RecipeKeeper(Record):
    """Writes the recipe down when a stage begins to compute: a start that is refused, or that finds everything finished, changes nothing.

    Args:
        folder: the run's folder.
        recipe: what is run.
    """

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        self._folder = folder
        self._recipe = recipe

    def observe(self, event: Event) -> None:
        """See :class:`Observer`."""
        if isinstance(event, StageStart):
            write_recipe(self._folder, self._recipe)


def write_recipe(folder: Path, recipe: Recipe) -> None:
    """Write the resolved recipe; where it has a sweep, the recipe as it is, and each variant's resolved one."""
    write_text(folder / "recipe.toml", tomli_w.dumps(dict(recipe.table)))
    for name, table in recipe.variants.items():
        write_text(folder / "variants" / f"{name}.toml", tomli_w.dumps(dict(table)))
