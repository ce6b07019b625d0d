"""BatchNorm and ReLU in one operation on a CPU: fewer passes over the activations, and no mask that is stored."""

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F

from sslkit.kernels.native import NativeBuildError, build

MAX_CHS = 4096
"""One row must fit the stack of a thread."""

_NAMES = {torch.bfloat16: "bfloat16", torch.float32: "float32"}


def batch_norm_relu(x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    """``relu(norm(x))``, fused where that is possible, and by torch elsewhere.

    It is in training, on a CPU, for channels-last float32 or bfloat16 with float32 parameters, where there is a C compiler. The running
    statistics move as torch's do. Sums are those of any number of threads.

    Args:
        x: (N, C, H, W); not changed.
        norm: of C channels, with affine parameters and running statistics.

    Returns:
        (N, C, H, W), in the dtype of ``x``.
    """
    if not _can_fuse(x, norm):
        return F.relu(norm(x), inplace=True)
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    assert norm.momentum is not None
    return BatchNormReLU.apply(x, norm.weight, norm.bias, norm.running_mean, norm.running_var, float(norm.eps), float(norm.momentum))


def library() -> ctypes.CDLL | None:
    """The compiled kernels; None where there are none."""
    built = _built()
    return None if isinstance(built, NativeBuildError) else built


def describe_kernels() -> str:
    """Whether there are kernels, or why there are none: results differ by rounding, so a run's record says it."""
    built = _built()
    return f"torch's ({built})" if isinstance(built, NativeBuildError) else "compiled for this processor"


class BatchNormReLU(torch.autograd.Function):
    """The operation itself. The gradient recomputes the ReLU's mask from ``x``, which the convolution before it does not need."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, running_mean: Tensor, running_var: Tensor, eps: float, momentum: float
    ) -> Tensor:
        """See :func:`batch_norm_relu`."""
        num_chs = x.shape[1]
        y, mean, rstd = torch.empty_like(x), torch.empty_like(weight), torch.empty_like(weight)
        _call("forward", x, x.numel() // num_chs, num_chs, weight, bias, eps, momentum, running_mean, running_var, y, mean, rstd)
        ctx.save_for_backward(x, weight, bias, mean, rstd)
        ctx.eps = eps
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of ``x``, ``weight`` and ``bias``."""
        (gradient,) = gradients
        x, weight, bias, mean, rstd = ctx.saved_tensors
        if torch.is_grad_enabled():  # the gradient itself is to be differentiated, as a gradient penalty does
            return *_differentiable(gradient, (x, weight, bias), ctx.needs_input_grad[:3], ctx.eps), None, None, None, None
        num_chs = x.shape[1]
        gradient = gradient.resolve_neg().contiguous(memory_format=torch.channels_last)
        dx, dweight, dbias = torch.empty_like(x), torch.empty_like(weight), torch.empty_like(bias)
        _call("backward", gradient, x, x.numel() // num_chs, num_chs, weight, bias, mean, rstd, dx, dweight, dbias)
        return dx, dweight, dbias, None, None, None, None


@cache
def _built() -> ctypes.CDLL | NativeBuildError:
    try:
        return build(Path(__file__).with_suffix(".c"))
    except NativeBuildError as error:
        return error


def _can_fuse(x: Tensor, norm: nn.BatchNorm2d) -> bool:
    # Everything that C would take on trust: where it is not so, torch does the work or says what is wrong.
    if type(x) is not Tensor or x.device.type != "cpu" or x.dtype not in _NAMES or x.ndim != 4 or _is_watched():
        return False
    if not (norm.training and norm.affine and norm.track_running_stats and norm.momentum is not None):
        return False
    several = x.numel() > x.shape[1] <= MAX_CHS  # of one value there is no variance
    plain = x.is_contiguous(memory_format=torch.channels_last) and not x.is_neg()
    numbers = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
    return several and plain and all(_is_row(tensor, x.shape[1]) for tensor in numbers) and library() is not None


def _is_row(tensor: Tensor | None, num_chs: int) -> bool:
    if tensor is None or tensor.shape != (num_chs,):
        return False
    return tensor.dtype == torch.float32 and tensor.device.type == "cpu" and tensor.is_contiguous() and not tensor.is_neg()


def _is_watched() -> bool:
    """Whether somebody records or transforms what is done: a compiler, a tracer, a dispatch mode, torch.func, forward-mode gradients."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # pyright: ignore[reportPrivateImportUsage]
        return True  # at once, as the compiler of torch 2.6 cannot trace what follows
    function = torch._C._functorch.peek_interpreter_stack()  # noqa: SLF001 # pyright: ignore[reportAttributeAccessIssue]
    transformed = function is not None or forward_ad._current_level >= 0  # noqa: SLF001
    return transformed or torch._C._len_torch_dispatch_stack() > 0  # noqa: SLF001


def _differentiable(
    gradient: Tensor, inputs: tuple[Tensor, Tensor, Tensor], wanted: tuple[bool, ...], eps: float
) -> tuple[Tensor | None, ...]:
    x, weight, bias = inputs
    with torch.enable_grad():
        y = F.relu(F.batch_norm(x, None, None, weight, bias, training=True, eps=eps))
    asked = [tensor for tensor, needed in zip(inputs, wanted, strict=True) if needed]
    found = iter(torch.autograd.grad(y, asked, gradient, create_graph=True))
    return tuple(next(found) if needed else None for needed in wanted)


def _call(name: str, *arguments: Tensor | float) -> None:
    kernels = library()
    assert kernels is not None
    first = arguments[0]
    assert isinstance(first, Tensor)
    if getattr(kernels, f"{name}_{_NAMES[first.dtype]}")(*map(_c_value, arguments)):
        raise MemoryError(f"BatchNorm + ReLU {name}")


def _c_value(value: Tensor | float) -> Any:
    if isinstance(value, Tensor):
        return ctypes.c_void_p(value.data_ptr())
    return ctypes.c_int64(value) if isinstance(value, int) else ctypes.c_double(value)
