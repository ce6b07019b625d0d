"""Means over many steps, kept on the device and read all at once."""

from collections.abc import Mapping

import torch
from torch import Tensor

from sslkit.interfaces import Mean


class Meters:
    """Sums of totals and counts by metric name. Adding costs no host sync; reading costs one."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}

    def add(self, metrics: Mapping[str, Mean]) -> None:
        """Add one step's means."""
        for name, mean in metrics.items():
            pair = torch.stack([mean.total, mean.num]).detach().to(_sum_dtype(mean.total.device))
            self._sums[name] = self._sums[name] + pair if name in self._sums else pair

    def read(self) -> dict[str, float]:
        """The means so far, by name; what was never counted is left out."""
        if not self._sums:
            return {}
        rows = torch.stack(list(self._sums.values())).tolist()
        return {name: total / num for name, (total, num) in zip(self._sums, rows, strict=True) if num}

    def clear(self) -> None:
        """Begin a new mean."""
        self._sums = {}

    def state(self) -> dict[str, Tensor]:
        """The sums by name, for a checkpoint."""
        return dict(self._sums)

    def restore(self, state: Mapping[str, Tensor], device: torch.device) -> None:
        """Go on from :meth:`state`."""
        self._sums = {name: pair.to(device) for name, pair in state.items()}


def _sum_dtype(device: torch.device) -> torch.dtype:
    """Float64 keeps counts exact beyond 16 million; Apple's GPUs have none."""
    return torch.float32 if device.type == "mps" else torch.float64
