import io

import numpy as np
import pytest
import torch
from PIL import Image

from sslkit.report.pictures.canvas import (
    BLUE,
    DPI,
    GROUND,
    MAX_DETAIL,
    ORANGE,
    SMALL,
    Canvas,
    elided,
    fitted,
    rgb,
    text_width,
    tile_side,
    viridis,
)


def rendered(canvas: Canvas) -> np.ndarray:
    file = io.BytesIO()
    canvas.figure().savefig(file, format="png")
    return np.asarray(Image.open(file).convert("RGB"))


def test_every_pixel_is_drawn_where_it_was_put():
    canvas = Canvas(31, 17)
    canvas.fill(2, 3, 5, 4, BLUE)
    canvas.fill(30, 16, 1, 1, [1, 2, 3])
    found = rendered(canvas)
    expected = np.full((17, 31, 3), rgb(GROUND), dtype=np.uint8)
    expected[3:7, 2:7] = rgb(BLUE)
    expected[16, 30] = (1, 2, 3)
    assert np.array_equal(found, expected)
    assert canvas.figure().get_size_inches().tolist() == [31 / DPI, 17 / DPI]


def test_a_drawing_has_the_same_bytes_every_time():
    def png() -> bytes:
        canvas = Canvas(200, 60)
        canvas.write("the same", 100, 30, align="center")
        file = io.BytesIO()
        canvas.figure().savefig(file, format="png")
        return file.getvalue()

    assert png() == png()


def test_small_images_are_enlarged_by_whole_factors():
    image = torch.tensor([[[0, 255], [255, 0]]], dtype=torch.uint8)
    tile = fitted(image, 7)
    assert tile.shape == (6, 6, 3)
    assert np.array_equal(tile[:, :, 0], np.kron([[0, 255], [255, 0]], np.ones((3, 3))))
    assert np.array_equal(tile[:, :, 0], tile[:, :, 2])


def test_large_images_are_shown_at_half_the_resolution():
    halves = torch.zeros(3, 64, 32)
    halves[0, :32] = 1.0
    tile = fitted(halves, 20)
    assert tile.shape == (20, 10, 3)
    assert np.array_equal(tile[0::2, 0::2], tile[1::2, 1::2])
    assert (tile[0, 0] == [255, 0, 0]).all()
    assert (tile[-1, -1] == 0).all()


def test_floats_outside_of_the_range_are_clamped():
    tile = fitted(torch.tensor([[[-0.5, 0.5, 1.5]]]), 6)
    assert tile[0, ::2, 0].tolist() == [0, 130, 255]  # of 64 shades


def test_shades_are_hardly_changed():
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16)
    assert np.abs(fitted(levels, 32)[::2, ::2, 0].astype(int) - levels[0].numpy()).max() <= 2


def test_an_image_stands_in_the_middle_of_its_square():
    canvas = Canvas(12, 12)
    canvas.paste(torch.zeros(1, 2, 4, dtype=torch.uint8), 2, 2, 8)
    dark = (canvas.pixels == 0).all(axis=2)
    assert dark[4:8, 2:10].all()
    assert dark.sum() == 4 * 8


@pytest.mark.parametrize(
    ("edge", "limit", "num_tiles", "side"), [(32, 100, 10, 96), (28, 160, 10, 140), (224, 150, 10, 150), (80, 150, 10, 150)]
)
def test_tiles_leave_no_margin(edge: int, limit: int, num_tiles: int, side: int):
    assert tile_side(edge, limit, num_tiles) == side
    assert fitted(torch.zeros(1, edge, edge, dtype=torch.uint8), side).shape[0] == side


@pytest.mark.parametrize("edge", [8, 32, 48, 96, 224])
def test_many_tiles_stay_below_the_detail_of_a_small_file(edge: int):
    for num_tiles in (30, 78, 152, 1000):
        side = tile_side(edge, 160, num_tiles)
        detail = edge if side >= 2 * edge else side // 2
        assert num_tiles * detail**2 <= MAX_DETAIL


def test_long_lines_lose_their_middle():
    text = "stages.pretrain.task.angles=0/pretrain"
    assert elided(text, 1000, SMALL) == text
    short = elided(text, 200, SMALL)
    assert text_width(short, SMALL) <= 200
    first, last = short.split("…")
    assert text.startswith(first)
    assert text.endswith(last)
    assert elided(text, 0, SMALL) == "s…n"


def test_bold_letters_are_wider():
    assert text_width("network", SMALL, bold=True) > text_width("network", SMALL) > text_width("net", SMALL)


@pytest.mark.parametrize("text", ["$5", "$\\frac{1}{2}$", "猫", "a\nb", ""])
def test_any_name_can_be_written(text: str):
    canvas = Canvas(200, 60)
    canvas.write(text, 100, 30, align="center", bold=True)
    canvas.write(text, 100, 30, align="right", upright=True)
    rendered(canvas)  # a warning would be an error


def test_the_two_colors_differ_in_lightness_too():
    lightness = [float(rgb(color) @ np.array([0.2126, 0.7152, 0.0722])) for color in (BLUE, ORANGE)]
    assert abs(lightness[0] - lightness[1]) > 10


def test_the_color_map_grows_lighter():
    table = viridis()
    assert table.shape == (256, 3)
    assert (table @ torch.tensor([0.2126, 0.7152, 0.0722])).diff().min() > 0
