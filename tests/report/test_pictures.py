import io
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import sslkit.report.pictures.all as module
from sslkit import Arrays, Dataset, ImageSet, ImageSpec, Split, run_recipe
from sslkit.data.cache import OpenedDataset
from sslkit.recipe.recipe import Recipe
from sslkit.report.pictures.all import draw_pictures
from sslkit.report.pictures.picture import Picture
from sslkit.run.artifacts import ARTIFACT, BACKBONE
from tests.report.stages import recipe_of

RECIPE = recipe_of()
KEYS = ["views-pretrain", "filters", "attention", "neighbours", "confusion"]


class Counted(Dataset):
    """The recipe's data; writes down what is decoded."""

    def __init__(self) -> None:
        self.decoded: list[tuple[str, int]] = []

    def image(self) -> ImageSpec:
        return RECIPE.data.image()

    def load(self, split: Split) -> ImageSet | None:
        images = RECIPE.data.load(split)
        assert images is not None
        return Decoded(images, split, self.decoded)


class Decoded(ImageSet):
    def __init__(self, images: ImageSet, split: str, decoded: list[tuple[str, int]]) -> None:
        self.image, self.labels, self.classes, self.fingerprint = images.image, images.labels, images.classes, images.fingerprint
        self._images, self._split, self._decoded = images, split, decoded

    def __len__(self) -> int:
        return len(self._images)

    def read(self, indices):
        self._decoded += [(self._split, index) for index in indices]
        return self._images.read(indices)


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    run_recipe(RECIPE, output=folder, should_stop=lambda: False)
    return folder


@pytest.fixture(scope="module")
def pictures(finished_run: Path) -> dict[str, Picture]:
    return drawn(finished_run)


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


def drawn(folder: Path, recipe: Recipe = RECIPE) -> dict[str, Picture]:
    return {picture.key: picture for picture in draw_pictures(folder, recipe, OpenedDataset(recipe.data))}


def png(picture: Picture) -> bytes:
    file = io.BytesIO()
    picture.figure.savefig(file, format="png")
    return file.getvalue()


def test_a_finished_run_has_every_picture(pictures: dict[str, Picture]):
    assert list(pictures) == KEYS
    for picture in pictures.values():
        assert picture.raster
        assert picture.title
        assert picture.caption.endswith(".")
        assert len(picture.alt) > 40
        data = png(picture)
        assert len(data) < 500_000
        image = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        assert image.shape[1] <= 1920
        assert (image[0, 0] > 240).all()  # a light ground of its own, on whichever page


def test_the_same_run_is_drawn_with_the_same_bytes(finished_run: Path, pictures: dict[str, Picture]):
    assert list(map(png, drawn(finished_run).values())) == list(map(png, pictures.values()))


def test_drawing_leaves_no_trace(finished_run: Path):
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    before = {path: path.stat().st_mtime_ns for path in finished_run.rglob("*")}
    assert drawn(finished_run)
    assert {path: path.stat().st_mtime_ns for path in finished_run.rglob("*")} == before
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


def test_networks_are_compared_in_float32(finished_run: Path, monkeypatch: pytest.MonkeyPatch):
    """Whatever torch allows a GPU outside of a stage: TF32 in convolutions."""
    inside: list[bool] = []
    monkeypatch.setattr(module, "draw_neighbours", lambda *_: inside.append(torch.backends.cudnn.allow_tf32))
    before = torch.backends.cudnn.allow_tf32
    outside = [torch.backends.cudnn.allow_tf32 for _ in draw_pictures(finished_run, RECIPE, OpenedDataset(RECIPE.data))]
    assert inside == [False]
    assert set(outside) == {before}


def test_no_image_is_decoded_twice(finished_run: Path):
    data = Counted()
    assert len(list(draw_pictures(finished_run, RECIPE, OpenedDataset(data)))) == len(KEYS)
    assert len(data.decoded) == len(set(data.decoded))
    assert [split for split, _ in data.decoded].count("pretrain") == 6


def test_what_is_not_finished_is_not_drawn(tmp_path: Path, run: Path):
    assert list(drawn(tmp_path / "no run")) == ["views-pretrain"]
    for stage in ("pretrain", "finetune", "supervised"):
        shutil.rmtree(run / stage)
    assert list(drawn(run)) == ["views-pretrain", "confusion"]


def test_damaged_weights_spoil_only_what_needs_them(run: Path):
    (run / "finetune" / BACKBONE).write_bytes(b"nothing")
    assert list(drawn(run)) == ["views-pretrain", "confusion"]


def test_a_damaged_artifact_does_not_end_the_report(run: Path):
    (run / "probe" / ARTIFACT).write_text("{")
    pictures = drawn(run)
    assert list(pictures) == KEYS
    assert "probe" not in pictures["confusion"].alt.replace("random_probe", "")


def test_images_without_labels_have_neighbours_too(finished_run: Path):
    images = torch.randint(0, 256, (40, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    unlabeled = list(draw_pictures(finished_run, RECIPE, OpenedDataset(Arrays(train_images=images))))
    assert [picture.key for picture in unlabeled] == KEYS
    assert "frame" not in unlabeled[KEYS.index("neighbours")].caption
