"""TF32, the format in which GPUs since NVIDIA's Ampere can multiply float32: with 11 significant bits instead of 24."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def tf32(*, allowed: bool) -> Iterator[None]:
    """Allow TF32 in matrix products and convolutions of float32, or forbid it; then put back what was set.

    torch allows it in convolutions by default, whatever ``set_float32_matmul_precision`` says.

    Since torch 2.9 there are newer switches, ``fp32_precision``. Setting an old one sets the newer ones with it; setting a newer one
    leaves the old as it was, and ``torch.compile``, which reads both, then fails. So the old ones are what is set here.
    """
    matmul, convolution, newer = _matmul(), _convolution(), [(switch, switch.fp32_precision) for switch in _newer_switches()]
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed
    if not allowed:  # to the old switch of convolutions that means: as torch.backends.fp32_precision says
        for switch, _ in newer:
            switch.fp32_precision = "ieee"
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(matmul)
        torch.backends.cudnn.allow_tf32 = convolution
        for switch, value in newer:
            switch.fp32_precision = value


def _matmul() -> str:
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:  # somebody set a newer switch; then the old one is at its default
        return "highest"


def _convolution() -> bool:
    try:
        return torch.backends.cudnn.allow_tf32
    except RuntimeError:
        return True


def _newer_switches() -> list[Any]:
    """All that the old ones move; none before torch 2.9."""
    backends: Any = torch.backends
    try:
        return [backends.cuda.matmul, backends.mkldnn.matmul, backends.cudnn.conv, backends.cudnn.rnn]
    except AttributeError:
        return []
