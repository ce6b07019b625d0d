import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from sslkit.report.picture import png
from sslkit.report.pictures.grid import BLUE, DPI, GROUND, MAX_DETAIL, MAX_WIDTH, ORANGE, Panel, Sheet, draw_sheets, enlarged, fit
from tests.report.drawn import words_of
from tests.report.test_picture import pixels_of

IMAGES = torch.randint(0, 200, (3, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def pixels(figure: Figure) -> np.ndarray:
    return pixels_of(png(figure))


def count(found: np.ndarray, image: torch.Tensor) -> int:
    """How many pixels have the colour of an image's first."""
    return int((found == image[:, 0, 0].numpy()).all(axis=2).sum())


@pytest.mark.parametrize("num_columns", [1, 2, 3])
@pytest.mark.parametrize("num_images", [1, 3])
def test_every_pixel_of_an_image_is_a_square_of_ten(num_columns: int, num_images: int):
    found = pixels(draw_sheets(Sheet([Panel(IMAGES[:num_images], num_columns)])))
    assert [count(found, image) for image in IMAGES[:num_images]] == [100] * num_images
    assert (found[0, 0] == np.array(to_rgb(GROUND)) * 255).all()


def test_rows_of_panels_are_aligned():
    small = IMAGES[:, :, :8, :8]
    found = pixels(draw_sheets(Sheet([Panel(IMAGES, 1), Panel(small, 1, "title", ("a", "b"), ("heading",), captions=("x", "y", "z"))])))
    for image in IMAGES:
        rows, columns = (found == image[:, 0, 0].numpy()).all(axis=2).nonzero()
        assert len(set(rows)) == 20
        assert (len(set(columns)), len(rows)) == (30, 100 + 400)


def test_a_drawing_has_the_same_bytes_every_time():
    assert len({png(draw_sheets(Sheet([Panel(IMAGES, 2, "the same")], "title", "note"))) for _ in range(2)}) == 1


def test_sheets_stand_below_each_other():
    one, other = Sheet([Panel(IMAGES, 1)], "first"), Sheet([Panel(IMAGES, 3)], "second")
    both = draw_sheets(one, other)
    assert both.get_figheight() == pytest.approx(draw_sheets(one).get_figheight() + draw_sheets(other).get_figheight())
    assert words_of(both) == ["first", "second"]
    assert [count(pixels(both), image) for image in IMAGES] == [200] * 3


def test_many_columns_fit():
    figure = draw_sheets(Sheet([Panel(IMAGES.repeat(20, 1, 1, 1), 20, labels=("a long name of a class",)) for _ in range(2)]))
    assert figure.get_figwidth() * DPI <= MAX_WIDTH


def test_small_images_are_enlarged_by_whole_factors():
    image = torch.tensor([[[[0, 255], [255, 0]]]], dtype=torch.uint8)
    (tile,) = enlarged(image, 7, 100)
    assert tile.shape == (3, 6, 6)
    assert np.array_equal(tile[0], np.kron([[0, 255], [255, 0]], np.ones((3, 3))))
    assert torch.equal(tile[0], tile[2])


def test_large_images_are_shown_at_half_the_resolution():
    halves = torch.zeros(1, 3, 64, 32)
    halves[:, 0, :32] = 1.0
    (tile,) = enlarged(halves, 20, 100)
    assert tile.shape == (3, 20, 10)
    assert torch.equal(tile[:, 0::2, 0::2], tile[:, 1::2, 1::2])
    assert tile[:, 0, 0].tolist() == [255, 0, 0]
    assert tile[:, -1, -1].tolist() == [0, 0, 0]


def test_floats_outside_of_the_range_are_clamped():
    assert enlarged(torch.tensor([[[[-0.5, 0.5, 1.5]]]]), 6, 100)[0, 0, 0, ::2].tolist() == [0, 128, 255]


@pytest.mark.parametrize("edge", [8, 32, 48, 96, 224])
@pytest.mark.parametrize("num_images", [30, 78, 152, 1000])
def test_many_images_stay_below_the_detail_of_a_small_file(edge: int, num_images: int):
    detail = int((MAX_DETAIL / num_images) ** 0.5)
    (tile,) = enlarged(torch.zeros(1, 1, edge, edge), 160, detail)
    assert tile.shape[1] <= 160
    assert min(edge, tile.shape[1] // 2) <= detail


def test_frames_tell_agreement_by_colour_and_by_a_mark():
    figure = draw_sheets(Sheet([Panel(IMAGES, 3, agrees=torch.tensor([True, False, True]))]))
    assert words_of(figure) == ["×"]
    for color, at_least in ((BLUE, 2), (ORANGE, 1)):
        framed = (pixels(figure) == np.round(np.array(to_rgb(color)) * 255)).all(axis=2).sum()
        assert framed > at_least * 4 * 4 * 150


def test_the_two_colors_differ_in_lightness_too():
    blue, orange = (float(np.dot(to_rgb(color), (0.2126, 0.7152, 0.0722))) for color in (BLUE, ORANGE))
    assert abs(blue - orange) > 0.04


def test_long_lines_lose_their_middle():
    text = "stages.pretrain.task.angles=0/pretrain"
    assert fit(text, 1000) == text
    assert fit(text, 200) == "stages.p…retrain"
    assert fit(text, 0) == "s…n"


@pytest.mark.parametrize("text", ["$5", "$\\frac{1}{2}$", "猫", "a\nb", ""])
def test_any_name_can_be_written(text: str):
    panel = Panel(IMAGES, 1, text, (text,), (text,), (text,) * 3, (text,) * 3)
    pixels(draw_sheets(Sheet([panel], text, text)))  # a warning would be an error
