import math

import pytest
import torch
from matplotlib.colors import to_hex
from torch import Tensor

from sslkit.report.pictures.grid import BLUE, ORANGE
from sslkit.report.pictures.neighbours import draw_neighbours, nearest
from sslkit.report.pictures.sample import ImageSample
from tests.contract.miniatures.backbones import TinyTokens
from tests.report.drawn import words_of
from tests.report.networks import IMAGE, network

IMAGES = torch.randint(0, 256, (20, 3, 16, 16), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def sample(labels: Tensor | None = None, *, num_images: int = 20, num_queries: int = 4) -> ImageSample:
    classes = () if labels is None else ("cat", "dog")
    return ImageSample(IMAGES[:num_images], labels, classes, IMAGE, num_queries)


def cosine(a: Tensor, b: Tensor) -> float:
    return sum(float(x * y) for x, y in zip(a, b, strict=True)) / math.hypot(*a.tolist()) / math.hypot(*b.tolist())


@pytest.mark.parametrize("k", [1, 3, 100])
def test_the_nearest_have_the_smallest_angle(k: int):
    generator = torch.Generator().manual_seed(0)
    queries, others = (torch.randn(num, 5, generator=generator, dtype=torch.float64) for num in (3, 8))
    others[2] *= 1000  # length does not count
    naive = [sorted(range(8), key=lambda place, query=query: -cosine(query, others[place]))[:k] for query in queries]
    assert nearest(queries, others, k).tolist() == naive


def test_of_equals_the_earlier_is_nearer():
    assert nearest(torch.ones(1, 2), torch.ones(4, 2), 3).tolist() == [[0, 1, 2]]


def test_frames_tell_whether_the_class_is_the_same():
    labels = torch.arange(20) % 2
    picture = draw_neighbours([network(seed=1), network("untrained", seed=2)], sample(labels), "stem")
    assert picture is not None
    written = words_of(picture.figure)
    crosses = written.count("×")
    assert 0 < crosses < 2 * 4 * 6
    agreements = [int(text.split(" ")[1]) for text in written if text.startswith("stem, ")]
    assert sum(agreements) == 2 * 4 * 6 - crosses
    assert written.count("cat") == written.count("dog") == 2
    frames = [to_hex(patch.get_edgecolor()) for axes in picture.figure.axes for patch in axes.patches]
    assert (frames.count(BLUE.lower()), frames.count(ORANGE.lower())) == (2 * 4 * 6 - crosses, crosses)
    assert "16 others" in picture.caption
    assert "orange frame" in picture.caption


def test_without_labels_there_are_no_frames():
    picture = draw_neighbours([network(seed=1)], sample(), None)
    assert picture is not None
    assert words_of(picture.figure) == ["pretrained", "stage 1", "body"]
    assert "frame" not in picture.caption


def test_a_network_without_the_best_layer_shows_its_middle_one():
    picture = draw_neighbours([network(seed=1), network("untrained", TinyTokens, seed=2)], sample(), "stem")
    assert picture is not None
    assert words_of(picture.figure) == ["pretrained", "stage 1", "stem", "untrained", "stage 2", "block"]


def test_the_nearest_of_a_copy_is_the_image():
    images = torch.cat([IMAGES[:2], IMAGES[:2].flip(0), IMAGES[5:8]])
    picture = draw_neighbours([network(seed=1)], ImageSample(images, torch.tensor([0, 1, 1, 0, 1, 0, 1]), ("cat", "dog"), IMAGE, 2), "body")
    assert picture is not None
    assert "5 most similar of 5 others" in picture.caption  # fewer than six


def test_nothing_to_compare_is_no_picture():
    assert draw_neighbours([], sample(), None) is None
    assert draw_neighbours([network()], sample(num_images=4), None) is None
