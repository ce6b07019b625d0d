"""A chart as SVG within a page: it takes the page's colour and font, and nothing in it points outside."""

import io
import re
from xml.etree import ElementTree

from markupsafe import Markup
from matplotlib.figure import Figure

from sslkit.report.charts.chart import INK
from sslkit.report.pictures.picture import drawing_style

_POINTS_TO_PIXELS = 4 / 3
_REFERENCE = re.compile(r"#([\w-]+)")


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
