"""Random views of whole batches, as the methods that compare views need them."""

import torch
from torch import Generator, Tensor


def random_crop(images: Tensor, size: int, generator: Generator) -> Tensor:
    """A window of its own of each image: (N, C, H, W) -> (N, C, size, size), bit-exact."""
    num_images, _, height, width = images.shape
    windows = images.unfold(2, size, 1).unfold(3, size, 1)
    top, left = (_integers(high - size + 1, num_images, generator) for high in (height, width))
    return windows[torch.arange(num_images, device=images.device), :, top, left]


def random_brightness(images: Tensor, generator: Generator) -> Tensor:
    """Scale each channel of each image by its own factor: (N, C, H, W) uint8 -> float in [0, 1]."""
    factors = 0.5 + torch.rand(*images.shape[:2], 1, 1, generator=generator, device=images.device)
    return (images * (factors / 255)).clamp_(max=1.0)


def _integers(high: int, num: int, generator: Generator) -> Tensor:
    return torch.randint(0, high, (num,), generator=generator, device=generator.device)
