"""A picture as a part of a page: charts as SVG, pixels as PNG, nothing beside the page."""

import base64
import io
import math
from typing import Literal, NamedTuple

import numpy as np
from markupsafe import Markup
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from sslkit.report.charts.svg import inline_svg
from sslkit.report.pictures.picture import Picture, drawing_style

PAGE_PIXELS_PER_INCH = 96

Layout = Literal["chart", "picture", "panorama"]

_PANORAMA = 560
"""Pixels of a page."""

_SHRINKAGE = 0.75
"""Of both edges, again and again until a picture is small enough."""


class Embedded(NamedTuple):
    """A picture with the words around it.

    Attributes:
        title: what it shows.
        caption: how to read it.
        content: an ``svg`` or ``img`` element.
        layout: how much room it needs: a ``chart`` shares a line with others, a ``picture`` has one of its own, and a ``panorama`` is
            too wide for a phone, where it is moved sideways.
    """

    title: str
    caption: str
    content: Markup
    layout: Layout


def embed(picture: Picture, *, prefix: str, max_bytes: int) -> Embedded:
    """Make a picture a part of a page.

    Args:
        picture: what to show.
        prefix: unique in the page.
        max_bytes: of a picture made of pixels; a larger one is shown with fewer colours, then with fewer pixels.
    """
    if not picture.raster:
        svg = inline_svg(picture.figure, prefix=prefix, alt=picture.alt)
        return Embedded(picture.title, picture.caption, svg, "chart")
    width, height = (round(inches * PAGE_PIXELS_PER_INCH) for inches in picture.figure.get_size_inches())
    data = base64.b64encode(png(picture.figure, max_bytes)).decode()
    image = Markup('<img src="data:image/png;base64,{}" alt="{}" width="{}" height="{}">').format(data, picture.alt, width, height)
    return Embedded(picture.title, picture.caption, image, "panorama" if width > _PANORAMA else "picture")


def png(figure: Figure, max_bytes: float = math.inf) -> bytes:
    """Render at the figure's own resolution; as a last resort at less."""
    canvas = FigureCanvasAgg(figure)
    with drawing_style():
        canvas.draw()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    data = _compressed(image)
    if len(data) <= max_bytes:
        return data
    while len(data := _compressed(image.quantize(256))) > max_bytes and min(image.size) > 1:
        image = image.resize((max(1, int(image.width * _SHRINKAGE)), max(1, int(image.height * _SHRINKAGE))), Image.Resampling.LANCZOS)
    return data


def _compressed(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, format="png", optimize=True)
    return file.getvalue()
