"""A picture: a figure with its text, embedded in a page: charts as SVG, raster pictures as PNG."""

import base64
import io
import math
import re
from functools import partial
from typing import Literal, NamedTuple
from xml.etree import ElementTree

import matplotlib.style
import numpy as np
from markupsafe import Markup
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

INK = "#000000"
"""Takes the colour of the page's text in a chart."""

_SHRINKAGE = 0.75
"""Of both edges, repeated until a picture is small enough."""

drawing_style = partial(
    matplotlib.style.context,
    [
        "default",  # not the user's own matplotlibrc
        {
            "font.size": 9.5,
            "xtick.labelsize": 9,
            "ytick.labelsize": 9,
            "svg.fonttype": "none",
            "svg.hashsalt": "sslkit",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.linewidth": 0.6,
            "lines.linewidth": 1.5,
            "lines.markersize": 4.5,
            "legend.frameon": False,
            "legend.fontsize": 9,
        },
    ],
)
"""A context in which figures are built and rendered."""


class Picture(NamedTuple):
    """One figure with its text. A chart is embedded as SVG, and its text takes the page's colour; a raster picture as PNG."""

    title: str
    caption: str
    alt: str
    figure: Figure
    raster: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels of a page, 96 per inch."""
        width, height = (round(inches * 96) for inches in self.figure.get_size_inches())
        return width, height

    @property
    def layout(self) -> Literal["chart", "picture", "panorama"]:
        """Its room in a page: a ``chart`` shares a row with others, a ``picture`` has its own, and a ``panorama`` scrolls on a phone."""
        if not self.raster:
            return "chart"
        return "panorama" if self.size[0] > 560 else "picture"

    def embed(self, prefix: str, max_bytes: int) -> Markup:
        """An ``svg`` or ``img`` element. The prefix of ids is unique in the page; a raster picture of more bytes than ``max_bytes`` is shown
        with fewer colours, then with fewer pixels.
        """
        if not self.raster:
            return inline_svg(self.figure, prefix=prefix, alt=self.alt)
        data = base64.b64encode(png(self.figure, max_bytes)).decode()
        return Markup('<img src="data:image/png;base64,{}" alt="{}" width="{}" height="{}">').format(data, self.alt, *self.size)


def png(figure: Figure, max_bytes: float = math.inf) -> bytes:
    """Render at the figure's own resolution; as a last resort at a lower one."""
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


def inline_svg(figure: Figure, *, prefix: str, alt: str) -> Markup:
    """Render a chart: black takes the colour of the page's text, and ids begin with the prefix because they must be unique in a page."""
    file = io.StringIO()
    with drawing_style():
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    root = ElementTree.fromstring(file.getvalue())
    for parent in root.iter():
        for child in [child for child in parent if _local(child.tag) in {"metadata", "style"}]:
            parent.remove(child)
    used = {name for element in root.iter() for value in element.attrib.values() for name in re.findall(r"#([\w-]+)", value)}
    for element in root.iter():
        element.tag = _local(element.tag)  # in HTML neither svg nor xlink:href needs its namespace
        element.attrib = {
            _local(key): _themed(_local(key), value, prefix) for key, value in element.attrib.items() if key != "id" or value in used
        }
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    root.attrib = {
        "viewBox": root.attrib["viewBox"],
        "width": f"{width * (4 / 3):.0f}",  # from points to pixels
        "height": f"{height * (4 / 3):.0f}",
        "fill": "currentColor",
        "role": "img",
        "aria-label": alt,
    }
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def _themed(key: str, value: str, prefix: str) -> str:
    match key:
        case "id":
            return f"{prefix}-{value}"
        case "href" | "clip-path":
            return value.replace("#", f"#{prefix}-", 1)
        case "style":
            return value.replace(f": {INK}", ": currentColor")
    return value
