"""Batches of images, the features of all of them, and eval mode for a while."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Protocol

import torch
from torch import Generator, Tensor, nn

from sslkit.contract.backbone import Backbone, pool
from sslkit.contract.errors import RunInterruptedError
from sslkit.contract.images import Batch
from sslkit.training.device import tf32
from sslkit.views.view import View


class BatchSource(Protocol):
    """Draws batches from one image set onto a device; :class:`sslkit.data.loader.Loader` is one."""

    batch_size: int
    device: torch.device

    @property
    def num_images(self) -> int:
        """How many images there are."""
        ...

    @property
    def fingerprint(self) -> str:
        """Of the images: equal if and only if they are."""
        ...

    def batches(
        self, order: Tensor, *, start: int = 0, sizes: Sequence[int] | None = None, generator: Generator | None = None
    ) -> Iterator[Batch]:
        """One epoch over ``order``, (M,) int64 on the CPU, from its batch ``start``. ``sizes`` are those of all batches, skipped ones too;
        by default ``batch_size``, and the last may be smaller. Images are augmented with ``generator``, or left as they are without one.
        """
        ...

    def in_order(self) -> Iterator[Batch]:
        """Every image once, in index order, not augmented."""
        ...


_WAITING = 64 * 2**20
"""Bytes of features that wait on the device to be fetched at once: fetching each batch's alone would make a GPU wait each time."""


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode for the whole tree; then every module returns to its own mode."""
    modes = [(child, child.training) for child in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for child, mode in modes:
            child.training = mode


def extract_features(
    backbone: Backbone,
    loader: BatchSource,
    layers: Sequence[str],
    autocast: torch.dtype | None,
    *,
    view: View | None = None,
    indices: Tensor | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, Tensor]:
    """Pooled features of every image, or of some, not augmented, in eval mode.

    Args:
        backbone: on the loader's device.
        loader: the images.
        layers: their names; all are computed on one forward pass.
        autocast: dtype of autocast; None: float32 in full, which whatever is measured in features needs: bfloat16 keeps three digits of
            them, which makes ties of neighbours and drowns the small end of a spectrum.
        view: what to make of the images first, nothing random; None: they are taken as they are.
        indices: (M,) int64 on the CPU, the images; None: all, in index order.
        should_stop: asked after every batch.

    Returns:
        For each layer (M, D) float32 on the CPU, in the order of the indices.

    Raises:
        RunInterruptedError: the user asked to stop.
    """
    fetched: dict[str, list[Tensor]] = {layer: [] for layer in layers}
    waiting: dict[str, list[Tensor]] = {layer: [] for layer in layers}
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(evaluating(backbone))
        stack.enter_context(torch.autocast(loader.device.type, dtype=autocast, enabled=autocast is not None))
        if autocast is None:
            stack.enter_context(tf32(allowed=False))
        for batch in loader.in_order() if indices is None else loader.batches(indices):
            features = backbone(batch.images if view is None else view(batch.images), layers)
            for layer in layers:
                waiting[layer].append(pool(features[layer], backbone.layer(layer).kind))
            if sum(part.nbytes for parts in waiting.values() for part in parts) >= _WAITING:
                _fetch(waiting, fetched)
            if should_stop():
                raise RunInterruptedError("stopped while computing features")
    _fetch(waiting, fetched)
    return {layer: torch.cat(parts) for layer, parts in fetched.items()}


def _fetch(waiting: dict[str, list[Tensor]], fetched: dict[str, list[Tensor]]) -> None:
    """Move what is waiting to the CPU."""
    for layer, parts in waiting.items():
        if parts:
            fetched[layer].append(torch.cat(parts).cpu())
            parts.clear()
