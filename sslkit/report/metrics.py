"""Metrics as text: what a metric's name means, and how values and durations are written in the terminal and in a report."""

import re
from typing import Literal, NamedTuple


class MetricName(NamedTuple):
    """A parsed metric's name: ``conv2.k20.top1`` is the accuracy of layer ``conv2`` with 20 labels per class."""

    layer: str  # empty for a metric of the whole network
    measure: str
    labels: int | None = None  # per class where they were few; None for all


def parse_metric(name: str) -> MetricName:
    """Parse a name; a layer's own name may contain dots."""
    layer, _, measure = name.rpartition(".")
    few = re.fullmatch(r"(?P<layer>.+)\.k(?P<labels>\d+)", layer)
    return MetricName(layer, measure) if few is None else MetricName(few["layer"], measure, int(few["labels"]))


def better(name: str) -> Literal["higher", "lower"] | None:
    """Which way a metric improves, by the last word of its name, as in ``pretext_loss``; None where neither is better, as of alpha_req."""
    word = parse_metric(name).measure.rpartition("_")[2]
    return "lower" if word == "loss" else "higher" if word in {"top1", "top5", "balanced", "rankme"} else None


def number(value: float | None) -> str:
    """A metric with two decimals, a small one with two significant digits: a loss of 0.0042 is not 0.00. Empty where there is none."""
    if value is None:
        return ""
    return f"{value:.2f}" if abs(value) >= 0.1 or value == 0 else f"{value:.2g}"


def signed(value: float | None) -> str:
    """A difference with its sign; one that rounds to nothing is ``+0.00``, never ``-0.00``."""
    return "" if value is None else f"{round(value, 2) + 0.0:+.2f}"


def duration(seconds: float) -> str:
    """``3.2 s``, ``3 min 05 s`` or ``3 h 05 min``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"
