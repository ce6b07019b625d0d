"""A picture as a part of a page: charts as SVG, pixels as PNG, nothing beside the page."""

import base64
import io
import math
import re
from typing import Literal, NamedTuple
from xml.etree import ElementTree

import numpy as np
from markupsafe import Markup
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from sslkit.report.charts.chart import INK
from sslkit.report.pictures.picture import Picture, drawing_style

PAGE_PIXELS_PER_INCH = 96

Layout = Literal["chart", "picture", "panorama"]

_PANORAMA = 560
"""Pixels of a page."""

_SHRINKAGE = 0.75
"""Of both edges, again and again until a picture is small enough."""


_POINTS_TO_PIXELS = 4 / 3
_REFERENCE = re.compile(r"#([\w-]+)")


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


def inline_svg(figure: Figure, *, prefix: str, alt: str) -> Markup:
    """Render a chart.

    Args:
        figure: whatever is black in it takes the page's text colour.
        prefix: for the ids in it, which must be unique in the page.
        alt: what a reader who cannot see it should know.
    """
    root = ElementTree.fromstring(_render(figure))
    for parent in root.iter():
        for child in [child for child in parent if _local(child.tag) in {"metadata", "style"}]:
            parent.remove(child)
    used = {name for element in root.iter() for value in element.attrib.values() for name in _REFERENCE.findall(value)}
    for element in root.iter():
        element.tag = _local(element.tag)  # in HTML neither svg nor xlink:href needs its namespace
        element.attrib = {
            _local(key): _themed(_local(key), value, prefix) for key, value in element.attrib.items() if key != "id" or value in used
        }
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    root.attrib = {
        "viewBox": root.attrib["viewBox"],
        "width": f"{width * _POINTS_TO_PIXELS:.0f}",
        "height": f"{height * _POINTS_TO_PIXELS:.0f}",
        "fill": "currentColor",
        "role": "img",
        "aria-label": alt,
    }
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _compressed(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, format="png", optimize=True)
    return file.getvalue()


def _render(figure: Figure) -> str:
    file = io.StringIO()
    with drawing_style():
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return file.getvalue()


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def _themed(key: str, value: str, prefix: str) -> str:
    if key == "id":
        return f"{prefix}-{value}"
    if key == "href":
        return value.replace("#", f"#{prefix}-", 1)
    if key == "clip-path":
        return value.replace("url(#", f"url(#{prefix}-")
    return value.replace(f": {INK}", ": currentColor") if key == "style" else value
