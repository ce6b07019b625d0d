"""Datasets as their authors write them: what can be converted without loss is taken, all else is refused in one line."""

import re
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sslkit import KNN, Arrays, DataError, Dataset, ImageSet, ImageSpec, Split, TrainingOptions, evaluate, pretrain
from sslkit.contract.runtime import Runtime
from sslkit.data.cache import OpenedDataset
from tests.contract.miniatures.rotation import Rotation
from tests.evaluators.labeled import network

NUM_IMAGES = 12
IMAGE = ImageSpec(8, 8, "rgb", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
LABELS = [0, 1, 2] * 4
CPU = Runtime(device="cpu")

_calls = count()


class Lazy(ImageSet):
    """Images that are decoded when they are asked for, in a process of their own where they are many."""

    def __init__(self, **attributes: Any) -> None:
        given = {"image": IMAGE, "labels": torch.tensor(LABELS), "classes": ("a", "b", "c"), "fingerprint": "lazy", "dtype": torch.uint8}
        for name, value in (given | attributes).items():
            if value is not KeyError:
                setattr(self, name, value)

    def __len__(self) -> int:
        return self.__dict__.get("num_images", NUM_IMAGES)

    def read(self, indices: Sequence[int]) -> Tensor:
        size = self.__dict__.get("size", (3, 8, 8))
        num = max(0, len(indices) - self.__dict__.get("missing", 0))
        return torch.zeros(num, *size, dtype=self.__dict__["dtype"])


class Listed(Lazy):
    """``read`` returns no tensor."""

    def read(self, indices: Sequence[int]) -> Any:
        return [0] * len(indices)


class Restless(Lazy):
    """As a random number, or the time, would be."""

    def __getattribute__(self, name: str) -> Any:
        return str(next(_calls)) if name == "fingerprint" else super().__getattribute__(name)


class Foreign(Dataset):
    """Every split is made anew, as ``make`` says."""

    def __init__(self, make: Callable[[], Any], image: Any = IMAGE) -> None:
        self._make = make
        self._image = image

    def image(self) -> ImageSpec:
        return self._image

    def load(self, split: Split) -> ImageSet | None:
        return self._make()


@pytest.mark.parametrize(
    "labels",
    [
        LABELS,
        tuple(LABELS),
        np.array(LABELS),
        np.array(LABELS, dtype=np.uint8),
        np.array(LABELS, dtype=">i2"),
        [np.int64(label) for label in LABELS],
        torch.tensor(LABELS, dtype=torch.int32),
        torch.tensor(LABELS, dtype=torch.uint8),
    ],
    ids=["list", "tuple", "int64", "uint8", "big-endian", "numbers of numpy", "int32 tensor", "uint8 tensor"],
)
def test_labels_of_any_whole_kind_become_int64(labels):
    train, _ = OpenedDataset(Foreign(lambda: Lazy(labels=labels, classes=["a", "b", "c"]))).labeled()
    assert (train.labels.dtype, train.labels.tolist(), train.classes) == (torch.int64, LABELS, ("a", "b", "c"))
    result = evaluate(KNN(layers=("stem",), k=1), network(), Foreign(lambda: Lazy(labels=labels)), runtime=CPU)
    assert result.metrics["stem.top1"] == pytest.approx(100 / 3)


def test_truth_values_are_classes_too():
    train, _ = OpenedDataset(Foreign(lambda: Lazy(labels=[label > 0 for label in LABELS], classes=("no", "yes")))).labeled()
    assert train.labels.tolist() == [int(label > 0) for label in LABELS]


BROKEN: list[tuple[dict[str, Any], str]] = [
    ({"labels": [0.5] * NUM_IMAGES}, "labels must be integers, the numbers of their classes; found 'list'; convert them to int64"),
    ({"labels": torch.zeros(NUM_IMAGES)}, "labels must be integers, the numbers of their classes; found 'torch.float32'"),
    ({"labels": ["a"] * NUM_IMAGES}, "labels must be integers, the numbers of their classes; found 'list'"),
    ({"labels": [[0], [0, 1]]}, "labels must be integers, the numbers of their classes; found 'list'"),
    ({"labels": LABELS[:-1]}, "there must be one label per image; found (11,); allowed: (12,)"),
    ({"labels": np.eye(12, dtype=int)}, "there must be one label per image; found (12, 12); allowed: (12,)"),
    ({"labels": [3] * NUM_IMAGES}, "labels must be numbers of classes; found '3 to 3'; allowed: 0 to 2, for 3 classes"),
    ({"labels": [-1, *LABELS[1:]]}, "labels must be numbers of classes; found '-1 to 2'; allowed: 0 to 2"),
    ({"labels": np.full(12, 2**64 - 1, dtype=np.uint64)}, "labels must be numbers of classes; found '18446744073709551615 to"),
    ({"classes": ()}, "there are labels, so classes must be names, in the order of the labels; found ()"),
    ({"classes": "abc"}, "there are labels, so classes must be names, in the order of the labels; found 'abc'"),
    ({"classes": (0, 1, 2)}, "there are labels, so classes must be names, in the order of the labels; found (0, 1, 2)"),
    ({"classes": None}, "there are labels, so classes must be names"),
    ({"classes": ("a", "b", "a")}, " names a class twice: a"),
    ({"classes": ("a", "b", "A")}, " has two names for one class, which differ in upper and lower case alone: 'a' and 'A'"),
    ({"fingerprint": KeyError}, "fingerprint must be text that changes when images or labels do; found None"),
    ({"fingerprint": ""}, "fingerprint must be text that changes when images or labels do; found ''"),
    ({"fingerprint": 7}, "fingerprint must be text that changes when images or labels do; found 7"),
    ({"num_images": 0}, "there are no images"),
    ({"num_images": -1}, "len() must be the number of images (__len__() should return >= 0)"),
    ({"num_images": 3.5}, "len() must be the number of images ('float' object cannot be interpreted as an integer)"),
    ({"image": KeyError}, "image must be an ImageSpec; found None"),
    ({"image": (8, 8, "rgb", (0.5,) * 3, (0.5,) * 3)}, "image must be an ImageSpec; found (8, 8"),
    ({"image": IMAGE._replace(mean=(0.5,))}, "mean does not fit rgb images; found (0.5,); allowed: 3 in [0, 1], one per channel"),
    ({"image": IMAGE._replace(std=(0.5, 0.5, 0.0))}, "std does not fit rgb images; found (0.5, 0.5, 0.0); allowed: 3 in (0, 1]"),
    ({"image": IMAGE._replace(mean=127.0)}, "mean must be numbers; found 127.0"),
    ({"image": IMAGE._replace(height=8.5)}, "height and width must be pixels; found (8.5, 8); allowed: positive integers"),
    ({"image": IMAGE._replace(color="bgr")}, "color is not known; found 'bgr'; allowed: rgb, gray, lightness"),
    ({"image": IMAGE._replace(height=16)}, "other size or colour than image() says; found (16, 8, 'rgb'); allowed: (8, 8, 'rgb')"),
    ({"image": IMAGE._replace(color=None, mean=(), std=())}, "mean does not fit images of 0 bands; found (); allowed: numbers in [0, 1]"),
    ({"image": IMAGE._replace(color=None, std=(0.5,))}, "std does not fit images of 3 bands; found (0.5,); allowed: 3 in (0, 1], one per"),
    ({"window": (1, 0)}, "window must be two numbers, the smaller one first; found (1.0, 0.0)"),
    ({"window": 255}, "window must be two numbers; found 255; allowed: (low, high)"),
    ({"display": (0, 1)}, "display must be one channel or three; found (0, 1); allowed: 0 to 2"),
    ({"display": (3,)}, "display must be one channel or three; found (3,); allowed: 0 to 2"),
    ({"skipped": "1.png"}, "skipped must be a tuple of texts; found '1.png'"),
]


@pytest.mark.parametrize(("attributes", "message"), BROKEN, ids=[message[:40] for _, message in BROKEN])
def test_what_an_image_set_says_of_itself_is_checked_when_it_is_loaded(attributes, message):
    data = Foreign(lambda: Lazy(**attributes))
    pattern = "^" + re.escape("Foreign, train images" + (message if message.startswith(" ") else f": {message}"))
    with pytest.raises(DataError, match=pattern):
        evaluate(KNN(layers=("stem",), k=1), network(), data, runtime=CPU)
    if "labels" in attributes or "classes" in attributes:
        assert OpenedDataset(data).load("pretrain").labels is None  # pyright: ignore[reportOptionalMemberAccess] - not looked at
    else:
        with pytest.raises(DataError, match=r"^Foreign, pretrain images: "):
            pretrain(Rotation(), network(), data, training=TrainingOptions(epochs=1, batch_size=4), runtime=CPU)


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (lambda: Lazy(missing=1), "torch.uint8 (11, 3, 8, 8)"),
        (lambda: Lazy(dtype=torch.float32), "torch.float32 (12, 3, 8, 8)"),
        (lambda: Lazy(size=(1, 8, 8)), "torch.uint8 (12, 1, 8, 8)"),
        (lambda: Lazy(size=(8, 8, 3)), "torch.uint8 (12, 8, 8, 3)"),
        (lambda: Lazy(size=(3, 9, 8)), "torch.uint8 (12, 3, 9, 8)"),
        (Listed, "list"),
    ],
    ids=["short", "float", "gray", "channels last", "higher", "list"],
)
def test_images_are_checked_when_they_arrive(make, found, monkeypatch):
    kind = type(make()).__name__
    message = f"^Foreign, train images: what {kind}.read returns must be a tensor of pixels; found {re.escape(repr(found))}; allowed: torch.uint8 "
    with pytest.raises(DataError, match=message + re.escape("(12, 3, 8, 8) on the CPU")):
        evaluate(KNN(layers=("stem",), k=1), network(), Foreign(make), runtime=CPU)
    monkeypatch.setattr("sslkit.data.cache.MAX_RESIDENT_BYTES", 0)  # decoded by workers
    with pytest.raises(DataError, match=message + re.escape("(12, 3, 8, 8) on the CPU")):
        evaluate(KNN(layers=("stem",), k=1), network(), Foreign(make), runtime=CPU)


@pytest.mark.parametrize(
    "pixels", [torch.zeros(12, 3, 8, 8), torch.zeros(11, 3, 8, 8, dtype=torch.uint8), np.zeros((12, 3, 8, 8), np.uint8)]
)
def test_pixels_in_memory_are_checked_as_well(pixels):
    with pytest.raises(DataError, match=r"^Foreign, train images: pixels must be a tensor of pixels; found '"):
        evaluate(KNN(layers=("stem",), k=1), network(), Foreign(lambda: Lazy(pixels=pixels)), runtime=CPU)


def test_a_fingerprint_that_changes_as_one_looks_at_it_is_refused():
    with pytest.raises(DataError, match=r"^Foreign, train images: fingerprint changes though the images do not; found \('"):
        OpenedDataset(Foreign(Restless)).load("train")


def test_a_fingerprint_that_changes_with_every_load_is_found_out():
    """Where it matters, and says why a stage is not known again: when it is started a second time."""
    stable, restless = (OpenedDataset(Foreign(make)) for make in (Lazy, lambda: Lazy(fingerprint=str(next(_calls)))))
    for data in (stable, restless):
        data.labeled()
    stable.check_fingerprints()
    with pytest.raises(DataError, match=r"^Foreign, train images: fingerprint changes with every load; found \('"):
        restless.check_fingerprints()


def test_a_stage_that_is_not_known_again_says_that_its_data_is_to_blame(tmp_path):
    data = Foreign(lambda: Lazy(fingerprint=str(next(_calls))))
    options: dict[str, Any] = {"runtime": CPU, "output": tmp_path / "knn"}
    backbone = network()
    evaluate(KNN(layers=("stem",), k=1), backbone, data, **options)
    with pytest.raises(DataError, match=r"^Foreign, train images: fingerprint changes with every load"):
        evaluate(KNN(layers=("stem",), k=1), backbone, data, **options)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (Foreign(lambda: [1, 2, 3]), "Foreign, train images: load must return an ImageSet or None; found 'list'"),
        (Foreign(Lazy, image="rgb"), "Foreign: image must be an ImageSpec; found 'rgb'"),
        ([torch.zeros(3, 8, 8)], "data must be an sslkit.Dataset; found 'list'; pass images in memory as sslkit.Arrays"),
    ],
    ids=["no image set", "no image spec", "no dataset"],
)
def test_what_is_not_a_dataset_is_refused(data, message):
    with pytest.raises(DataError, match="^" + re.escape(message)):
        evaluate(KNN(layers=("stem",), k=1), network(), data, runtime=CPU)


def test_every_class_needs_training_images_whatever_the_way_in():
    labels, classes, pixels = [0, 2] * 6, ("a", "b", "c"), np.zeros((12, 8, 8, 3), np.uint8)
    arrays = Arrays(train_images=pixels, train_labels=labels, test_images=pixels, test_labels=labels, classes=classes)
    for data in (Foreign(lambda: Lazy(labels=labels)), arrays):
        with pytest.raises(DataError, match=r"^no training images of b; every class needs some"):
            OpenedDataset(data).labeled()


def test_classes_of_test_images_are_found_by_name_whatever_their_order():
    class Turned(Foreign):
        def load(self, split: Split) -> ImageSet | None:
            return Lazy(labels=[0, 1] * 6, classes=("C", "a", "never seen")) if split == "test" else Lazy()

    data = OpenedDataset(Turned(Lazy))
    fingerprint = data.load("test").fingerprint  # pyright: ignore[reportOptionalMemberAccess]
    _, test = data.labeled()
    assert (test.classes, test.labels.tolist()) == (("a", "b", "c"), [2, 0] * 6)
    assert test.fingerprint == fingerprint
    assert data.new_notes() == ["1 of 3 classes have no test images, so that nothing measures them: b"]
    with data.lent_to(object()):
        pass  # nothing has changed that was lent
