"""The recipes and weights that ship with sslkit: in the wheel beside the package, in a checkout at the top level."""

import os
from pathlib import Path
from typing import NamedTuple

from sslkit.contract.errors import RecipeError, did_you_mean


class BundledRecipe(NamedTuple):
    """One of them: the name that commands know it by, its file, and its first comment line."""

    name: str
    path: Path
    summary: str


def bundled_recipes() -> list[BundledRecipe]:
    """All of them, by name."""
    first_lines = {path: path.read_text(encoding="utf-8").partition("\n")[0] for path in sorted(_folder().glob("*.toml"))}
    return [BundledRecipe(path.stem, path, line.removeprefix("#").strip()) for path, line in first_lines.items()]


def bundled_weights() -> dict[str, Path]:
    """The files of pretrained backbones, by name; each has a model card beside it, ``<name>.md``."""
    return {path.stem: path for path in sorted(_folder().glob("weights/*.safetensors"))}


def find_recipe(text: str) -> Path:
    """A file's path, or the name of a bundled recipe, which a folder of that name, perhaps its run's, does not hide."""
    if Path(text).suffix or os.path.isfile(text):  # noqa: PTH113 - a name too long for a file is no file, where Path raises
        return Path(text)
    return find_bundled(text).path


def find_bundled(name: str) -> BundledRecipe:
    """A bundled recipe by its name, with ``.toml`` or without."""
    recipes = {recipe.name: recipe for recipe in bundled_recipes()}
    key = name.removesuffix(".toml")
    if key not in recipes:
        what = "is a folder" if os.path.isdir(name) else "no such file"  # noqa: PTH112
        raise RecipeError(f"{name}: {what}, and no bundled recipe of this name", allowed=recipes, fix=did_you_mean(key, recipes))
    return recipes[key]


def _folder() -> Path:
    package = Path(__file__).parents[1]
    installed = package / "_recipes"
    return installed if installed.is_dir() else package.parent / "recipes"
