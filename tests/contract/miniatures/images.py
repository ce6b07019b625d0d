"""A handful of images in memory, to train on in a moment."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from sslkit import ImageSet, ImageSpec


class TinyImages(ImageSet):
    """Images out of a tensor.

    Args:
        pixels: (N, C, H, W) uint8.
        resident: hand the tensor to the loader whole, as small datasets do; else the loader's workers ``read`` it in batches.
    """

    def __init__(self, pixels: Tensor, *, resident: bool = True) -> None:
        num_chs, height, width = pixels.shape[1:]
        self.image = ImageSpec(height, width, "rgb" if num_chs == 3 else "gray", (0.5,) * num_chs, (0.25,) * num_chs)
        self.fingerprint = hashlib.sha256(pixels.numpy().tobytes()).hexdigest()
        self.pixels = pixels if resident else None
        self._pixels = pixels

    def __len__(self) -> int:
        return len(self._pixels)

    def read(self, indices: Sequence[int]) -> Tensor:
        return self._pixels[list(indices)]


def tiny_images(num_images: int, *, size: int = 16, seed: int = 0, resident: bool = True) -> TinyImages:
    """Coloured blobs of 4 x 4 pixels: noise with some structure."""
    blobs = torch.randint(0, 256, (num_images, 3, size // 4, size // 4), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return TinyImages(blobs.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3), resident=resident)
