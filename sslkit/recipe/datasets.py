"""The datasets of a recipe, ``[data]`` and the stages' own ``data``; equal ones are built once."""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from sslkit.catalog.catalog import Catalog
from sslkit.contract.errors import PluginError, RecipeError, did_you_mean
from sslkit.contract.images import Dataset
from sslkit.data.subset import Subset
from sslkit.recipe.build import build, construct, options_of, refusing
from sslkit.recipe.describe import describe
from sslkit.recipe.schema import SUBSET_KEYS


class Datasets:
    """Builds datasets, equal tables as one object, so that stages share what is loaded."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._built: dict[str, Dataset] = {}

    def build(self, table: object, path: str, seed: int) -> Dataset:
        """Build the dataset of a table or a name; ``seed`` draws the images of a subset."""
        own = dict(table) if isinstance(table, Mapping) else {}
        options = self._options(own.get("name"))
        taken = {key: own.pop(key) for key in SUBSET_KEYS if key in own and key not in options}
        for key in own.keys() - options.keys():
            if options and not did_you_mean(key, options) and (near := did_you_mean(key, SUBSET_KEYS)):
                raise RecipeError(f"{path}.{key}: unknown option", fix=near)
        if not taken:
            return self._once(build(Dataset, table, path, self._catalog))
        source = self._once(build(Dataset, own, path, self._catalog))
        part = {key: build(SUBSET_KEYS[key], value, f"{path}.{key}", self._catalog) for key, value in taken.items()}
        with refusing(path):
            return self._once(construct(Subset, (), {"source": source, "seed": seed, **part}))

    def _options(self, name: object) -> Mapping[str, Any]:
        """The options of a dataset class, which may have one of our keys itself; empty for a name that cannot be found."""
        with suppress(PluginError):
            return options_of(self._catalog.find("datasets", name)) if isinstance(name, str) else {}
        return {}

    def _once(self, dataset: Dataset) -> Dataset:
        """One object for all datasets of equal class and options; == would be up to the class."""
        seed = dataset.seed if isinstance(dataset, Subset) and dataset.max_images is not None else ""
        return self._built.setdefault(f"{seed} {json.dumps(describe_data(dataset, self._catalog), sort_keys=True)}", dataset)


def describe_data(dataset: Dataset, catalog: Catalog) -> dict[str, Any]:
    """The table that a dataset could have been built from, with every default."""
    if not isinstance(dataset, Subset):
        return describe(dataset, catalog)
    part = {"classes": dataset.classes and list(dataset.classes), "max_images": dataset.max_images}
    return describe(dataset.source, catalog) | {key: value for key, value in part.items() if value is not None}


def data_table(what: str) -> dict[str, Any]:
    """The table that a folder of images, or the name of a dataset, stands for."""
    return {"name": "image_folder", "root": what} if Path(what).is_dir() else {"name": what}


def stage_table(own: object, common: object) -> object:
    """A stage's data: a table with a name, or just a name, is used as it is; a table without one changes keys of ``[data]``."""
    if not isinstance(own, Mapping) or "name" in own:
        return own
    return {**(common if isinstance(common, Mapping) else {"name": common}), **own}
