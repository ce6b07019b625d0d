"""Random crop and flip of a whole batch at once, on its device."""

from typing import NamedTuple

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from sslkit.contract.images import Augment


class Draws(NamedTuple):
    """The random choices of one batch; None where the options leave nothing to choose."""

    offsets: Tensor | None  # (2, N) int64, the first row and the first column of each crop in the padded image
    flip: Tensor | None  # (N,) bool, which images to mirror


def augment(images: Tensor, options: Augment, generator: Generator) -> Tensor:
    """Crop and flip each of (N, C, H, W) images, uint8 or float, by its own draws, from a generator on their device."""
    return apply_draws(images, options, draw(len(images), options, generator))


def draw(num_images: int, options: Augment, generator: Generator) -> Draws:
    """Draw what the options ask for, and nothing else, for ``num_images`` images."""
    device, offsets, flip = generator.device, None, None
    if options.crop_padding:
        offsets = torch.randint(0, 2 * options.crop_padding + 1, (2, num_images), generator=generator, device=device)
    if options.horizontal_flip:
        flip = torch.rand(num_images, generator=generator, device=device) < 0.5
    return Draws(offsets, flip)


def apply_draws(images: Tensor, options: Augment, draws: Draws) -> Tensor:
    """Crop and flip (N, C, H, W) images, uint8 or float, as drawn."""
    if draws.offsets is not None:
        # Pad with zeros and gather one window an image: a view of all windows, indexed once, no loop over images.
        height, width = images.shape[-2:]
        windows = F.pad(images, [options.crop_padding] * 4).unfold(2, height, 1).unfold(3, width, 1)  # (N, C, 2p+1, 2p+1, H, W), no copy
        top, left = draws.offsets
        images = windows[torch.arange(len(images), device=images.device), :, top, left]
    if draws.flip is not None:
        images = torch.where(draws.flip[:, None, None, None], images.flip(-1), images)
    return images
