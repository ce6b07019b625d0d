"""The two halves of a convolution's backward pass, which a CPU's profile shows as one operation."""

import time
from collections.abc import Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class BackwardSplit(TorchDispatchMode):
    """While it is entered, every convolution's backward pass is done in two calls, one for each gradient, and timed.

    Attributes:
        data: seconds for gradients of inputs.
        weights: seconds for gradients of weights.
    """

    def __init__(self) -> None:
        super().__init__()
        self.data = 0.0
        self.weights = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        """See the class."""
        if func is not torch.ops.aten.convolution_backward.default:
            return func(*args, **(kwargs or {}))
        *operands, (wants_data, wants_weights, wants_bias) = args
        started = time.perf_counter()
        data = func(*operands, [wants_data, False, False])[0]
        between = _now()
        _, weights, bias = func(*operands, [False, wants_weights, wants_bias])
        self.data += between - started
        self.weights += _now() - between
        return data, weights, bias

    @property
    def data_share(self) -> float:
        """The part of the time that went to gradients of inputs, in [0, 1]."""
        return self.data / (self.data + self.weights)


def _now() -> float:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()
