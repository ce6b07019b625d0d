"""The recipes and weights that ship with sslkit: in the wheel beside the package, in a checkout at the top level."""

import os
import re
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
    return _bundled(text).path


def copy_recipe(name: str, target: Path) -> Path:
    """Copy a bundled recipe into a folder, or to a new file, which is returned: ``mine.toml`` holds a recipe of the name ``mine``. An
    existing file is refused.
    """
    recipe = _bundled(name)
    path = target / recipe.path.name if target.is_dir() else target
    text = recipe.path.read_text(encoding="utf-8").replace(f"sslkit run recipes/{recipe.path.name}", f"sslkit run {path.name}")
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", path.stem):
        text = text.replace(f'\nname = "{recipe.name}"\n', f'\nname = "{path.stem}"\n')
    if path.exists():
        raise RecipeError(f"{path}: exists already", fix="name another file, or remove it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise RecipeError(f"{path}: cannot be written ({error.strerror or error})", fix="name another file") from error
    return path


def _bundled(name: str) -> BundledRecipe:
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
