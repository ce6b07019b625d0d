"""Predictions of many batches, kept on the device and read all at once."""

from collections.abc import Mapping

import torch

from sslkit.contract.objective import Prediction


class Predictions:
    """Gathers what classifiers said, batch after batch."""

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
