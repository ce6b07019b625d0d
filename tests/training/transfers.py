"""What makes a GPU wait, or the host wait for it: values that go from one to the other in the middle of a step."""

import warnings
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_SENT = (torch.tensor, torch.as_tensor, torch.asarray, torch.from_numpy, torch.scalar_tensor, Tensor.new_tensor)
_READ = (Tensor.item, Tensor.tolist, Tensor.numpy, Tensor.cpu, Tensor.__bool__, Tensor.__float__, Tensor.__int__, Tensor.__index__)
_SIZED = (torch.nonzero, Tensor.nonzero, torch.masked_select, Tensor.masked_select, torch.unique, Tensor.unique)
"""Their results are as large as values say."""

FORBIDDEN = {function: function.__name__ for function in (*_SENT, *_READ, *_SIZED)}


class NoTransfers(TorchFunctionMode):
    """Raise where a value is sent to a device or read from it. For the meta device, on which every step can be taken without a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self._below = _NoCopies()

    def __enter__(self) -> "NoTransfers":
        """Begin to watch."""
        self._below.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        """Stop watching."""
        super().__exit__(*error)
        self._below.__exit__(*error)

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        """Watch what is called in Python."""
        if func in FORBIDDEN:
            raise AssertionError(f"{FORBIDDEN[func]} makes a GPU wait")
        return func(*args, **(kwargs or {}))


class _NoCopies(TorchDispatchMode):
    """Watches copies between devices."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        devices = {tensor.device.type for tensor in tree_leaves((args, kwargs, out)) if isinstance(tensor, Tensor)}
        if len(devices) > 1:
            raise AssertionError(f"{func} copies between {' and '.join(sorted(devices))}")
        return out


def on_waiting(reaction: Literal["error", "warn", "default"]) -> None:
    """What torch does from now on where the host would wait for a GPU."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Synchronization debug mode is a prototype", UserWarning)
        torch.cuda.set_sync_debug_mode(reaction)
