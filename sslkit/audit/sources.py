"""Images that show nothing. What a network recognises of a transform on them, it recognises by the transform's traces.

Every source makes (N, C, H, W) uint8, out of the spectrum of the data (``NOISE``) or of as many of its images (``COPIES``), with a generator
on the CPU.

Shapes: N images, C channels, H rows, W columns, R radii.
"""

import io
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor

_CHUNK = 256
"""Images that are made, or whose transforms are in memory, at a time."""


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
        position = (radius * self.side).clamp_max(last)
        below = position.floor().long().clamp_max(max(0, last - 1))
        part = (position - below)[..., None, None]
        between = torch.lerp(roots[below], roots[(below + 1).clamp_max(last)], part)
        return between * (radius < 0.5)[..., None, None]


def measure_spectrum(images: Tensor) -> Spectrum:
    """Average the cross-spectra of (N, C, H, W) uint8 images over all directions."""
    height, width = images.shape[-2:]
    side = min(height, width)
    mean = images.double().mean(dim=(0, 2, 3)) / 255
    # Hann's, with a mean square of 1. Without it, the step between opposite edges would count as fine detail.
    down, across = (torch.hann_window(side + 2, periodic=False, dtype=torch.float64)[1:-1] for side in (height, width))
    window = down[:, None] * across[None, :]
    window /= window.square().mean().sqrt()
    power = torch.zeros(height, width, images.shape[1], images.shape[1], dtype=torch.float64)
    for chunk in images.split(_CHUNK):
        waves = torch.fft.fft2((chunk.double() / 255 - mean[:, None, None]) * window, norm="ortho")
        power += torch.einsum("nchw,ndhw->hwcd", waves, waves.conj()).real  # the imaginary part is odd: its radial mean is 0
    rings = (frequencies(height, width) * side).round().long()
    # The corners beyond the last ring have no counterpart on the axes: power there could not be the same in all directions.
    radial = [power[rings == radius].mean(dim=0) / len(images) for radius in range(side // 2 + 1)]
    return Spectrum(mean, torch.stack(radial), side)


def frequencies(height: int, width: int, *, half: bool = False) -> Tensor:
    """(H, W) float64, the radius in cycles a pixel of each term of a Fourier transform; (H, W // 2 + 1) of a real one."""
    across = torch.fft.rfftfreq(width, dtype=torch.float64) if half else torch.fft.fftfreq(width, dtype=torch.float64)
    return torch.hypot(torch.fft.fftfreq(height, dtype=torch.float64)[:, None], across[None, :])


class Shape(NamedTuple):
    """How many images to make, and how large."""

    num_images: int
    height: int
    width: int


def isotropic_noise(spectrum: Spectrum, shape: Shape, generator: Generator) -> Tensor:
    """Gaussian noise that is the same in all directions.

    Keeps the radially averaged power spectrum of the data, its mean colour and how its channels go together, but for one common factor on
    the contrast, so that three standard deviations fit into the 256 values. Destroys everything else: every shape, every direction,
    all that is not Gaussian. Its distribution is exactly the same after a quarter turn or a flip, and up to rounding to 8 bits
    that of a continuous picture which a turn by any angle leaves the same.
    """
    # A transform's noise is periodic. Cut out of a period of twice the size, an image does not continue at its opposite edge.
    period = 2 * max(shape.height, shape.width)
    roots = spectrum.roots(frequencies(period, period, half=True))
    contrast = _contrast(spectrum.mean, roots)
    chunks = torch.arange(shape.num_images).split(_CHUNK)
    return torch.cat([_colored(len(chunk), roots * contrast, spectrum.mean, shape, period, generator) for chunk in chunks])


def jpeg_noise(spectrum: Spectrum, shape: Shape, generator: Generator) -> Tensor:
    """Isotropic noise after a JPEG round trip, at quality 75 and with chroma 4:2:0: what many datasets went through.

    Keeps what :func:`isotropic_noise` keeps, and adds the traces of JPEG alone: blocks of 8 pixels, and a quantisation that treats
    horizontal and vertical waves differently.
    """
    return torch.stack([_through_jpeg(image) for image in isotropic_noise(spectrum, shape, generator)])


def phase_scrambled(images: Tensor, generator: Generator) -> Tensor:
    """Copies of images with random phases, the same offset in every channel.

    Keeps each image's amplitude spectrum, and so how strong each direction is in it (horizons, trunks), its mean, and how its channels go
    together, up to the clipping to 256 values. Destroys where anything is, every shape and edge, and what is up or down: turned
    by 180 degrees, or mirrored in both axes, an amplitude spectrum is the same.
    """
    height, width = images.shape[-2:]
    scrambled = []
    for chunk in images.split(_CHUNK):
        # The phases of real noise are uniform, and opposite at opposite frequencies as they must be.
        offsets = torch.fft.rfft2(torch.randn(len(chunk), 1, height, width, generator=generator)).sgn()
        offsets[..., 0, 0] = 1  # the mean stays
        scrambled.append(to_uint8(torch.fft.irfft2(torch.fft.rfft2(chunk.float() / 255) * offsets, s=(height, width))))
    return torch.cat(scrambled)


def shuffled_patches(images: Tensor, generator: Generator) -> Tensor:
    """Copies of images, cut into square patches that change places within their image.

    Keeps everything inside of a patch: texture, colour, edges and the light on them, which may well tell up from down. Destroys what is
    larger than a patch. The patches are the largest of at most 8 pixels, and a quarter of the side, that cover the image exactly. At last
    the image is rolled by a random part of a patch, over its edges: a grid of seams that always lay in the same place would itself
    tell whether an image was moved.
    """
    num_images, num_chs, height, width = images.shape
    side = patch_side(height, width)
    patches = images.unfold(2, side, side).unfold(3, side, side)  # (N, C, rows, columns, side, side)
    rows, columns = patches.shape[2:4]
    order = torch.rand(num_images, rows * columns, generator=generator).argsort(dim=1)
    index = order[:, None, :, None, None].expand(-1, num_chs, -1, side, side)
    shuffled = patches.flatten(2, 3).gather(2, index).unflatten(2, (rows, columns)).transpose(3, 4).reshape(images.shape)
    return _rolled(shuffled, torch.randint(side, (2, num_images), generator=generator))


NOISE: dict[str, Callable[[Spectrum, Shape, Generator], Tensor]] = {"isotropic_noise": isotropic_noise, "jpeg_noise": jpeg_noise}
"""Sources that know the data by its statistics alone."""

COPIES: dict[str, Callable[[Tensor, Generator], Tensor]] = {"phase_scrambled": phase_scrambled, "shuffled_patches": shuffled_patches}
"""Sources that are made of images of the data, one of each."""

SOURCES = ("isotropic_noise", "jpeg_noise", "phase_scrambled", "shuffled_patches")
"""All of them by name: the less they keep, the earlier."""


def patch_side(height: int, width: int) -> int:
    """The side of the patches that :func:`shuffled_patches` cuts."""
    common = math.gcd(height, width)
    limit = min(8, max(1, min(height, width) // 4))
    return max(side for side in range(1, limit + 1) if common % side == 0)


def _contrast(mean: Tensor, roots: Tensor) -> float:
    """The factor, at most 1, that keeps three standard deviations within [0, 1] in every channel: of a mean (C,) and roots (period,
    period // 2 + 1, C, C).
    """
    # Every column of a real transform stands for two of the whole one, but for the first and the last.
    columns = torch.full((roots.shape[1],), 2.0, dtype=roots.dtype)
    columns[[0, -1]] = 1.0
    variance = torch.einsum("hwcd,hwcd,w->c", roots, roots, columns) / roots.shape[0] ** 2
    room = torch.minimum(mean, 1 - mean)
    return min(1.0, float((room / (3 * variance.sqrt()).clamp_min(1e-12)).min()))


def _colored(num_images: int, roots: Tensor, mean: Tensor, shape: Shape, period: int, generator: Generator) -> Tensor:
    """White noise, filtered, around the mean: (num_images, C, H, W) uint8."""
    white = torch.randn(num_images, len(mean), period, period, generator=generator)
    waves = torch.fft.rfft2(white, norm="ortho")
    filtered = torch.einsum("hwcd,ndhw->nchw", roots.to(waves.dtype), waves)
    noise = torch.fft.irfft2(filtered, s=(period, period), norm="ortho")[..., : shape.height, : shape.width]
    return to_uint8(noise + mean.float()[:, None, None])


def _rolled(images: Tensor, offsets: Tensor) -> Tensor:
    """Each image by its own (2, N) rows down and columns to the right; what leaves at one edge comes in at the other."""
    num_images, num_chs, height, width = images.shape
    down = (torch.arange(height) - offsets[0][:, None]) % height
    across = (torch.arange(width) - offsets[1][:, None]) % width
    return images[
        torch.arange(num_images)[:, None, None, None],
        torch.arange(num_chs)[:, None, None],
        down[:, None, :, None],
        across[:, None, None, :],
    ]


def to_uint8(images: Tensor) -> Tensor:
    """Floats in [0, 1], rounded."""
    return (images * 255).round().clamp(0, 255).to(torch.uint8)


def _through_jpeg(image: Tensor) -> Tensor:
    """(C, H, W) uint8 -> the same through an encoder and a decoder."""
    if len(image) not in (1, 3):  # bands, each by itself
        return torch.cat([_through_jpeg(band[None]) for band in image])
    file = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).squeeze(2).numpy()).save(file, "JPEG", quality=75, subsampling="4:2:0")
    with Image.open(file, formats=("JPEG",)) as decoded:
        return torch.from_numpy(np.array(decoded)).reshape(*image.shape[1:], -1).permute(2, 0, 1)
