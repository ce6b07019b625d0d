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


def pixels_of(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def test_pixels_are_embedded_whole():
    """At the figure's own resolution, shown at a page's 96 pixels an inch."""
    content = str(Picture("Title", "Caption.", 'Alt "text" <b>', noise(200, 100), raster=True).embed("p", 10**7))
    match = re.fullmatch(r'<img src="data:image/png;base64,([^"]+)" alt="Alt &#34;text&#34; &lt;b&gt;" width="100" height="50">', content)
    expected = np.random.default_rng(0).integers(0, 256, (100, 200, 3), dtype=np.uint8)
    assert np.array_equal(pixels_of(base64.b64decode(match[1])), expected)


def test_charts_are_embedded_as_svg():
    assert Picture("Title", "Caption.", "Alt", noise(20, 10)).embed("p", 10**7).startswith("<svg ")


@pytest.mark.parametrize(("width", "raster", "layout"), [(800, True, "picture"), (1800, True, "panorama"), (1800, False, "chart")])
def test_wide_pictures_are_distinguished(width: int, raster: bool, layout: str):
    assert Picture("Title", "Caption.", "Alt", noise(width, 10), raster).layout == layout


def test_large_pictures_lose_colours_and_then_pixels():
    whole, fewer_colours, fewer_pixels = (png(noise(400, 300), limit) for limit in (10**7, 200_000, 20_000))
    assert len(whole) > 200_000 >= len(fewer_colours) > 20_000 >= len(fewer_pixels)
    assert pixels_of(fewer_colours).shape[:2] == (300, 400)
    assert pixels_of(fewer_pixels).shape[0] < 300


EVIL = "<script>alert('x')</script>&\""


def svg_of(prefix: str = "p1") -> str:
    ours = Series(label=EVIL, points=[(0, 1.0), (1, 0.5)], std=[0.1, 0.1])
    paper = Series(label="b", points=[(0, 2.0)], style=4, hollow=True)
    figure = draw_chart("Title", "Caption.", [ours, paper], x="epoch", y="loss").figure
    return str(inline_svg(figure, prefix=prefix, alt="A <chart> of 'this'"))


@pytest.fixture(scope="module")
def svg() -> str:
    return svg_of()


def test_the_same_picture_gives_the_same_bytes(svg: str):
    assert svg_of() == svg
    assert png(noise(40, 30)) == png(noise(40, 30))


def test_text_stays_text_and_is_never_markup(svg: str):
    assert {"epoch", "loss", EVIL, "b"} <= {element.text for element in ElementTree.fromstring(svg).iter("text")}
    assert "<script" not in svg


def test_ink_takes_the_pages_colour_and_the_ground_is_the_pages(svg: str):
    assert "currentColor" in svg
    assert "#000000" not in svg
    assert "#ffffff" not in svg
    assert ElementTree.fromstring(svg).attrib["fill"] == "currentColor"


def test_a_reader_who_cannot_see_it_is_reported(svg: str):
    root = ElementTree.fromstring(svg)
    assert (root.attrib["role"], root.attrib["aria-label"]) == ("img", "A <chart> of 'this'")


def test_ids_are_unique_in_a_page(svg: str):
    """Two charts in one page must not take each other's markers and clipping."""
    ids = [re.findall(r' id="([^"]+)"', own) for own in (svg, svg_of("p2"))]
    assert ids[0]
    assert all(len(own) == len(set(own)) for own in ids)
    assert not set(ids[0]) & set(ids[1])
    references = re.findall(r'href="#([^"]+)"', svg) + re.findall(r"url\(#([^)]+)\)", svg)
    assert set(references) == set(ids[0])


@pytest.mark.parametrize("outside", ["http", "xlink", "<metadata"])
def test_nothing_points_outside(outside: str, svg: str):
    assert outside not in svg
