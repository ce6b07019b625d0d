"""The results of a run as one value: metrics by stage, the paper's results, the recipe's margins."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Row(NamedTuple):
    """One line of the results table; values in percent unless the metric is a loss."""

    stage: str
    metric: str
    value: float
    paper: float | None

    @property
    def difference(self) -> float | None:
        """Ours minus the paper's."""
        return None if self.paper is None else self.value - self.paper


class Margin(NamedTuple):
    """A difference between two metrics that a recipe asks to be shown."""

    label: str
    first: str
    second: str
    difference: float


@dataclass
class Results:
    """Collects the metrics of a run's stages.

    Attributes:
        recipe: its name.
        paper: published results by ``<stage>.<metric>``.
        margins: by label, the two metrics to subtract.
        stages: metrics by stage.
        pending: the stages that are still to run.
    """

    recipe: str
    paper: dict[str, float] = field(default_factory=dict)
    margins: dict[str, tuple[str, str]] = field(default_factory=dict)
    stages: dict[str, dict[str, float]] = field(default_factory=dict)
    pending: list[str] = field(default_factory=list)

    def rows(self) -> list[Row]:
        """Every metric, in the order it was measured."""
        return [
            Row(stage, metric, value, self.paper.get(f"{stage}.{metric}"))
            for stage, metrics in self.stages.items()
            for metric, value in metrics.items()
        ]

    def missing(self) -> list[str]:
        """Results of the paper that no stage reported: a misspelt key, or a stage not yet run."""
        measured = {f"{row.stage}.{row.metric}" for row in self.rows()}
        return [key for key in self.paper if key not in measured]

    def differences(self) -> list[Margin]:
        """The margins whose two metrics are both there."""
        values = {f"{row.stage}.{row.metric}": row.value for row in self.rows()}
        return [
            Margin(label, first, second, values[first] - values[second])
            for label, (first, second) in self.margins.items()
            if first in values and second in values
        ]

    def as_json(self) -> dict[str, Any]:
        """The content of results.json."""
        return {
            "recipe": self.recipe,
            "stages": self.stages,
            "paper": self.paper,
            "margins": {margin.label: margin.difference for margin in self.differences()},
            "pending": self.pending,
        }
