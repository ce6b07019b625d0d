"""What the paper says its figures show, each asked of ours."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from reproduction.records import Record
from reproduction.tables import LABELS, TRANSFORMS, Cell

Values = Callable[[str, str], float]


class Claim(NamedTuple):
    """A sentence of the paper.

    Attributes:
        text: the sentence.
        holds: whether ours agree; None where figures are missing.
        figures: ours, in words.
    """

    text: str
    holds: bool | None
    figures: str


def judge(records: Mapping[Cell, Record], suffix: str) -> list[Claim]:
    """Every claim, judged by the records of the recipes with this suffix."""

    def value(recipe: str, metric: str) -> float:
        return records[Cell(recipe + suffix, metric)].value

    return [_judged(text, ask, value) for text, ask in _CLAIMS.items()]


def _judged(text: str, ask: Callable[[Values], tuple[bool, str]], value: Values) -> Claim:
    try:
        holds, figures = ask(value)
    except KeyError:
        return Claim(text, None, "not all measured yet")
    return Claim(text, holds, figures)


def _best_layer(blocks: int) -> Callable[[Values], tuple[bool, str]]:
    def ask(value: Values) -> tuple[bool, str]:
        found = {f"conv{layer}": value("rotnet_depths", f"blocks{blocks}/mlp_probe.conv{layer}.top1") for layer in range(1, blocks + 1)}
        return max(found, key=lambda layer: found[layer]) == "conv2", ", ".join(f"{layer} {top1:.2f}" for layer, top1 in found.items())

    return ask


def _last_is_far_worse(value: Values) -> tuple[bool, str]:
    drops = {
        blocks: value("rotnet_depths", f"blocks{blocks}/mlp_probe.conv2.top1")
        - value("rotnet_depths", f"blocks{blocks}/mlp_probe.conv{blocks}.top1")
        for blocks in (3, 4, 5)
    }
    return min(drops.values()) > 5, ", ".join(f"{blocks} blocks: {drop:.2f} points below conv2" for blocks, drop in drops.items())


def _four_beat_two(value: Values) -> tuple[bool, str]:
    found = {TRANSFORMS[key]: value("rotnet_rotations", f"{key}/mlp_probe.conv2.top1") for key in TRANSFORMS}
    four, _eight, *twos = found.values()
    return four > max(twos), ", ".join(f"{label} degrees {top1:.2f}" for label, top1 in found.items())


def _ahead(first: str, second: str, by: float = 0.0) -> Callable[[Values], tuple[bool, str]]:
    def ask(value: Values) -> tuple[bool, str]:
        one, two = value("rotnet_cifar10", first), value("rotnet_cifar10", second)
        return one - two > by, f"{one:.2f} against {two:.2f}: {one - two:+.2f}"

    return ask


def _few_labels(value: Values) -> tuple[bool, str]:
    margins = {
        count: value("rotnet_few_labels", f"rotnet_few_labels.conv2.k{count}.top1")
        - value("rotnet_few_labels", f"supervised_few_labels.conv3.k{count}.top1")
        for count in LABELS
    }
    return all(margins[count] > 0 for count in LABELS if 10 <= count < 1000), ", ".join(
        f"{k}: {margin:+.2f}" for k, margin in margins.items()
    )


_CLAIMS: dict[str, Callable[[Values], tuple[bool, str]]] = {
    "conv2 is the best layer of the network with 3 blocks": _best_layer(3),
    "conv2 is the best layer of the network with 4 blocks": _best_layer(4),
    "the last layer is far worse than conv2 (more than 5 points)": _last_is_far_worse,
    "4 rotations beat both sets of 2": _four_beat_two,
    "RotNet + conv beats random + conv by a wide margin (more than 10 points)": _ahead(
        "conv_probe.conv2.top1", "random_conv_probe.conv2.top1", 10
    ),
    "fine-tuned beats frozen, non-linear head": _ahead("mlp_finetune.conv2.top1", "mlp_probe.conv2.top1"),
    "fine-tuned beats frozen, conv head": _ahead("conv_finetune.conv2.top1", "conv_probe.conv2.top1"),
    "RotNet beats the supervised network at 10 to 400 labels per class (margins by labels)": _few_labels,
}
