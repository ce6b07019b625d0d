import torch
from torch import Tensor

from sslkit.report.pictures.canvas import MAX_WIDTH
from sslkit.report.pictures.contact_sheet import MAX_COLUMNS, Sheet, draw_sheets
from sslkit.report.pictures.views import View, Views

IMAGES = torch.randint(0, 256, (3, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def sheet(*views: View, title: str = "", others: dict[str, str] | None = None) -> Sheet:
    return Sheet(title, Views(IMAGES, views, others or {}))


def view(num_views: int, captions: tuple[str, ...] = (), *, name: str = "images", images: Tensor = IMAGES, by_image: bool = True) -> View:
    return View(name, images.repeat_interleave(num_views, dim=0), captions, by_image)


def written(*sheets: Sheet) -> list[str]:
    return [text.get_text() for text in draw_sheets(sheets).figure().texts]


def test_a_caption_that_a_whole_column_shares_is_its_heading():
    assert written(sheet(view(2, ("left", "right") * 3))) == ["image", "images, 16 x 16", "left", "right"]


def test_captions_that_differ_stand_under_their_images():
    captions = tuple(f"no. {place}" for place in range(6))
    assert written(sheet(view(2, captions))) == ["image", "images, 16 x 16", *captions]
    with_captions, without = (draw_sheets([sheet(view(2, words))]).pixels.shape[0] for words in (captions, ()))
    assert with_captions > without


def test_every_view_has_a_block_of_its_own():
    small = View("local", IMAGES[:, :, :4, :4].repeat_interleave(2, dim=0), (), by_image=True)
    assert written(sheet(view(1, name="global"), small)) == ["image", "global, 16 x 16", "local, 4 x 4"]


def test_an_unknown_order_is_told():
    assert written(sheet(view(3, by_image=False)))[1] == "images, 16 x 16, in their own order"


def test_the_title_and_what_is_not_shown_stand_above():
    words = written(sheet(view(2), title="mine", others={"labels": "(3,) int64", "noise": "(3, 6) float32"}))
    assert words[:2] == ["mine", "also made: labels (3,) int64, noise (3, 6) float32"]


def test_images_stand_in_rows_and_nothing_covers_another():
    canvas = draw_sheets([sheet(view(2))])
    for image in IMAGES:
        shade = (image[:, 0, 0].float() / 255 * 63).round().mul(255 / 63).round().tolist()
        rows, columns = (canvas.pixels == shade).all(axis=2).nonzero()
        assert len(set(rows)) >= 10
        assert columns.max() - columns.min() > 300  # in the first column and in the last


def test_more_columns_than_fit_are_cut_and_counted():
    one = sheet(view(40), title="many")
    assert one.note == f"shown of images, 16 x 16: {MAX_COLUMNS} of 40"
    assert draw_sheets([one]).pixels.shape[1] <= MAX_WIDTH


def test_sheets_stand_below_each_other():
    both = draw_sheets([sheet(view(1), title="first"), sheet(view(4), title="second")])
    heights = [draw_sheets([one]).pixels.shape[0] for one in (sheet(view(1), title="first"), sheet(view(4), title="second"))]
    assert max(heights) < both.pixels.shape[0] < sum(heights)
    assert written(sheet(view(1), title="first"), sheet(view(4), title="second")).index("second") > 1
