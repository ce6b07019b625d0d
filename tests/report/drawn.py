"""What a figure shows, read from its axes."""

from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sslkit.report.picture import Picture


class Drawn(NamedTuple):
    """One line of a chart."""

    points: list[tuple[float, float]]
    look: tuple[str, str, str]
    hollow: bool


def axes_of(picture: Picture) -> Axes:
    (axes,) = picture.figure.axes
    return axes


def lines_of(picture: Picture) -> dict[str, Drawn]:
    """The labelled lines: colour, dashes and marker are their look."""
    found = {}
    for line in axes_of(picture).lines:
        label = str(line.get_label())
        if not label.startswith("_"):
            points = [(float(x), float(y)) for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)]  # pyright: ignore[reportArgumentType]
            look = (str(line.get_color()), str(line.get_linestyle()), str(line.get_marker()))
            found[label] = Drawn(points, look, line.get_markerfacecolor() == "none")
    return found


def points_of(picture: Picture) -> dict[str, list[tuple[float, float]]]:
    return {label: line.points for label, line in lines_of(picture).items()}


def legend_of(picture: Picture) -> list[str]:
    return [text.get_text() for legend in picture.figure.legends for text in legend.get_texts()]


def ticks_of(picture: Picture) -> list[str]:
    picture.figure.draw_without_rendering()
    return [label.get_text() for label in axes_of(picture).get_xticklabels()]


def words_of(figure: Figure) -> list[str]:
    """All that is written: titles, notes, names of columns and rows, and what stands in the pictures."""
    found = [text.get_text() for text in figure.texts]
    for axes in figure.axes:
        labels = [label.get_text() for label in (*axes.get_xticklabels(), *axes.get_yticklabels())]
        texts = [text.get_text() for text in axes.texts if text.get_visible()]
        found += [axes.get_title(loc="left"), *axes.get_xlabel().splitlines(), axes.get_ylabel(), *labels, *texts]
    return [word for word in found if word]
