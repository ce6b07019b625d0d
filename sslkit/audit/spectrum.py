"""What noise needs to know of images: their mean, and how strong each coarseness is, in each channel and between them.

Shapes: N images, C channels, H rows, W columns, R radii.
"""

from typing import NamedTuple

import torch
from torch import Tensor

_CHUNK = 256
"""Images whose transforms are in memory at a time."""


class Spectrum(NamedTuple):
    """Statistics of images as values in [0, 1]. They know no direction: nothing in them tells rows from columns.

    Attributes:
        mean: (C,) float64, of each channel.
        power: (R, C, C) float64, the averaged cross-spectrum of the channels at ``0, 1, ..., R - 1`` cycles in ``side`` pixels. The
            last is just below or at the Nyquist frequency of the shorter side. Its mean over all frequencies is about the channels'
            covariance.
        side: of the images, the shorter one, in pixels.
    """

    mean: Tensor
    power: Tensor
    side: int

    def roots(self, radius: Tensor) -> Tensor:
        """What white noise is multiplied by, in place of each frequency.

        Args:
            radius: in cycles a pixel, of any shape.

        Returns:
            (*radius.shape, C, C): the symmetric root of the power, between two radii their linear mean; zero from half a cycle a pixel.
        """
        values, vectors = torch.linalg.eigh(self.power)
        roots = vectors * values.clamp_min(0).sqrt()[:, None, :] @ vectors.mT  # the smallest eigenvalue may be a rounding error below 0
        last = len(roots) - 1
        place = (radius * self.side).clamp_max(last)
        below = place.floor().long().clamp_max(max(0, last - 1))
        part = (place - below)[..., None, None]
        between = torch.lerp(roots[below], roots[(below + 1).clamp_max(last)], part)
        return between * (radius < 0.5)[..., None, None]


def measure_spectrum(images: Tensor) -> Spectrum:
    """Average the cross-spectra of images over all directions.

    Args:
        images: (N, C, H, W) uint8.
    """
    height, width = images.shape[-2:]
    side = min(height, width)
    mean = images.double().mean(dim=(0, 2, 3)) / 255
    window = _window(height, width)
    power = torch.zeros(height, width, images.shape[1], images.shape[1], dtype=torch.float64)
    for chunk in images.split(_CHUNK):
        waves = torch.fft.fft2((chunk.double() / 255 - mean[:, None, None]) * window, norm="ortho")
        power += torch.einsum("nchw,ndhw->hwcd", waves, waves.conj()).real  # the imaginary part is odd: its radial mean is 0
    rings = (frequencies(height, width) * side).round().long()
    # The corners beyond the last ring have no counterpart on the axes: power there could not be the same in all directions.
    radial = [power[rings == radius].mean(dim=0) / len(images) for radius in range(side // 2 + 1)]
    return Spectrum(mean, torch.stack(radial), side)


def _window(height: int, width: int) -> Tensor:
    """(H, W) float64, Hann's, with a mean square of 1. Without it, the step between opposite edges would count as fine detail."""
    down, across = (torch.hann_window(side + 2, periodic=False, dtype=torch.float64)[1:-1] for side in (height, width))
    window = down[:, None] * across[None, :]
    return window / window.square().mean().sqrt()


def frequencies(height: int, width: int, *, half: bool = False) -> Tensor:
    """(H, W) float64, the radius in cycles a pixel of each term of a Fourier transform; (H, W // 2 + 1) of a real one."""
    across = torch.fft.rfftfreq(width, dtype=torch.float64) if half else torch.fft.fftfreq(width, dtype=torch.float64)
    return torch.hypot(torch.fft.fftfreq(height, dtype=torch.float64)[:, None], across[None, :])
