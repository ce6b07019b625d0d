import base64
import io
import re

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from sslkit.report.page.embedded import Embedded, embed, png
from sslkit.report.pictures.picture import Picture


def noise(width: int, height: int, dpi: int = 192) -> Figure:
    """A figure of random pixels, which no compression makes small."""
    figure = Figure(figsize=(width / dpi, height / dpi), dpi=dpi)
    figure.figimage(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8), origin="upper")
    return figure


def embedded(figure: Figure, *, raster: bool, max_bytes: int = 10**7) -> Embedded:
    picture = Picture("key", "Title", "Caption.", 'Alt "text" <b>', figure, raster)
    return embed(picture, prefix="p", max_bytes=max_bytes)


def pixels_of(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def test_pixels_are_embedded_whole():
    """At the figure's own resolution, shown at a page's 96 pixels an inch."""
    content = str(embedded(noise(200, 100), raster=True).content)
    match = re.fullmatch(r'<img src="data:image/png;base64,([^"]+)" alt="Alt &#34;text&#34; &lt;b&gt;" width="100" height="50">', content)
    assert match is not None
    expected = np.random.default_rng(0).integers(0, 256, (100, 200, 3), dtype=np.uint8)
    assert np.array_equal(pixels_of(base64.b64decode(match[1])), expected)


def test_charts_are_embedded_as_svg():
    shown = embedded(noise(20, 10), raster=False)
    assert str(shown.content).startswith("<svg ")
    assert (shown.title, shown.caption, shown.layout) == ("Title", "Caption.", "chart")


@pytest.mark.parametrize(("width", "layout"), [(800, "picture"), (1800, "panorama")])
def test_wide_pictures_are_told_apart(width: int, layout: str):
    assert embedded(noise(width, 10), raster=True).layout == layout


def test_large_pictures_lose_colours_and_then_pixels():
    whole, fewer_colours, fewer_pixels = (png(noise(400, 300), limit) for limit in (10**7, 200_000, 20_000))
    assert len(whole) > 200_000 >= len(fewer_colours) > 20_000 >= len(fewer_pixels)
    assert pixels_of(fewer_colours).shape[:2] == (300, 400)
    assert pixels_of(fewer_pixels).shape[0] < 300


def test_the_same_picture_gives_the_same_bytes():
    assert png(noise(40, 30), 10**7) == png(noise(40, 30), 10**7)
