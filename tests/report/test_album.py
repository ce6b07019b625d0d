from collections.abc import Iterator
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from sslkit import DataError, Digits
from sslkit.data.cache import OpenedDataset
from sslkit.recipe.recipe import Recipe
from sslkit.report.pictures import album
from sslkit.report.pictures.album import Album, fill_album, open_album
from sslkit.report.pictures.picture import Picture
from sslkit.report.run_folder import read_run
from tests.report.run_folders import make_run

PICTURE = Picture("key", "Title", "Caption.", "Alt", Figure(), raster=True)
RECIPE = {
    "data": {"name": "digits"},
    "backbone": {"name": "nin", "num_blocks": 3},
    "stages": {"probe": {"weights": "random", "evaluator": {"name": "knn", "layers": ["conv2"]}}},
}


@pytest.fixture(autouse=True)
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of recipes whose pictures were asked for."""
    asked: list[str] = []

    def draw(_folder: Path, recipe: Recipe, _data: OpenedDataset) -> Iterator[Picture]:
        asked.append(recipe.name)
        yield PICTURE

    monkeypatch.setattr(album, "draw_pictures", draw)
    return asked


def opened(folder: Path, *, allow_code: bool = False, **recipe: object) -> Album:
    return open_album(read_run(make_run(folder, {}, recipe={**RECIPE, **recipe})), allow_code=allow_code)


def fill(folder: Path, data: OpenedDataset) -> Album:
    return fill_album(folder, Recipe(name="mine", data=data, stages=()), data)


def test_pictures_of_a_folder(tmp_path: Path, drawn: list[str]):
    assert opened(tmp_path) == Album((PICTURE,))
    assert drawn == ["mine"]


def test_nothing_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drawn: list[str]):
    monkeypatch.setenv("SSLKIT_DATA", str(tmp_path / "empty"))
    assert opened(tmp_path, data={"name": "cifar10"}) == Album(note="There are no pictures, for the data is not on this machine.")
    assert drawn == []
    assert not (tmp_path / "empty").exists()


def test_a_folder_of_images_that_is_gone(tmp_path: Path, drawn: list[str]):
    found = opened(tmp_path, data={"name": "image_folder", "root": str(tmp_path / "gone")})
    assert found.pictures == ()
    assert found.note.startswith(f"There are no pictures: {tmp_path / 'gone'} is not a folder; ")
    assert drawn == []


def test_what_was_drawn_before_an_error_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def draw(*_: object) -> Iterator[Picture]:
        yield PICTURE
        raise DataError("the disk is gone")

    monkeypatch.setattr(album, "draw_pictures", draw)
    assert fill(tmp_path, OpenedDataset(Digits())) == Album((PICTURE,), "There are no more pictures: the disk is gone")


def test_a_recipe_that_no_longer_loads(tmp_path: Path):
    note = opened(tmp_path, backbone={"name": "gone"}).note
    assert note.startswith("There are no pictures, for the recipe cannot be loaded: backbone")
    assert "no backbone is called 'gone'" in note


@pytest.mark.parametrize("backbone", [{"name": "wicked:Net"}, "wicked:Net"])
def test_code_outside_the_catalog_is_not_imported(backbone: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "wicked.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    note = opened(tmp_path / "run", backbone=backbone).note
    found = (
        f"'wicked:Net' is code outside the catalog, from {tmp_path / 'wicked.py'}; if you trust it: --allow-code, in Python allow_code=True"
    )
    assert note.startswith("There are no pictures, for the recipe cannot be loaded: backbone")
    assert note.endswith(f": {found}")


def test_it_is_imported_if_it_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "trusted_net.py").write_text("from sslkit.backbones.nin import NIN as Net")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert opened(tmp_path / "run", backbone={"name": "trusted_net:Net"}, allow_code=True).pictures == (PICTURE,)


def test_observers_stay_at_home_and_devices_are_no_code(tmp_path: Path):
    found = opened(tmp_path, observers=[{"name": "wicked:Watcher"}], device="cuda:1", margins={"a:b": ["probe.a", "probe.b"]})
    assert found == Album((PICTURE,))
