"""``sslkit show``: a picture of the views that a task makes, or each stage of a recipe, before anything is trained; or of any view."""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from sslkit.catalog.catalog import Catalog
from sslkit.catalog.discovery import load_catalog
from sslkit.cli.console import make_console, print_code
from sslkit.contract.errors import BackboneError, OptionError, RecipeError, did_you_mean
from sslkit.contract.images import Dataset
from sslkit.contract.objective import PretextTask
from sslkit.data.arrays import Arrays
from sslkit.data.cache import OpenedDataset
from sslkit.data.subset import whole
from sslkit.recipe.build import build
from sslkit.recipe.bundled import bundled_recipes, find_recipe
from sslkit.recipe.datasets import Datasets, data_table
from sslkit.recipe.describe import build_backbone_options
from sslkit.recipe.recipe import Recipe, load_recipe
from sslkit.recipe.toml import apply_override
from sslkit.report.picture import png
from sslkit.report.pictures.grid import Sheet, draw_sheets
from sslkit.report.pictures.views import (
    Views,
    apply_views,
    evaluation_views,
    make_views,
    pretraining_stages,
    stage_views,
    viewing_stages,
    views_sheet,
)
from sslkit.run.networks import open_data, seen_by
from sslkit.run.preflight import Preflight
from sslkit.run.stages import pretraining_images
from sslkit.views.view import View

NUM_IMAGES = 6

_BACKBONES = ({"name": "nin", "width": 0.1}, {"name": "timm", "model": "vit_tiny_patch16_224"})
"""A small network of maps and one of tokens, to build a task around that is shown on its own."""

_LARGE = 32
"""Pixels of a digit for tasks that cannot do with the eight it has."""


def write_preview(
    what: str,
    settings: Iterable[str] = (),
    *,
    view: str | None = None,
    data: str | None = None,
    num_images: int = NUM_IMAGES,
    output: Path | None = None,
    allow_code: bool = False,
) -> Path:
    """Draw what a network is fed: a few images, each in a row with the views that are made of it.

    Args:
        what: a pretext task by its name or as ``package.module:Class``, or a recipe; with ``view`` a recipe, a folder of images or a dataset.
        settings: ``key=value``: options of the task or the dataset, or overrides of the recipe.
        view: a preset by its name or a table of functions in TOML, to draw on the images that ``what`` has.
        data: for a task: a folder of images, or the name of a dataset; None: the bundled digits, larger and with three
            equal channels where the task cannot do with them as they are; the title says so.
        num_images: how many rows.
        output: the PNG file; None: ``runs/<name>-views.png``.
        allow_code: import the classes that a recipe in a run's folder names as ``package.module:Class``; any other recipe may name them.

    Returns:
        The file.

    Raises:
        SslkitError: a name or an option is wrong, nothing pretrains, there are no images, or the file cannot be written, or would lie among
            the images.
    """
    if num_images < 1:
        raise OptionError("num_images", "must be positive", found=num_images, allowed="1 or more")
    if output is not None and output.suffix.lower() != ".png":
        raise OptionError("output", "must be a PNG file", found=str(output), fix="end its name in .png")
    catalog = load_catalog(allow_code=allow_code)
    if view is not None:
        if data is not None:
            raise OptionError("data", "cannot be combined with --view", found=data, fix="name the data in place of a task")
        return _written(*_view_sheet(what, list(settings), view, num_images, catalog, allow_code=allow_code), output)
    if _is_task(what, catalog):
        catalog = replace(catalog, allow_code=True)  # every name in it was given to this function, none by somebody's file
        name, sheets = what.rpartition(":")[2], [_task_sheet(what, list(settings), data, num_images, catalog)]
        folders = [] if data is None else [Path(data)]
    else:
        if data is not None:
            raise OptionError("data", "a recipe has its own", found=data, fix="override that: data.root=FOLDER")
        recipe = load_recipe(find_recipe(what), settings, catalog=catalog, allow_code=allow_code or None)
        print_code(make_console(sys.stderr), recipe.code)
        name, sheets = recipe.name, _recipe_sheets(what, recipe, num_images)
        sources = (recipe.data, *(stage.data for stage in recipe.stages if stage.data is not None))
        folders = [folder for source in sources for folder in _folders(source)]
    return _written(name, sheets, folders, output)


def _folders(data: Dataset) -> list[Path]:
    return [Path(value) for value in vars(whole(data)).values() if isinstance(value, str | Path)]


def _written(name: str, sheets: Sequence[Sheet], folders: Sequence[Path], output: Path | None) -> Path:
    path = Path("runs") / f"{name}-views.png" if output is None else output
    for folder in folders:
        if folder.is_dir() and path.resolve().is_relative_to(folder.resolve()):  # it would be an image in the next run
            raise OptionError("output", f"is inside the data, {folder}", found=str(path), fix="name a file elsewhere with --output")
    picture = png(draw_sheets(*sheets))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture)
    except OSError as error:
        raise OptionError("output", f"cannot be written ({error.strerror or error})", found=str(path), fix="name another file") from error
    return path


def _is_task(what: str, catalog: Catalog) -> bool:
    """Whether a word means a task; else it means a recipe.

    Raises:
        RecipeError: it means neither.
    """
    tasks, recipes = catalog.names("pretext_tasks"), [recipe.name for recipe in bundled_recipes()]
    if what in recipes or Path(what).suffix == ".toml":
        return False
    if what in tasks or ":" in what:
        return True
    if Path(what).is_file():
        return False
    fix = did_you_mean(what, [*tasks, *recipes]) or "`sslkit plugins` lists the tasks, and which plugins are broken"
    raise RecipeError(f"{what}: neither a pretext task nor a recipe", allowed=[*tasks, *recipes], fix=fix)


def _dataset(what: str, settings: Iterable[str], catalog: Catalog) -> Dataset:
    """A folder of images, or a dataset by its name."""
    table = data_table(what)
    for setting in settings:
        apply_override(table, setting)
    return Datasets(catalog).build(table if len(table) > 1 else what, "data", seed=0)


def _view_sheet(
    what: str, settings: Sequence[str], text: str, num_images: int, catalog: Catalog, *, allow_code: bool
) -> tuple[str, list[Sheet], list[Path]]:
    """The picture's name, its sheet, and the folders in which it may not lie."""
    table: dict[str, object] = {}
    apply_override(table, f"view={text}")
    view = build(View, table["view"], "view", catalog)
    if Path(what).suffix == ".toml" or what in [recipe.name for recipe in bundled_recipes()]:
        recipe = load_recipe(find_recipe(what), settings, catalog=catalog, allow_code=allow_code or None)
        print_code(make_console(sys.stderr), recipe.code)
        name, dataset = recipe.name, recipe.data
    else:
        name, dataset = Path(what).resolve().name, _dataset(what, settings, replace(catalog, allow_code=True))
    images = pretraining_images(OpenedDataset(dataset))
    view.check(images.image)
    shown = apply_views([("view", view)], images, num_images=num_images, seed=0)
    return name, [views_sheet(shown, f"{name}: {text}")], _folders(dataset)


def _task_sheet(what: str, settings: Sequence[str], data: str | None, num_images: int, catalog: Catalog) -> Sheet:
    table: dict[str, object] = {"name": what}
    for setting in settings:
        apply_override(table, setting)
    task, title = build(PretextTask, table, "", catalog), " ".join([what, *settings])
    if data is not None:
        dataset = _dataset(data, (), catalog)
        return views_sheet(_views(task, dataset, num_images, catalog), title)
    try:
        return views_sheet(_views(task, build(Dataset, "digits", "data", catalog), num_images, catalog), title)
    except Exception:  # of whatever kind a task wants colours, or larger images: there are none that every machine has
        title = f"{title} (digits at {_LARGE} x {_LARGE}, in three equal channels)"
        digits = pretraining_images(build(Dataset, {"name": "digits", "image_size": _LARGE}, "data", catalog))
        enlarged = Arrays(train_images=digits.read(range(len(digits))).expand(-1, 3, -1, -1))
        return views_sheet(_views(task, enlarged, num_images, catalog), title)


def _views(task: PretextTask, dataset: Dataset, num_images: int, catalog: Catalog) -> Views:
    images = pretraining_images(OpenedDataset(dataset))
    for table in _BACKBONES:
        backbone = build_backbone_options(table, "backbone", catalog).build(seen_by(task, images.image))
        if task.requires <= backbone.capabilities:
            return make_views(task, backbone, images, num_images=num_images, seed=0)
    needed = ", ".join(sorted(task.requires))
    raise BackboneError(f"{type(task).__name__} needs a backbone with {needed}", fix="show a recipe that names one")


def _recipe_sheets(what: str, recipe: Recipe, num_images: int) -> list[Sheet]:
    recipe = open_data(recipe)
    data, stages, evaluations = OpenedDataset.of(recipe.data), pretraining_stages(recipe), viewing_stages(recipe)
    if not stages and not evaluations:
        what = f"{what}: no stage of it pretrains or has views"
        raise RecipeError(what, fix="name a recipe with a task, or a task; --view draws any view of its images")
    preflight = Preflight(recipe, data)
    for stage in (*stages, *evaluations):
        preflight.check_backbone(stage)
    shown = [(stage.key, stage_views(recipe, stage, data, num_images)) for stage in stages]
    shown += [(stage.key, evaluation_views(stage, data, num_images)) for stage in evaluations]
    return [views_sheet(views, f"{recipe.name}: {key}") for key, views in shown]
