"""A chart of lines: the look that all charts of a report share.

Data colours are those of Okabe & Ito that stand out from white and from black alike. Lines also differ in dashes and markers, for readers
who cannot distinguish the colours and for print. Whatever is black takes the colour of the page's text.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from sslkit.report.picture import INK, Picture, drawing_style

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", INK)
DASHES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

_WIDTH, _HEIGHT, _PANEL, _ROW = 5.2, 3.2, 1.5, 0.19
"""Inches: so wide that a phone shows the text at about its size; the height of one pair of axes, of each of several, and of a line of the
legend.
"""

_LONGEST_LABEL = 64
_MOST_IN_ALT = 8


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line of a chart; equal styles belong together. Points whose y is not finite are left out."""

    label: str
    points: Sequence[tuple[float, float]]  # (x, y) from left to right
    style: int = 0  # decides colour, dashes and marker
    std: Sequence[float] = ()  # of each point, drawn as error bars
    line: float = 1.5  # its width, 0 for points alone
    marker: bool = True
    hollow: bool = False  # rings: published results
    beside: str | None = None  # the label of the line whose entry in the legend it shares

    def draw(self, axes: Axes) -> Line2D:
        """Draw it."""
        kept = [(x, y, std) for (x, y), std in zip(self.points, self.std or [0.0] * len(self.points), strict=True) if math.isfinite(y)]
        xs, ys, stds = zip(*kept, strict=True) if kept else ((), (), ())
        color = COLORS[self.style % len(COLORS)]
        (drawn,) = axes.plot(
            xs,
            ys,
            label=plain(self.label),
            color=color,
            linewidth=self.line,
            linestyle=DASHES[self.style % len(DASHES)] if self.line else "none",
            marker=MARKERS[self.style % len(MARKERS)] if self.marker else "none",
            markerfacecolor="none" if self.hollow else color,
            markeredgecolor=color,
        )
        if any(stds):
            axes.errorbar(xs, ys, yerr=stds, fmt="none", ecolor=color, elinewidth=1.0, capsize=2.5)
        return drawn

    def summary(self) -> str:
        """A clause for readers who cannot see the line."""
        if not self.points:
            return f"{self.label}: nothing"
        (first, start), (last, end) = self.points[0], self.points[-1]
        return f"{self.label}: {start:.4g} at {first:g}" + (f", {end:.4g} at {last:g}" if len(self.points) > 1 else "")


class Panel(NamedTuple):
    """A pair of axes of a chart; ``finish`` sets its scales and ticks at the end."""

    y: str
    series: Sequence[Series]
    finish: Callable[[Axes], object] = lambda _axes: None


def draw_chart(
    title: str, caption: str, series: Sequence[Series], *, x: str, y: str, finish: Callable[[Axes], object] = lambda _axes: None
) -> Picture:
    """Draw lines into one pair of axes, labelled ``x`` and ``y``, with the legend below it; ``finish`` sets scales and ticks at the end."""
    return draw_panels(title, caption, [Panel(y, series, finish)], x=x)


def draw_panels(title: str, caption: str, panels: Sequence[Panel], *, x: str) -> Picture:
    """Draw one pair of axes below the other, for measures on scales of their own, with one x axis and one legend."""
    every = [one for panel in panels for one in panel.series]
    labels = dict.fromkeys(one.beside or one.label for one in every)
    columns = max(1, min(4, len(labels), 60 // (max(map(len, labels), default=0) + 6)))
    rows = math.ceil(len(labels) / columns)
    drawn: dict[str, dict[str, Line2D]] = {}  # of each entry of the legend, its lines by their own label: one is enough of each
    with drawing_style():
        height = _HEIGHT if len(panels) == 1 else _PANEL * len(panels)
        figure = Figure(figsize=(_WIDTH, height + _ROW * rows), layout="constrained")
        for axes, panel in zip(figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0], panels, strict=True):
            for one in panel.series:
                drawn.setdefault(one.beside or one.label, {}).setdefault(one.label, one.draw(axes))
            axes.set(ylabel=plain(panel.y))
            axes.grid(color=INK, alpha=0.15, linewidth=0.6)
            panel.finish(axes)
        figure.axes[-1].set(xlabel=plain(x))
        figure.align_ylabels()
        # A tuple of lines is one entry of a legend, which matplotlib's annotations do not know.
        handles: list[Any] = [tuple(drawn[label].values()) for label in labels]
        figure.legend(handles, list(map(plain, labels)), loc="outside lower left", ncols=columns)
    if any(one.hollow for one in every):
        caption += " Rings are the paper's results."
    alt = " ".join(_describe(panel, x) for panel in panels)
    return Picture(title, caption, alt, figure)


def _describe(panel: Panel, x: str) -> str:
    summaries = "; ".join(one.summary() for one in panel.series[:_MOST_IN_ALT])
    more = f"; and {len(panel.series) - _MOST_IN_ALT} more" if len(panel.series) > _MOST_IN_ALT else ""
    return f"Chart of {panel.y} against {x}. {summaries}{more}."


def whole_epochs(axes: Axes) -> None:
    """Ticks of the x axis at whole numbers."""
    axes.xaxis.set_major_locator(MaxNLocator(nbins="auto", integer=True))


def plain(text: str) -> str:
    """Text for matplotlib, which takes dollars for formulas and leaves labels with a leading underscore out of the legend."""
    text = text if len(text) <= _LONGEST_LABEL else f"{text[: _LONGEST_LABEL // 2 - 1]}…{text[-_LONGEST_LABEL // 2 :]}"
    text = text.replace("$", r"\$")
    return f"\N{ZERO WIDTH SPACE}{text}" if text.startswith("_") else text
