"""The tables and figures of the RotNet paper (arXiv:1803.07728), cell by cell: which metric of which recipe belongs where."""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple


class Cell(NamedTuple):
    """One figure.

    Attributes:
        recipe: the recipe that measures it, without the suffix of its CPU variant.
        metric: ``<stage>.<metric>`` of its results; with ``@<epoch>``, that of the held-out images after so many epochs.
    """

    recipe: str
    metric: str


class Table(NamedTuple):
    """A table or figure.

    Attributes:
        title: what it shows.
        corner: the heading of its first column.
        columns: the headings of the others.
        rows: cells by row and column; a column that a row lacks does not exist in the paper.
        note: how to read it.
    """

    title: str
    corner: str
    columns: tuple[str, ...]
    rows: Mapping[str, Mapping[str, Cell]]
    note: str = ""

    def cells(self) -> Iterator[Cell]:
        """All of them, row by row."""
        for row in self.rows.values():
            yield from row.values()


LABELS = (1, 10, 20, 100, 400, 1000, 5000)
TRANSFORMS = {
    "rotations4": "4: 0, 90, 180, 270",
    "rotations8": "8: every 45",
    "rotations2_0_180": "2: 0, 180",
    "rotations2_90_270": "2: 90, 270",
}
METHODS = {
    "Supervised NIN": "supervised.conv3.top1",
    "Random Init. + conv": "random_conv_probe.conv2.top1",
    "RotNet + non-linear": "mlp_probe.conv2.top1",
    "RotNet + conv": "conv_probe.conv2.top1",
    "RotNet + non-linear (fine-tuned)": "mlp_finetune.conv2.top1",
    "RotNet + conv (fine-tuned)": "conv_finetune.conv2.top1",
}
SCHEDULES = {"fifth": "by 5, 100 epochs", "half": "by 2, 100 epochs", "fifth_twice_as_long": "by 5, 200 epochs"}


def paper_tables(snapshot_epochs: tuple[int, ...], schedules: Mapping[str, str] | None = None) -> list[Table]:
    """Every table and figure, the most informative first.

    Args:
        snapshot_epochs: of the trajectory's recipe.
        schedules: what the variants of the schedules' recipe are called.
    """
    return [
        _comparison(),
        _depths(),
        _rotations(),
        _few_labels(),
        _schedules(SCHEDULES if schedules is None else schedules),
        _trajectory(snapshot_epochs),
    ]


def by_interest(tables: Iterable[Table]) -> list[Cell]:
    """All cells in the order in which they are worth measuring: the comparison before all, and in it RotNet's own probes, for which the
    pretraining that most other tables share has to be done anyway.
    """
    cells = [cell for table in tables for cell in table.cells()]
    first = [Cell("rotnet_cifar10", METHODS[method]) for method in _MEASURED_FIRST]
    return list(dict.fromkeys([*(cell for cell in first if cell in cells), *cells]))


_MEASURED_FIRST = ("RotNet + conv", "RotNet + non-linear", "Random Init. + conv", "RotNet + conv (fine-tuned)")


def _comparison() -> Table:
    rows = {method: {"top-1": Cell("rotnet_cifar10", metric)} for method, metric in METHODS.items()}
    return Table("RotNet against supervised and random networks", "method", ("top-1",), rows)


def _depths() -> Table:
    rows = {
        f"RotNet, {blocks} blocks": {
            f"ConvB{layer}": Cell("rotnet_depths", f"blocks{blocks}/mlp_probe.conv{layer}.top1") for layer in range(1, blocks + 1)
        }
        for blocks in (3, 4, 5)
    }
    return Table("Depth and layer, non-linear probe", "model", tuple(f"ConvB{layer}" for layer in range(1, 6)), rows)


def _rotations() -> Table:
    rows = {label: {"top-1": Cell("rotnet_rotations", f"{key}/mlp_probe.conv2.top1")} for key, label in TRANSFORMS.items()}
    return Table("Which rotations, non-linear probe on conv2", "rotations", ("top-1",), rows)


def _few_labels() -> Table:
    rows = {
        str(count): {
            "RotNet + conv": Cell("rotnet_few_labels", f"rotnet_few_labels.conv2.k{count}.top1"),
            "supervised": Cell("rotnet_few_labels", f"supervised_few_labels.conv3.k{count}.top1"),
        }
        for count in LABELS
    }
    note = "The mean over random subsets of the labels; where there are several, with the standard deviation."
    return Table("Few labels", "labels per class", ("RotNet + conv", "supervised"), rows, note)


def _schedules(names: Mapping[str, str]) -> Table:
    rows = {
        label: {
            "non-linear": Cell("rotnet_schedules", f"{key}/mlp_probe.conv2.top1"),
            "conv": Cell("rotnet_schedules", f"{key}/conv_probe.conv2.top1"),
        }
        for key, label in names.items()
    }
    return Table("How the learning rate drops", "schedule", ("non-linear", "conv"), rows)


def _trajectory(epochs: tuple[int, ...]) -> Table:
    rows = {
        str(epoch): {
            "rotation accuracy": Cell("rotnet_trajectory", f"pretrain.top1@{epoch}"),
            "object accuracy": Cell("rotnet_trajectory", f"object/epoch={epoch}.conv2.top1"),
            "RankMe": Cell("rotnet_trajectory", f"spectrum/epoch={epoch}.conv2.rankme"),
            "alpha-ReQ": Cell("rotnet_trajectory", f"spectrum/epoch={epoch}.conv2.alpha_req"),
        }
        for epoch in epochs
    }
    columns = ("rotation accuracy", "object accuracy", "RankMe", "alpha-ReQ")
    return Table(
        "Pretraining epoch by epoch",
        "epoch",
        columns,
        rows,
        "Object accuracy is that of a conv probe on conv2, as are RankMe and alpha-ReQ.",
    )
