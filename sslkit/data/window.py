"""Scaling stored pixels to [0, 1], on their device, and handling uint16, which torch supports in part."""

import torch
from torch import Tensor

from sslkit.contract.images import Window


def in_window(pixels: Tensor, window: Window | None) -> Tensor:
    """Scale uint8, uint16 or float32 pixels of any shape so that the window becomes [0, 1], and clamp them to it: float32. Without a window
    they stay as they are.
    """
    if window is None:
        return pixels
    low, high = window
    return as_float(pixels).sub(low).div_(high - low).clamp_(0, 1)


def as_float(pixels: Tensor) -> Tensor:
    """Float32 of the same values. Not every device knows uint16, so it goes by way of signed integers."""
    if pixels.dtype == torch.uint16:
        return pixels.view(torch.int16).int().bitwise_and_(0xFFFF).float()
    return pixels.float()


def take(pixels: Tensor, indices: Tensor) -> Tensor:
    """Some rows, of any type: before 2.7, torch does not index uint16, nor does every device."""
    return pixels.view(torch.int16)[indices].view(torch.uint16) if pixels.dtype == torch.uint16 else pixels[indices]


def joined(parts: list[Tensor]) -> Tensor:
    """Concatenate pixels of one type or several, as the type that holds all of their values."""
    dtypes = {part.dtype for part in parts}
    if len(dtypes) == 1:
        return torch.cat(parts)
    if torch.float32 in dtypes:
        return torch.cat([as_float(part) for part in parts])
    return torch.cat([part.to(torch.int32) for part in parts]).to(torch.uint16)
