"""Labels and pixels are lent to evaluators, and stay as they are: other stages measure with the same ones."""

import json
from dataclasses import replace

import numpy as np
import pytest

from sslkit import KNN, Arrays, DataError, RunFailedError, evaluate, load_recipe, run_recipe
from sslkit.contract.runtime import Runtime
from sslkit.data.cache import OpenedDataset
from sslkit.data.image_folder import ImageFolder
from sslkit.testing import check_evaluator
from tests.data.folders import make
from tests.data.lent_data import WAYS, Vandal
from tests.evaluators.labeled import arrays, network
from tests.recipes import SMALL
from tests.testing.broken import broken_promise

CPU = Runtime(device="cpu")
MIDDLE = """
[stages.vandal]
weights = "random"
evaluator = {{ name = "tests.data.lent_data:Vandal", way = "{}", when = "{}" }}

[stages.knn]
weights = "random"
evaluator = {{ name = "knn", layers = ["conv2"] }}
"""


def recipe(tmp_path, way: str, when: str):
    path = tmp_path / "small.toml"
    path.write_text(SMALL + MIDDLE.format(way, when))
    return load_recipe(path, ["stages.pretrain.epochs=1"], allow_code=True)


@pytest.mark.parametrize("way", WAYS)
def test_an_evaluator_that_writes_into_its_data_fails_by_name(way):
    what = f"{way.split()[-1]} of the test images"
    with pytest.raises(
        RunFailedError, match=f"^Vandal has changed the {what}, so its results are invalid; report the evaluator: it must copy"
    ):
        evaluate(Vandal(way=way), network(), arrays(), runtime=CPU)


@pytest.mark.parametrize("way", ["labels", "shuffled pixels"])
def test_no_later_stage_of_a_run_sees_changed_data(tmp_path, way):
    """Images in files, as plugins have them too: decoded once, and shared by all stages."""
    folder = tmp_path / "images"
    make(folder, *(f"{split}/{name}/{n}{split[1]}.png" for split in ("train", "test") for name in ("cat", "dog") for n in range(3)))
    data = OpenedDataset(ImageFolder(root=str(folder), image_size=8))
    before = evaluate(KNN(layers=("stem",), k=1), network(), data, runtime=CPU).metrics
    with pytest.raises(RunFailedError, match="Vandal has changed"):
        evaluate(Vandal(way=way), network(), data, runtime=CPU)
    assert evaluate(KNN(layers=("stem",), k=1), network(), data, runtime=CPU).metrics == before


@pytest.mark.parametrize("when", ["check", "evaluate"])
def test_a_recipe_ends_at_the_stage_that_changed_its_data(tmp_path, when):
    with pytest.raises(RunFailedError, match="Vandal has changed the labels of the test images") as raised:
        run_recipe(recipe(tmp_path, "labels", when), output=tmp_path / "run")
    assert raised.value.exit_code == 1
    finished = {
        path.parent.name for path in (tmp_path / "run").glob("*/artifact.json") if json.loads(path.read_text())["status"] == "finished"
    }
    assert finished == (set() if when == "check" else {"pretrain", "probe"})


def test_a_well_behaved_neighbour_changes_no_figure(tmp_path):
    together = run_recipe(recipe(tmp_path, "labels", "never"), output=tmp_path / "run", report=False).results
    other = replace(loaded := recipe(tmp_path, "labels", "never"), stages=loaded.stages[-1:])
    alone = run_recipe(other, output=tmp_path / "alone", report=False).results
    assert together.stages["knn"] == alone.stages["knn"]


def test_arrays_that_were_written_into_are_refused_and_the_writer_reported():
    images = np.random.default_rng(0).integers(0, 256, (12, 3, 8, 8), dtype=np.uint8)
    data = Arrays(train_images=images, train_labels=[0, 1, 2] * 4, test_images=images[:6].copy(), test_labels=[0, 1, 2] * 2)
    with pytest.raises(RunFailedError, match="Vandal has changed the pixels of the test images"):
        evaluate(Vandal(way="pixels"), network(), data, runtime=CPU)
    with pytest.raises(DataError, match=r"^test_images have changed since these Arrays were made of them; make new Arrays"):
        evaluate(KNN(layers=("stem",), k=1), network(), data, runtime=CPU)
    images[0] = 0
    with pytest.raises(DataError, match=r"^train_images have changed since"):
        data.load("pretrain")


@pytest.mark.parametrize("when", ["check", "evaluate"])
def test_the_kit_sees_it(when):
    check_evaluator(Vandal(when="never"))
    for way in ("labels", "numpy labels", *(("pixels", "shuffled pixels") if when == "evaluate" else ())):
        found = broken_promise(check_evaluator, Vandal(way=way, when=when))
        assert found == f"Vandal: labels and pixels must stay as they are: copy what you write into; {way.split()[-1]} differ"
