"""A metric's name taken apart: ``conv2.k20.top1`` is the accuracy of layer ``conv2`` with 20 labels per class."""

import re
from typing import Literal, NamedTuple

_FEW = re.compile(r"(?P<layer>.+)\.k(?P<labels>\d+)")

_BETTER: dict[str, Literal["higher", "lower"]] = {
    "top1": "higher",
    "top5": "higher",
    "balanced": "higher",
    "rankme": "higher",
    "loss": "lower",
}
"""By the last word of the name, as in ``pretext_loss``. Of any other metric, alpha_req among them, neither more nor less is better."""


class MetricName(NamedTuple):
    """What a metric measures.

    Attributes:
        layer: where; empty for a metric of the whole network.
        measure: what: ``top1``, ``rankme`` ...
        labels: labels per class where they were few; None for all.
    """

    layer: str
    measure: str
    labels: int | None = None


def parse_metric(name: str) -> MetricName:
    """Take a name apart; a layer's own name may hold dots."""
    layer, _, measure = name.rpartition(".")
    few = _FEW.fullmatch(layer)
    return MetricName(layer, measure) if few is None else MetricName(few["layer"], measure, int(few["labels"]))


def better(name: str) -> Literal["higher", "lower"] | None:
    """Which way a metric improves; None where neither is better."""
    return _BETTER.get(parse_metric(name).measure.rpartition("_")[2])
