import pytest
import torch
from torch import nn

from sslkit.report.pictures.filters import draw_filters, filter_tiles, first_kernels
from tests.contract.miniatures.backbones import TinyConv, TinyTokens
from tests.report.drawn import words_of
from tests.report.networks import IMAGE, Flat, network

GRAY = IMAGE._replace(color="gray", mean=(0.5,), std=(0.25,))


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
    kernels = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    kernels[3] *= 1e-3
    kernels[4] = 0.0
    tiles = filter_tiles(kernels)
    for kernel, tile in zip(kernels, tiles, strict=True):
        largest = max((abs(float(weight)) for weight in kernel.flatten()), default=0.0) or 1.0
        naive = [0.5 + float(weight) / largest / 2 for weight in kernel.flatten()]
        assert tile.flatten().tolist() == pytest.approx(naive)
    assert tiles.aminmax() == (0.0, 1.0)


def test_networks_stand_side_by_side_in_one_layout():
    picture = draw_filters([network(seed=1), network("supervised", Flat), network("untrained", seed=2)])
    assert picture is not None
    assert words_of(picture.figure) == ["pretrained", "stage 1", "untrained", "stage 2"]
    assert "3 x 3 kernels" in picture.caption
    assert "supervised" not in picture.alt


def test_kernels_of_different_sizes_are_told():
    picture = draw_filters([network(seed=1), network("untrained", TinyTokens, seed=2)])
    assert picture is not None
    assert "3 x 3 and 4 x 4 kernels" in picture.caption


def test_without_any_filter_there_is_no_picture():
    assert draw_filters([]) is None
    assert draw_filters([network(backbone=Flat)]) is None
