import itertools
import math

import matplotlib as mpl
import pytest
import torch
from matplotlib.colors import to_hex
from torch import Tensor, nn

from sslkit.report.pictures.features import (
    attention_map,
    draw_attention,
    draw_filters,
    draw_neighbours,
    filter_tiles,
    first_kernels,
    nearest,
    overlaid,
)
from sslkit.report.pictures.grid import BLUE, ORANGE
from sslkit.report.pictures.sample import ImageSample
from tests.contract.miniatures.backbones import TinyConv, TinyTokens
from tests.report.drawn import words_of
from tests.report.inputs import IMAGE, Flat, network

IMAGES = torch.randint(0, 256, (20, 3, 16, 16), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
GRAY = IMAGE._replace(color="gray", mean=(0.5,), std=(0.25,))


def sample(labels: Tensor | None = None, *, num_images: int = 20, num_queries: int = 4) -> ImageSample:
    return ImageSample(IMAGES[:num_images], labels, () if labels is None else ("cat", "dog"), IMAGE, num_queries)


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_the_first_convolution_is_found():
    conv, tokens = TinyConv(IMAGE), TinyTokens(GRAY)
    assert torch.equal(first_kernels(conv), conv.stem[0].weight)
    assert torch.equal(first_kernels(tokens), tokens.patches.weight)
    assert not first_kernels(conv).requires_grad


def test_what_does_not_look_at_the_image_is_no_filter():
    pointwise, deep = TinyConv(IMAGE), TinyConv(IMAGE)
    pointwise.stem[0] = nn.Conv2d(3, 4, 1)
    deep.stem[0] = nn.Conv2d(8, 4, 3)
    assert [first_kernels(backbone) for backbone in (pointwise, deep, Flat(IMAGE))] == [None, None, None]


def test_each_filter_is_scaled_by_its_own_largest_weight():
    kernels = random(5, 3, 4, 4)
    kernels[3] *= 1e-3
    kernels[4] = 0.0
    tiles = filter_tiles(kernels)
    for kernel, tile in zip(kernels, tiles, strict=True):
        largest = max((abs(float(weight)) for weight in kernel.flatten()), default=0.0) or 1.0
        naive = [0.5 + float(weight) / largest / 2 for weight in kernel.flatten()]
        assert tile.flatten().tolist() == pytest.approx(naive)
    assert tiles.aminmax() == (0.0, 1.0)


def test_filters_of_networks_stand_side_by_side():
    picture = draw_filters([network(seed=1), network("supervised", Flat), network("untrained", TinyTokens, seed=2)])
    assert words_of(picture.figure) == ["pretrained", "stage 1", "untrained", "stage 2"]
    assert "3 x 3 and 4 x 4 kernels" in picture.caption
    assert "supervised" not in picture.alt
    assert "The 3 x 3 kernels" in draw_filters([network(seed=1), network("untrained", seed=2)]).caption


def test_without_any_filter_there_is_no_picture():
    assert draw_filters([]) is None
    assert draw_filters([network(backbone=Flat)]) is None


@pytest.mark.parametrize("power", [1, 2, 4])
def test_a_map_is_the_sum_of_powers_over_channels(power: int):
    features = random(2, 3, 4, 5)
    found = attention_map(features, power)
    for image, row, column in itertools.product(range(2), range(4), range(5)):
        naive = sum(abs(float(value)) ** power for value in features[image, :, row, column])
        assert float(found[image, row, column]) == pytest.approx(naive)


def test_the_strongest_place_is_yellow_and_the_weakest_dark_blue():
    heat = torch.zeros(4, 4)
    heat[1, 2] = 7.0
    gray = torch.full((1, 4, 4), 127, dtype=torch.uint8)  # neither lighter nor darker than the map
    colored = overlaid(gray, heat)
    viridis = mpl.colormaps["viridis"]
    assert colored[:, 1, 2].tolist() == pytest.approx(viridis(1.0)[:3], abs=0.01)
    assert colored[:, 3, 0].tolist() == pytest.approx(viridis(0.0)[:3], abs=0.01)


def test_the_image_is_seen_in_relief():
    """Also under a map without a range."""
    image = torch.zeros(3, 8, 8, dtype=torch.uint8)
    image[:, :, 4:] = 255
    for heat in (torch.ones(2, 2), torch.zeros(2, 2)):
        colored = overlaid(image, heat)
        assert (colored[:, :, 4:].mean() - colored[:, :, :4].mean()) > 0.15


def test_networks_of_maps_and_of_tokens_stand_side_by_side():
    picture = draw_attention([network(seed=1), network("untrained", TinyTokens, seed=2)], sample(num_queries=7))
    assert picture.raster
    assert words_of(picture.figure) == ["pretrained", "stage 1", "stem", "body", "untrained", "stage 2", "patches", "block"]
    assert "pretrained (stage 1), untrained (stage 2)" in picture.alt
    assert "6 held-out images" in picture.caption


def test_a_network_without_spatial_layers_is_left_out():
    assert draw_attention([network(backbone=Flat)], sample()) is None
    assert "untrained" not in draw_attention([network(seed=1), network("untrained", Flat, seed=2)], sample()).alt


def cosine(a: Tensor, b: Tensor) -> float:
    return sum(float(x * y) for x, y in zip(a, b, strict=True)) / math.hypot(*a.tolist()) / math.hypot(*b.tolist())


@pytest.mark.parametrize("k", [1, 3, 100])
def test_the_nearest_have_the_smallest_angle(k: int):
    queries, others = random(11, 5).split([3, 8])
    others[2] *= 1000  # length does not count
    naive = [sorted(range(8), key=lambda place, query=query: -cosine(query, others[place]))[:k] for query in queries]
    assert nearest(queries, others, k).tolist() == naive
    assert nearest(torch.ones(1, 2), torch.ones(4, 2), 3).tolist() == [[0, 1, 2]]  # of equals, the earlier


def test_frames_tell_whether_the_class_is_the_same():
    picture = draw_neighbours([network(seed=1), network("untrained", seed=2)], sample(torch.arange(20) % 2), "stem")
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
    assert words_of(picture.figure) == ["pretrained", "stage 1", "body"]
    assert "frame" not in picture.caption


def test_a_network_without_the_best_layer_shows_its_middle_one():
    picture = draw_neighbours([network(seed=1), network("untrained", TinyTokens, seed=2)], sample(), "stem")
    assert words_of(picture.figure) == ["pretrained", "stage 1", "stem", "untrained", "stage 2", "block"]


def test_fewer_neighbours_than_six():
    images = torch.cat([IMAGES[:2], IMAGES[:2].flip(0), IMAGES[5:8]])
    picture = draw_neighbours([network(seed=1)], ImageSample(images, torch.tensor([0, 1, 1, 0, 1, 0, 1]), ("cat", "dog"), IMAGE, 2), "body")
    assert "5 most similar of 5 others" in picture.caption


def test_nothing_to_compare_is_no_picture():
    assert draw_neighbours([], sample(), None) is None
    assert draw_neighbours([network()], sample(num_images=4), None) is None
    assert draw_neighbours([network()], None, None) is None
    assert draw_attention([network()], None) is None
