import base64
import io
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from sslkit.report.chart import Series, draw_chart
from sslkit.report.picture import Picture, inline_svg, png


def noise(width: int, height: int, dpi: int = 192) -> Figure:
    """A figure of random pixels, which no compression makes small."""
    figure = Figure(figsize=(width / dpi, height / dpi), dpi=dpi)
    figure.figimage(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8), origin="upper")
    return figure


def picture(width: int = 20, height: int = 10, *, raster: bool = True) -> Picture:
    return Picture("Title", "Caption.", 'Alt "text" <b>', noise(width, height), raster)


def pixels_of(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def test_pixels_are_embedded_whole():
    """At the figure's own resolution, shown at a page's 96 pixels an inch."""
    content = str(picture(200, 100).embed("p", 10**7))
    match = re.fullmatch(r'<img src="data:image/png;base64,([^"]+)" alt="Alt &#34;text&#34; &lt;b&gt;" width="100" height="50">', content)
    expected = np.random.default_rng(0).integers(0, 256, (100, 200, 3), dtype=np.uint8)
    assert np.array_equal(pixels_of(base64.b64decode(match[1])), expected)


def test_charts_are_embedded_as_svg():
    assert picture(raster=False).embed("p", 10**7).startswith("<svg ")


@pytest.mark.parametrize(("width", "raster", "layout"), [(800, True, "picture"), (1800, True, "panorama"), (1800, False, "chart")])
def test_wide_pictures_are_told_apart(width: int, raster: bool, layout: str):
    assert picture(width, raster=raster).layout == layout


def test_large_pictures_lose_colours_and_then_pixels():
    whole, fewer_colours, fewer_pixels = (png(noise(400, 300), limit) for limit in (10**7, 200_000, 20_000))
    assert len(whole) > 200_000 >= len(fewer_colours) > 20_000 >= len(fewer_pixels)
    assert pixels_of(fewer_colours).shape[:2] == (300, 400)
    assert pixels_of(fewer_pixels).shape[0] < 300


def test_the_same_picture_gives_the_same_bytes():
    assert png(noise(40, 30), 10**7) == png(noise(40, 30), 10**7)


def figure_of(label: str = "a") -> Figure:
    series = [
        Series(label=label, points=[(0, 1.0), (1, 0.5)], std=[0.1, 0.1]),
        Series(label="b", points=[(0, 2.0)], style=4, hollow=True),
    ]
    return draw_chart("Title", "Caption.", series, x="epoch", y="loss").figure


def svg_of(label: str = "a", prefix: str = "p1") -> str:
    return str(inline_svg(figure_of(label), prefix=prefix, alt="A <chart> of 'this'"))


def test_text_stays_text():
    texts = [element.text for element in ElementTree.fromstring(svg_of()).iter("text")]
    assert {"epoch", "loss", "a", "b"} <= set(texts)


def test_ink_takes_the_pages_colour_and_the_ground_is_the_pages():
    svg = svg_of()
    assert "currentColor" in svg
    assert "#000000" not in svg
    assert "#ffffff" not in svg
    assert ElementTree.fromstring(svg).attrib["fill"] == "currentColor"


def test_a_reader_who_cannot_see_it_is_told():
    root = ElementTree.fromstring(svg_of())
    assert (root.attrib["role"], root.attrib["aria-label"]) == ("img", "A <chart> of 'this'")


def test_ids_are_unique_in_a_page():
    """Two charts in one page must not take each other's markers and clipping."""
    first, second = svg_of(prefix="p1"), svg_of(prefix="p2")
    ids = [re.findall(r' id="([^"]+)"', svg) for svg in (first, second)]
    assert ids[0]
    assert all(len(own) == len(set(own)) for own in ids)
    assert not set(ids[0]) & set(ids[1])
    references = re.findall(r'href="#([^"]+)"', first) + re.findall(r"url\(#([^)]+)\)", first)
    assert set(references) == set(ids[0])


def test_nothing_points_outside():
    svg = svg_of()
    assert "http" not in svg
    assert "xlink" not in svg
    assert "<metadata" not in svg


def test_the_same_chart_gives_the_same_bytes():
    assert svg_of() == svg_of()


def test_words_are_never_markup():
    evil = "<script>alert('x')</script>&\""
    svg = svg_of(evil)
    assert "<script" not in svg
    assert evil in [element.text for element in ElementTree.fromstring(svg).iter("text")]
