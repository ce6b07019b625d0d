"""BatchNorms of a frozen backbone folded into the convolutions before them: the same features for less work."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import BatchNorm2d, Conv2d
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sslkit.contract.backbone import Backbone
from sslkit.training.seeds import global_seed

TOLERANCE = 1e-4
"""How far folded features may lie from plain ones, relative to the largest of their layer: rounding stays below a tenth of this."""


def folded(backbone: Backbone, layers: Sequence[str]) -> Backbone:
    """A network that computes ``backbone(images, layers)`` in eval mode without the BatchNorms that follow a convolution.

    In eval mode a BatchNorm is a scale and a shift of each channel, which the convolution before it can do as well. Which BatchNorm
    follows which convolution is not read from the code, which may be anybody's, but seen on a forward pass with two images of noise: the
    code itself is kept and runs as it is. The result is compared with the plain features before it is used.

    Args:
        backbone: is not changed, not even run.
        layers: the only ones that may be asked of the result.

    Returns:
        A copy on the same device and in the same memory format, in eval mode and without gradients; or ``backbone`` itself where nothing
        can be folded, where its code looks at values to decide what to compute, or where it or the copy gave other features.
    """
    if not any(isinstance(module, BatchNorm2d) for module in backbone.modules()):
        return backbone
    try:
        network = _fold(backbone, layers)
    except Exception:  # whatever anybody's code raises when it is copied to the CPU and given noise: plain features are always right
        return backbone
    return backbone if network is None else network.to(backbone.mean.device)


@torch.no_grad()
def _fold(backbone: Backbone, layers: Sequence[str]) -> Backbone | None:
    """On the CPU, where float32 is float32: a GPU may round to TF32 on the way."""
    network = copy.deepcopy(backbone).cpu().eval().requires_grad_(False)
    images = _noise(backbone)
    rehearsal = _Rehearsal(network)
    with rehearsal:
        plain = _run(network, images, layers)
    again = _run(network, images, layers)
    pairs = rehearsal.pairs(plain)
    for convolution, norm in pairs:
        _absorb(convolution, norm)
    _replace(network, {norm: nn.Sequential(*norm.children()) for _, norm in pairs})  # timm's hold the activation that follows them
    network.eval()
    found = _run(network, images, layers)
    same = all(_close(again[layer], plain[layer]) and _close(found[layer], plain[layer]) for layer in layers)
    return network if pairs and same else None


def _run(network: Backbone, images: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
    """With the same random state every time, apart from the generators of the training around us."""
    with global_seed(0):
        return network(images, layers)


class _Rehearsal(TorchDispatchMode):
    """A forward pass, and what becomes of the outputs of its convolutions.

    Args:
        network: is watched while this is entered, once.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._outputs: dict[Conv2d, list[Tensor]] = {}  # keeps them alive, so that their ids stay theirs
        self._inputs: dict[BatchNorm2d, list[Tensor]] = {}
        self._uses: dict[int, int] = {}
        self._looked = False
        self._hooks = []
        for module in network.modules():
            if type(module) is Conv2d:  # a subclass may do anything with its weight
                self._hooks.append(module.register_forward_hook(self._note_output))
            elif isinstance(module, BatchNorm2d):
                self._hooks.append(module.register_forward_pre_hook(self._note_input))

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        """See every operation on tensors, whatever code calls it."""
        kwargs = kwargs or {}
        for value in tree_leaves((args, kwargs)):
            if id(value) in self._uses:
                self._uses[id(value)] += 1
        self._looked |= func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.equal.default)  # noqa: SLF001 - .item()
        return func(*args, **kwargs)

    def __exit__(self, *error: Any) -> None:
        """Stop watching."""
        super().__exit__(*error)
        for hook in self._hooks:
            hook.remove()

    def pairs(self, features: Mapping[str, Tensor]) -> list[tuple[Conv2d, BatchNorm2d]]:
        """Each BatchNorm with the convolution that feeds it, and it alone; none if the code looked at a value, and may branch on it.

        Args:
            features: what the network returned: what left it cannot change.
        """
        if self._looked:
            return []
        given = {id(tensor) for tensor in features.values()}
        sources = {
            id(outputs[0]): convolution
            for convolution, outputs in self._outputs.items()
            if len(outputs) == 1 and self._uses[id(outputs[0])] == 1 and id(outputs[0]) not in given
        }
        return [
            (sources[id(inputs[0])], norm)
            for norm, inputs in self._inputs.items()
            if len(inputs) == 1 and id(inputs[0]) in sources and norm.running_mean is not None
        ]

    def _note_output(self, convolution: Conv2d, _inputs: tuple, output: Tensor) -> None:
        self._outputs.setdefault(convolution, []).append(output)
        self._uses[id(output)] = 0

    def _note_input(self, norm: BatchNorm2d, inputs: tuple[Tensor]) -> None:
        self._inputs.setdefault(norm, []).append(inputs[0])


def _noise(backbone: Backbone) -> Tensor:
    height, width, *_ = backbone.image
    return torch.randint(0, 256, (2, backbone.image.num_chs, height, width), dtype=torch.uint8, generator=Generator().manual_seed(0))


def _absorb(convolution: Conv2d, norm: BatchNorm2d) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    convolution.weight, convolution.bias = fuse_conv_bn_weights(
        convolution.weight, convolution.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )


def _replace(network: nn.Module, replacements: Mapping[nn.Module, nn.Module]) -> None:
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if child in replacements:
                setattr(parent, name, replacements[child])


def _close(found: Tensor, plain: Tensor) -> bool:
    return bool(plain.isfinite().all()) and torch.allclose(found, plain, rtol=0.0, atol=TOLERANCE * float(plain.abs().max()))
