"""What the weights that ship are worth: on real images, a part of them, against the same network untrained."""

from pathlib import Path

import pytest

from sslkit import KNN, Backbone, Dataset, Evaluator, ImageFolder, LinearProbe, evaluate, load_backbone
from sslkit.catalog.discovery import load_catalog
from sslkit.contract.runtime import Runtime
from sslkit.recipe.bundled import bundled_weights
from sslkit.recipe.describe import build_backbone_options
from sslkit.run.artifacts import read_weights
from sslkit.training.seeds import global_seed

PER_CLASS = {"train": 100, "test": 100}
NAMES = sorted({"rotnet_cifar10_cpu", *bundled_weights()})


@pytest.fixture(scope="module")
def images(cifar10_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> ImageFolder:
    """The first images of every class."""
    root = tmp_path_factory.mktemp("part")
    for split, number in PER_CLASS.items():
        for original in sorted((cifar10_folder / split).iterdir()):
            folder = root / split / original.name
            folder.mkdir(parents=True)
            for path in sorted(original.iterdir())[:number]:
                (folder / path.name).symlink_to(path.resolve())
    return ImageFolder(root=str(root), image_size=32)


def untrained(like: Backbone, name: str) -> Backbone:
    record = read_weights(bundled_weights()[name]).backbone
    with global_seed(0):
        return build_backbone_options({"name": record["class"], **record["options"]}, "backbone", load_catalog()).build(like.image)


def top1(evaluator: Evaluator, backbone: Backbone, images: Dataset) -> float:
    return evaluate(evaluator, backbone, images, runtime=Runtime(device="cpu", precision="float32")).metrics["conv2.top1"]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("evaluator", "margin"),
    [(KNN(layers=("conv2",)), 3.0), (LinearProbe(layers=("conv2",), epochs=20, batch_size=100), 6.0)],
    ids=["knn", "linear probe"],
)
def test_trained_features_are_clearly_better(name: str, evaluator: Evaluator, margin: float, images: ImageFolder):
    """Untrained networks of other seeds differ by a point or two."""
    backbone = load_backbone(name)
    assert top1(evaluator, backbone, images) > top1(evaluator, untrained(backbone, name), images) + margin
