import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

import sslkit.report.pictures.all as module
from sslkit import Arrays, DataError, Dataset, Digits, run_recipe
from sslkit.data.cache import OpenedDataset
from sslkit.recipe.recipe import Recipe
from sslkit.report.picture import Picture, png
from sslkit.report.pictures.all import Pictures, draw_pictures, run_pictures, saved_run_pictures
from sslkit.report.run_folder import read_run
from sslkit.run.artifacts import ARTIFACT, BACKBONE
from tests.report.inputs import Splits, Watched
from tests.report.run_folders import make_run, recipe_of

RECIPE = recipe_of()
VIEWS = "What the pretext task sees: pretrain"
TITLES = [VIEWS, "First-layer filters", "Attention maps", "Nearest neighbours", "Confusion matrices"]


class Drawing(NamedTuple):
    """A run's pictures, what was decoded for them, and what they might have changed, before and after."""

    pictures: dict[str, Picture]
    data: dict[str, Watched]
    before: list[Any]
    after: list[Any]


def drawn(folder: Path, data: Dataset = RECIPE.data) -> dict[str, Picture]:
    return {picture.title: picture for picture in draw_pictures(folder, RECIPE, OpenedDataset(data))}


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    run_recipe(RECIPE, output=folder, should_stop=lambda: False, report=False)
    return folder


@pytest.fixture(scope="module")
def drawing(finished_run: Path) -> Drawing:
    def state() -> list[Any]:
        files = {path: path.stat().st_mtime_ns for path in finished_run.rglob("*")}
        return [files, torch.get_num_threads(), torch.get_rng_state().tolist(), torch.backends.cudnn.allow_tf32]

    before, data = state(), {split: Watched(RECIPE.data.load(split)) for split in ("pretrain", "train", "test")}
    return Drawing(drawn(finished_run, Splits(**data)), data, before, state())


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


def test_a_finished_run_has_every_picture(drawing: Drawing):
    assert list(drawing.pictures) == TITLES
    for picture in drawing.pictures.values():
        assert picture.raster
        assert picture.caption.endswith(".")
        assert len(picture.alt) > 40
        data = png(picture.figure)
        assert len(data) < 500_000
        image = np.asarray(Image.open(io.BytesIO(data)))
        assert image.shape[1] <= 1920
        assert (image[0, 0] > 240).all()  # a light ground of its own, on whichever page


@pytest.mark.slow
def test_the_same_run_is_drawn_with_the_same_bytes(finished_run: Path, drawing: Drawing):
    first, second = ([png(picture.figure) for picture in own.values()] for own in (drawing.pictures, drawn(finished_run)))
    assert first == second


def test_drawing_leaves_no_trace(drawing: Drawing):
    assert drawing.after == drawing.before


def test_no_image_is_decoded_twice(drawing: Drawing):
    for images in drawing.data.values():
        assert len(images.decoded) == len(set(images.decoded))
    assert len(drawing.data["pretrain"].decoded) == 6
    assert drawing.data["test"].decoded


def test_networks_are_compared_in_float32(finished_run: Path, monkeypatch: pytest.MonkeyPatch):
    """Whatever torch allows a GPU outside of a stage: TF32 in convolutions."""
    inside: list[bool] = []
    for name in ("draw_views", "draw_filters", "draw_attention", "draw_neighbours", "draw_confusion"):
        monkeypatch.setattr(module, name, lambda *_: inside.append(torch.backends.cudnn.allow_tf32))
    before = torch.backends.cudnn.allow_tf32
    assert drawn(finished_run) == {}
    assert inside == [False] * 5
    assert torch.backends.cudnn.allow_tf32 == before


def test_what_is_not_finished_is_not_drawn(tmp_path: Path, run: Path):
    assert list(drawn(tmp_path / "no run")) == [VIEWS]
    for stage in ("pretrain", "finetune", "supervised"):
        shutil.rmtree(run / stage)
    assert list(drawn(run)) == [VIEWS, "Confusion matrices"]


def test_damaged_weights_spoil_only_what_needs_them(run: Path):
    (run / "finetune" / BACKBONE).write_bytes(b"nothing")
    assert list(drawn(run)) == [VIEWS, "Confusion matrices"]


def test_a_damaged_artifact_does_not_end_the_report(run: Path):
    (run / "probe" / ARTIFACT).write_text("{")
    pictures = drawn(run)
    assert list(pictures) == TITLES
    assert "probe" not in pictures["Confusion matrices"].alt.replace("random_probe", "")


def test_images_without_labels_have_neighbours_too(finished_run: Path):
    images = torch.randint(0, 256, (40, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    unlabeled = drawn(finished_run, Arrays(train_images=images))
    assert list(unlabeled) == TITLES
    assert "frame" not in unlabeled["Nearest neighbours"].caption


PICTURE = Picture("Title", "Caption.", "Alt", Figure(), raster=True)
TABLE = {
    "data": {"name": "digits"},
    "backbone": {"name": "nin", "num_blocks": 3},
    "stages": {"probe": {"weights": "random", "evaluator": {"name": "knn", "layers": ["conv2"]}}},
}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of recipes whose pictures were asked for."""
    asked: list[str] = []

    def draw(_folder: Path, recipe: Recipe, _data: OpenedDataset) -> Iterator[Picture]:
        asked.append(recipe.name)
        yield PICTURE

    monkeypatch.setattr(module, "draw_pictures", draw)
    return asked


def opened(folder: Path, *, allow_code: bool = False, **recipe: object) -> Pictures:
    return saved_run_pictures(read_run(make_run(folder, {}, recipe={**TABLE, **recipe})), allow_code=allow_code)


def test_observers_stay_at_home_and_devices_are_no_code(tmp_path: Path, asked: list[str]):
    found = opened(tmp_path, observers=[{"name": "wicked:Watcher"}], device="cuda:1", margins={"a:b": ["probe.a", "probe.b"]})
    assert found == Pictures((PICTURE,))
    assert asked == ["mine"]


def test_nothing_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: list[str]):
    monkeypatch.setenv("SSLKIT_DATA", str(tmp_path / "empty"))
    assert opened(tmp_path, data={"name": "cifar10"}) == Pictures(note="There are no pictures, because the data is not on this machine.")
    assert asked == []
    assert not (tmp_path / "empty").exists()


def test_a_folder_of_images_that_is_gone(tmp_path: Path, asked: list[str]):
    found = opened(tmp_path, data={"name": "image_folder", "root": str(tmp_path / "gone")})
    assert found.pictures == ()
    assert found.note.startswith(f"There are no pictures: {tmp_path / 'gone'} is not a folder; ")
    assert asked == []


def test_what_was_drawn_before_an_error_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def draw(*_: object) -> Iterator[Picture]:
        yield PICTURE
        raise DataError("the disk is gone")

    monkeypatch.setattr(module, "draw_pictures", draw)
    found = run_pictures(tmp_path, RECIPE, OpenedDataset(Digits()))
    assert found == Pictures((PICTURE,), "There are no more pictures: the disk is gone")


def test_a_recipe_that_no_longer_loads(tmp_path: Path):
    note = opened(tmp_path, backbone={"name": "gone"}).note
    assert note.startswith("There are no pictures, because the recipe cannot be loaded: backbone")
    assert "no backbone is called 'gone'" in note


@pytest.mark.parametrize("backbone", [{"name": "wicked:Net"}, "wicked:Net"])
def test_code_outside_the_catalog_is_not_imported(backbone: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "wicked.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    note = opened(tmp_path / "run", backbone=backbone).note
    found = f"'wicked:Net' is code outside the catalog, from {tmp_path / 'wicked.py'}"
    assert note.startswith("There are no pictures, because the recipe cannot be loaded: backbone")
    assert note.endswith(f": {found}; if you trust it: --allow-code, in Python allow_code=True")


@pytest.mark.usefixtures("asked")
def test_it_is_imported_if_it_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "trusted_net.py").write_text("from sslkit.backbones.nin import NIN as Net")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert opened(tmp_path / "run", backbone={"name": "trusted_net:Net"}, allow_code=True).pictures == (PICTURE,)
