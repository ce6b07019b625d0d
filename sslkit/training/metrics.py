"""Means and predictions over many batches: what was measured waits on the device, and is read together."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sslkit.contract.objective import Mean, Prediction


class Meters:
    """Sums of totals and counts by metric name, in float64 on the host, in the order of the steps whenever they are read."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[float, float]] = {}
        self._waiting: list[_Row] = []

    def add(self, metrics: Mapping[str, Mean], watched: Sequence[Tensor] = ()) -> None:
        """Add one step's means. Costs one operation, whose result waits for :meth:`settle`, and no host sync.

        Args:
            metrics: by name; other ones than in the step before, if need be.
            watched: 0-dim tensors that are handed back as they are.
        """
        counts = {name: None if isinstance(mean.num, Tensor) else mean.num for name, mean in metrics.items()}
        scalars = [_exact(part) for mean in metrics.values() for part in mean if isinstance(part, Tensor)]
        with torch.no_grad():
            values = torch.stack([*watched, *scalars])  # a copy: a CUDA graph writes the next step's into the same memory
        self._waiting.append(_Row(len(watched), counts, values))

    def settle(self) -> list[list[float]]:
        """Read what waits, with one host sync, and sum it up.

        Returns:
            What was watched in each step since the last time.
        """
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return []
        values = iter(torch.cat([row.values for row in waiting]).tolist())
        watched = []
        for row in waiting:
            watched.append([next(values) for _ in range(row.num_watched)])
            for name, count in row.counts.items():
                total, num = self._sums.get(name, (0.0, 0.0))
                self._sums[name] = total + next(values), num + (next(values) if count is None else count)
        return watched

    def read(self) -> dict[str, float]:
        """The means so far, by name; what was never counted is left out."""
        self.settle()
        return {name: total / num for name, (total, num) in self._sums.items() if num}

    def clear(self) -> None:
        """Begin a new mean."""
        self._sums = {}
        self._waiting = []

    def state(self) -> dict[str, Tensor]:
        """The sums by name, for a checkpoint: (2,) float64, total and count."""
        self.settle()
        return {name: torch.tensor(pair, dtype=torch.float64) for name, pair in self._sums.items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from :meth:`state`."""
        self.clear()
        for name, pair in state.items():
            total, num = pair.tolist()
            self._sums[name] = total, num


class _Row(NamedTuple):
    """What one step measured.

    Attributes:
        num_watched: how many of the values are watched; they come first.
        counts: by metric; None where the count is a tensor too, and follows upon its total.
        values: (num_watched + totals and counts,) on the device.
    """

    num_watched: int
    counts: Mapping[str, float | None]
    values: Tensor


def _exact(value: Tensor) -> Tensor:
    """An integer beside losses would become float32, which cannot count beyond 16 million. Apple's GPUs have nothing longer."""
    return value if value.is_floating_point() or value.device.type == "mps" else value.double()


class Predictions:
    """Gathers what classifiers predict, batch after batch."""

    def __init__(self) -> None:
        self._parts: dict[str, list[Prediction]] = {}

    def add(self, predictions: Mapping[str, Prediction]) -> None:
        """Add one batch's: copies, because a CUDA graph writes the next batch's into the same memory."""
        for name, prediction in predictions.items():
            self._parts.setdefault(name, []).append(Prediction(prediction.logits.detach().clone(), prediction.targets.clone()))

    def read(self) -> dict[str, Prediction]:
        """All of them by name, on the CPU: logits (M, K) float32, targets (M,) int64."""
        return {
            name: Prediction(torch.cat([part.logits for part in parts]).float().cpu(), torch.cat([part.targets for part in parts]).cpu())
            for name, parts in self._parts.items()
        }
