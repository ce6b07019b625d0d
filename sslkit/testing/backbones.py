"""The promises of a backbone."""

import inspect
import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from sslkit.contract.backbone import Backbone, FeatureInfo, LayerKind
from sslkit.contract.errors import BackboneError
from sslkit.contract.images import ImageSpec
from sslkit.testing.promises import SEEDED, BrokenPromiseError, check_same, load_state, promises_of, require, state_of
from sslkit.testing.specimens import IMAGE, Build, build_seeded, random_images
from sslkit.training.features import evaluating
from sslkit.training.seeds import global_seed


def check_backbone(build: Build, *, image: ImageSpec | None = None) -> None:
    """Check a backbone.

    Its constructor, ``feature_info``, construction on the meta device, whether the seed decides its weights, what ``extract`` returns and
    where it stops, eval mode, other image sizes, whether its state dict holds all of it, and ``masked_encode``.

    Args:
        build: the class, or a function that sets its options.
        image: what to build it for; None: ``IMAGE``.

    Raises:
        AssertionError: names the broken promise.
        SslkitError: what the backbone itself refuses.
    """
    image = IMAGE if image is None else image
    backbone = build_seeded(build, image)
    images = random_images(image, 2)
    with promises_of(backbone):
        _check_constructor(type(backbone))
        require(backbone.image == image, "image must be what it is built for: call super().__init__(image)")
        _check_feature_info(backbone)
        _check_meta(build, backbone)
        check_same(state_of(build_seeded(build, image)), state_of(backbone), SEEDED)
        _check_features(backbone, images)
        _check_other_size(backbone)
        for layer in backbone.layer_names:
            _check_stops(backbone, images, layer)
        _check_state_dict(backbone, build_seeded(build, image, seed=1), images)
        _check_masked_encode(backbone, images)


def _check_constructor(cls: type[Backbone]) -> None:
    image, *options = list(inspect.signature(cls.__init__).parameters.values())[1:]
    require(image.name == "image" and image.kind is image.POSITIONAL_OR_KEYWORD, "the constructor must take image first")
    for option in options:
        require(option.kind is option.KEYWORD_ONLY, f"the option {option.name} must be keyword-only: put * before it in the constructor")
        require(option.annotation is not option.empty, f"the option {option.name} must have an annotation in the constructor")


def _check_feature_info(backbone: Backbone) -> None:
    layers, names = backbone.feature_info, backbone.layer_names
    require(isinstance(layers, tuple) and layers, "feature_info must be a tuple of one FeatureInfo or more")
    require(all(isinstance(layer, FeatureInfo) for layer in layers), "feature_info must be a tuple of FeatureInfo")
    require(len(set(names)) == len(names), f"feature_info must give each layer a name of its own, and has {', '.join(names)}")
    require(backbone.width == layers[-1].num_chs, "width must be the deepest layer's num_chs: call what it means otherwise something else")
    for layer in layers:
        kinds = get_args(LayerKind)
        require(layer.kind in kinds, f"layer {layer.name!r} is of the kind {layer.kind!r}, not one of {', '.join(kinds)}")
        require(layer.kind in backbone.capabilities, f"layer {layer.name!r} is of the kind {layer.kind!r}: capabilities must hold it")


def _check_meta(build: Build, backbone: Backbone) -> None:
    try:
        with torch.device("meta"):
            outline = build(backbone.image)
    except (RuntimeError, NotImplementedError) as error:
        raise BrokenPromiseError(f"must be built on the meta device, without reading a tensor's values ({error})") from error
    real = [name for name, tensor in outline.state_dict().items() if not tensor.is_meta]
    require(not real, f"on the meta device no tensor may hold data, and {', '.join(real)} does")
    require(outline.feature_info == backbone.feature_info, "feature_info must be the same on the meta device")


def _check_features(backbone: Backbone, images: Tensor) -> None:
    """Layer by layer, and all at once."""
    names = backbone.layer_names
    before = state_of(backbone)
    with _measuring(backbone):
        together = backbone(images, names[::-1])
        _check_returned(together, names)
        for info in backbone.feature_info:
            alone = backbone(images, [info.name])
            _check_returned(alone, (info.name,))
            _check_shape(info, alone[info.name], images)
            require(alone[info.name].isfinite().all(), f"the features of layer {info.name!r} must be finite")
            with global_seed(1):
                again = backbone(images, [info.name])[info.name]
            require(torch.equal(again, alone[info.name]), f"eval mode must be deterministic: two passes differ at {info.name!r}")
            same = torch.allclose(together[info.name], again, rtol=1e-4, atol=1e-5)
            require(same, f"layer {info.name!r} must not depend on what else is asked for: does a later layer write into it?")
            first = backbone(images[:1], [info.name])[info.name]
            same = torch.allclose(first, again[:1], rtol=1e-4, atol=1e-5)
            require(
                same, f"in eval mode the features of an image must not depend on the rest of the batch: those of layer {info.name!r} do"
            )
    check_same(state_of(backbone), before, "extract must not change buffers in eval mode")


def _check_returned(features: dict[str, Tensor], asked: tuple[str, ...]) -> None:
    require(set(features) == set(asked), f"extract must return exactly the layers asked for, {asked}, and returned {tuple(features)}")


def _check_shape(info: FeatureInfo, features: Tensor, images: Tensor) -> None:
    size, found = images.shape[-2:], tuple(features.shape)
    what = f"layer {info.name!r} has num_chs {info.num_chs}, reduction {info.reduction} and the kind {info.kind!r}"
    if info.kind == "map":
        # Convolutions without padding lose some positions; half or twice as many are what a wrong reduction gives.
        sides = [side / max(cells, 1) for side, cells in zip(size, found[2:], strict=False)]
        good = len(sides) == 2 and all(info.reduction / 2 < side < info.reduction * 2 for side in sides)
        require(good and found[:2] == (len(images), info.num_chs), f"{what}, but images of {tuple(size)} give the shape {found}")
    else:
        length = [math.prod(side // info.reduction for side in size)] if info.kind == "tokens" else []
        expected = (len(images), *length, info.num_chs)
        require(found == expected, f"{what}, but images of {tuple(size)} give the shape {found} instead of {expected}")


def _check_other_size(backbone: Backbone) -> None:
    """Images of twice the size give features in proportion, or are refused in so many words."""
    image = backbone.image
    images = random_images(image._replace(height=2 * image.height, width=2 * image.width), 2)
    with _measuring(backbone), suppress(BackboneError):
        for name, features in backbone(images, backbone.layer_names).items():
            _check_shape(backbone.layer(name), features, images)


def _check_stops(backbone: Backbone, images: Tensor, layer: str) -> None:
    """A module that runs, and has parameters, and gets no gradient from a layer, lies beyond it."""
    ran: set[nn.Module] = set()
    backbone.zero_grad(set_to_none=True)
    with evaluating(backbone), register_module_forward_hook(lambda module, *_: ran.add(module)):
        features = backbone(images, [layer])[layer]
    if features.requires_grad:
        features.sum().backward()
        beyond = [name for name, module in backbone.named_modules() if module in ran and _is_untouched(module)]
        require(not beyond, f"extract must stop at the deepest layer asked for: for {layer!r} it also ran {', '.join(beyond)}")


@contextmanager
def _measuring(*backbones: Backbone) -> Iterator[None]:
    """Eval mode without gradients."""
    with torch.no_grad(), evaluating(nn.ModuleList(backbones)):
        yield


def _is_untouched(module: nn.Module) -> bool:
    own = [parameter for parameter in module.parameters(recurse=False) if parameter.requires_grad]
    return bool(own) and all(parameter.grad is None for parameter in own)


def _check_state_dict(backbone: Backbone, other: Backbone, images: Tensor) -> None:
    promise = "the state dict must hold all of the backbone"
    load_state(other, backbone.state_dict(), promise)
    with _measuring(backbone, other):
        for layer in backbone.layer_names:
            same = torch.equal(backbone(images, [layer])[layer], other(images, [layer])[layer])
            require(same, f"{promise}: another one with the same state gives other features at {layer!r}")


def _check_masked_encode(backbone: Backbone, images: Tensor) -> None:
    if "masked_encode" not in backbone.capabilities:
        return
    widths = {info.num_chs for info in backbone.feature_info if info.kind == "tokens"}
    keep = torch.tensor([[2, 0], [1, 3]])
    with _measuring(backbone):
        found = tuple(backbone.masked_encode(images, keep).shape)
    require(found[:2] == keep.shape and found[2] in widths, f"masked_encode must return (N, L_keep, D) tokens, and returned {found}")
