from collections.abc import Sequence

import pytest
import torch

from sslkit.report.pictures import sample as module
from sslkit.report.pictures.sample import NUM_QUERIES, choose_queries, sample_images, spread
from tests.contract.miniatures.images import tiny_images
from tests.report.inputs import Splits, Watched


def watched(labels: Sequence[int] | None, num_images: int) -> Watched:
    classes = tuple("abcdefghijklmnop"[: max(labels or [-1]) + 1])
    return Watched(tiny_images(num_images, size=8), labels=None if labels is None else torch.tensor(labels), classes=classes)


@pytest.mark.parametrize(
    ("labels", "queries"),
    [
        ([0, 0, 1, 1, 2, 0, 2, 1] * 4, [0, 2, 4, 1, 3, 6, 5, 7]),  # the first of each class, the second of each, the third of two
        (list(range(16)) * 2, [0, 2, 4, 6, 9, 11, 13, 15]),  # some of many classes
        ([0] * 19 + [1], [0, 19, 1, 2, 3, 4, 5, 6]),  # of a class with a single image
    ],
)
def test_queries_are_of_different_classes(labels: list[int], queries: list[int]):
    assert choose_queries(watched(labels, len(labels))) == queries


def test_without_labels_queries_are_far_apart():
    assert choose_queries(watched(None, 8)) == [0, 2, 5, 7]
    assert len(choose_queries(watched(None, 100))) == NUM_QUERIES
    assert choose_queries(watched(None, 1)) == [0]


def test_every_image_is_decoded_once(monkeypatch):
    monkeypatch.setattr(module, "MAX_OTHERS", 10)
    images = watched([0, 1] * 20, 40)
    sample = sample_images(Splits(test=images))
    assert len(images.decoded) == len(set(images.decoded)) == 18
    assert sample.num_queries == len(sample.queries) == 8
    assert torch.equal(sample.images, tiny_images(40, size=8).read(images.decoded))
    assert sample.labels[:3].tolist() == [0, 1, 0]
    assert sample.classes == ("a", "b")
    assert max(images.decoded) == 39, "others are spread over the whole set, for folders are ordered by class"


def test_large_images_are_fewer(monkeypatch):
    monkeypatch.setattr(module, "MAX_PIXELS", 5 * 64)
    sample = sample_images(Splits(test=watched(None, 40)))
    assert len(sample.images) == 8 + 5
    assert (sample.labels, sample.classes) == (None, ())


def test_without_held_out_images_those_of_pretraining_are_shown():
    pretraining = watched(None, 4)
    assert sample_images(Splits(pretrain=pretraining)) is not None
    assert sorted(pretraining.decoded) == [0, 1, 2, 3]
    assert sample_images(Splits()) is None
    assert sample_images(Splits(test=watched(None, 0))) is None


@pytest.mark.parametrize(
    ("num_items", "num", "chosen"),
    [(0, 3, []), (2, 3, [0, 1]), (3, 3, [0, 1, 2]), (5, 3, [0, 2, 4]), (10, 4, [0, 3, 6, 9]), (7, 1, [0]), (7, 0, [])],
)
def test_choices_reach_from_end_to_end(num_items: int, num: int, chosen: list[int]):
    assert spread(range(num_items), num) == chosen


def test_no_choice_is_made_twice():
    for num_items in range(2, 40):
        for num in range(1, num_items + 1):
            chosen = spread(range(num_items), num)
            assert len(set(chosen)) == num
            assert chosen == sorted(chosen)
