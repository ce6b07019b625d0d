"""Separable resampling with different weights for each image: resized crops, and blur.

A row of the result is a weighted sum of a few rows of an image: which ones and how much of each are its taps.
"""

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

Interpolation = Literal["bilinear", "bicubic"]

_SUPPORT = {"bilinear": 1.0, "bicubic": 2.0}
"""How far a filter reaches, in pixels of the coarser grid."""

_HAVE_BAGS = ("cpu", "cuda")
"""Devices with torch's weighted sums of rows, which are several times as fast as adding up one tap after another."""


class Taps(NamedTuple):
    """Of each image (N) and each row of the result (R), the K rows it is made of.

    Attributes:
        rows: (N, R, K) int64, in the image.
        weights: (N, R, K) float32.
    """

    rows: Tensor
    weights: Tensor


def crop_taps(start: Tensor, extent: Tensor, out: int, length: int, interpolation: Interpolation) -> Taps:
    """Of the window from ``start`` on, ``extent`` rows high, each (N,) int64, resized to ``out`` rows, in images of ``length`` rows.

    As PIL and torch resize with antialiasing: where it shrinks, the filter is as much wider; at the window's border it is cut and
    normalised, so that nothing outside the window is seen. The cubic filter has a = -0.5.
    """
    scale = extent[:, None] / out  # (N, 1) rows of the image a row of the result
    stretch = scale.clamp(min=1.0)
    support = _SUPPORT[interpolation]
    center = scale * (torch.arange(out, device=start.device) + 0.5)  # (N, R), in the window
    num_taps = 2 * math.ceil(support * max(length / out, 1.0)) + 1
    first = (center - support * stretch + 0.5).long()  # (N, R)
    rows = first[..., None] + torch.arange(num_taps, device=start.device)  # (N, R, K), in the window
    weights = _filter((rows - center[..., None] + 0.5) / stretch[..., None], interpolation)
    weights = weights * ((rows >= 0) & (rows < extent[:, None, None]))
    weights = weights / weights.sum(dim=2, keepdim=True)
    return Taps((rows + start[:, None, None]).clamp(0, length - 1), weights)


def blur_taps(sigma: Tensor, kernel_size: int, length: int) -> Taps:
    """Of a Gaussian of (N,) ``sigma`` pixels, cut to ``kernel_size`` and normalised, in images of ``length`` rows, mirrored at the border."""
    offsets = torch.arange(kernel_size, device=sigma.device) - kernel_size // 2  # (K,)
    weights = torch.exp(-0.5 * (offsets / sigma[:, None]) ** 2)  # (N, K)
    weights = weights / weights.sum(dim=1, keepdim=True)
    rows = (torch.arange(length, device=sigma.device)[:, None] + offsets).abs()  # (R, K); no row but the border's is mirrored on itself
    rows = (length - 1) - ((length - 1) - rows).abs()
    shape = (len(sigma), length, kernel_size)
    return Taps(rows.expand(shape), weights[:, None].expand(shape))


def resample(images: Tensor, vertical: Taps, horizontal: Taps) -> Tensor:
    """(N, C, H, W) -> (N, C, R, S): the R rows and the S columns of the result."""
    columns = _resample_rows(images.transpose(2, 3).contiguous(), horizontal)  # (N, C, S, H)
    return _resample_rows(columns.transpose(2, 3).contiguous(), vertical)


def _resample_rows(images: Tensor, taps: Taps) -> Tensor:
    """(N, C, H, W) -> (N, C, R, W)."""
    num_images, num_chs, height, width = images.shape
    num_rows, num_taps = taps.rows.shape[1:]
    if images.device.type not in _HAVE_BAGS:
        result = images.new_zeros(num_images, num_chs, num_rows, width)
        for rows, weights in zip(taps.rows.unbind(2), taps.weights.to(images.dtype).unbind(2), strict=True):
            taken = images.gather(2, rows[:, None, :, None].expand_as(result))
            result.addcmul_(taken, weights[:, None, :, None])
        return result
    planes = torch.arange(num_images * num_chs, device=images.device).view(num_images, num_chs, 1, 1)
    rows = (planes * height + taps.rows[:, None]).view(-1, num_taps)  # in all rows of all planes
    weights = taps.weights.to(images.dtype)[:, None].expand(num_images, num_chs, num_rows, num_taps).reshape(-1, num_taps)
    result = F.embedding_bag(rows, images.view(-1, width), mode="sum", per_sample_weights=weights)
    return result.view(num_images, num_chs, num_rows, width)


def _filter(x: Tensor, interpolation: Interpolation) -> Tensor:
    x = x.abs()
    if interpolation == "bilinear":
        return (1 - x).clamp(min=0)
    near = (1.5 * x - 2.5) * x * x + 1  # Keys' cubic, a = -0.5
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, 0))
