import matplotlib as mpl
import pytest
import torch

from sslkit.report.pictures.attention import attention_map, draw_attention, overlaid
from sslkit.report.pictures.sample import ImageSample
from tests.contract.miniatures.backbones import TinyTokens
from tests.report.drawn import words_of
from tests.report.networks import IMAGE, Flat, network

IMAGES = torch.randint(0, 256, (9, 3, 16, 16), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
SAMPLE = ImageSample(IMAGES, None, (), IMAGE, 7)


@pytest.mark.parametrize("power", [1, 2, 4])
def test_a_map_is_the_sum_of_powers_over_channels(power: int):
    features = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = attention_map(features, power)
    for image in range(2):
        for row in range(4):
            for column in range(5):
                naive = sum(abs(float(features[image, channel, row, column])) ** power for channel in range(3))
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
    image = torch.zeros(3, 8, 8, dtype=torch.uint8)
    image[:, :, 4:] = 255
    colored = overlaid(image, torch.ones(2, 2))
    assert (colored[:, :, 4:].mean() - colored[:, :, :4].mean()) > 0.15


def test_a_map_without_a_range_is_no_error():
    assert overlaid(IMAGES[0], torch.zeros(2, 2)).isfinite().all()


def test_networks_of_maps_and_of_tokens_stand_side_by_side():
    picture = draw_attention([network(seed=1), network("untrained", TinyTokens, seed=2)], SAMPLE)
    assert picture is not None
    assert picture.raster
    assert words_of(picture.figure) == ["pretrained", "stage 1", "stem", "body", "untrained", "stage 2", "patches", "block"]
    assert "pretrained (stage 1), untrained (stage 2)" in picture.alt
    assert "6 held-out images" in picture.caption


def test_a_network_without_spatial_layers_is_left_out():
    assert draw_attention([network(backbone=Flat)], SAMPLE) is None
    picture = draw_attention([network(seed=1), network("untrained", Flat, seed=2)], SAMPLE)
    assert picture is not None
    assert "untrained" not in picture.alt
