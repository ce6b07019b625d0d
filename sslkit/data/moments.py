"""Streaming mean and standard deviation."""

import torch
from torch import Tensor

from sslkit.contract.images import Window


class Moments:
    """Mean and standard deviation of each channel, in float64, of images that need not fit into memory. Chan, Golub & LeVeque 1979.

    Attributes:
        count: values of each channel so far.
        mean: (C,) float64.
        squares: (C,) float64, the sum of the squared distances from the mean.
    """

    def __init__(self, num_chs: int) -> None:
        self.count = 0
        self.mean = torch.zeros(num_chs, dtype=torch.float64)
        self.squares = torch.zeros(num_chs, dtype=torch.float64)

    @property
    def std(self) -> Tensor:
        """(C,) float64, of the population."""
        return (self.squares / max(1, self.count)).sqrt()

    def add(self, images: Tensor, window: Window | None = None) -> None:
        """Count (N, C, H, W) images of any type, scaled so that the window becomes [0, 1], and clamped to it."""
        values = images.double()
        if window is not None:
            values = ((values - window[0]) / (window[1] - window[0])).clamp_(0, 1)
        other = Moments(values.shape[1])
        other.count, other.mean = values[:, 0].numel(), values.mean(dim=(0, 2, 3))
        other.squares = (values - other.mean[:, None, None]).square_().sum(dim=(0, 2, 3))
        self.merge(other)

    def merge(self, other: "Moments") -> None:
        """Count what another has counted."""
        total = self.count + other.count
        if other.count:
            distance = other.mean - self.mean
            self.mean = self.mean + distance * (other.count / total)
            self.squares = self.squares + other.squares + distance.square() * (self.count * other.count / total)
            self.count = total
