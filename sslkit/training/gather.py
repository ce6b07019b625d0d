"""Gathering tensors across processes, with gradients."""

from typing import Any

import torch
from torch import Tensor, distributed
from typing_extensions import override


def gather(rows: Tensor) -> Tensor:
    """The rows of all processes in the order of their ranks, with gradients; in one process, ``rows`` themselves.

    For losses that compare images across a batch: negatives, a cross-correlation, a batch's mean. The gradient of a process's rows is the
    sum over all processes' losses, so that averaging the gradients of the weights over processes, as parallel training does, gives the
    gradient of the mean of the processes' losses, whether each computes the loss of its own rows or the same one of all rows.

    Args:
        rows: (N, ...), with the same N in every process; of any dtype, with gradients where it is floating-point.

    Returns:
        (num_processes * N, ...).
    """
    if not distributed.is_available() or not distributed.is_initialized() or distributed.get_world_size() == 1:
        return rows
    return _Gather.apply(rows)


class _Gather(torch.autograd.Function):
    @staticmethod
    @override
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.num_rows = len(rows)
        parts = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(distributed.get_world_size())]
        distributed.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    @override
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        total = grad_outputs[0].contiguous().clone()  # autograd's own may be used elsewhere
        distributed.all_reduce(total)
        first = distributed.get_rank() * ctx.num_rows
        return total[first : first + ctx.num_rows]
