"""Every network of timm as a backbone (https://github.com/huggingface/pytorch-image-models). The only file that knows timm."""

import difflib
import importlib
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from sslkit.backbones.hub_weights import fetch, hub_file
from sslkit.contract.backbone import Backbone, FeatureInfo, LayerKind
from sslkit.contract.errors import BackboneError, OptionError
from sslkit.contract.images import ImageSpec

NORM = "norm"
PRE_LOGITS = "pre_logits"


class TimmBackbone(Backbone):
    """A network of timm, by its name there, without its classifier.

    Layers are those of timm's ``feature_info``, by the names of their modules with ``_`` for ``.``:

    - Convolutional and hierarchical networks have maps: ``act1``, ``layer1`` .. ``layer4`` of a ResNet, ``stages_0`` .. ``stages_3``
      of a ConvNeXt. What timm computes after the last of them (a final norm, a widening 1x1 convolution) is left out.
    - Transformers of one resolution have tokens: ``blocks_0`` .. ``blocks_11``, then ``norm``, the tokens after the final norm. Their
      deepest layer is ``pre_logits``, the vector that timm would classify: the class token, or all tokens pooled.

    Images of other sizes than ``image`` are taken where the architecture can: by a ResNet always, by a ViT in multiples of its patch
    (its position embedding is interpolated).

    Args:
        image: what the network is built for.
        model: a name out of ``timm.list_models()``, with or without the tag of its weights (``resnet18.a1_in1k``); never a repository or
            a folder.
        pretrained: start from timm's weights, downloaded when first used; safetensors alone, as nothing is unpickled. On the meta device
            nothing is fetched.
        cifar_stem: for small images, give a ResNet a 3x3 first convolution of stride 1 and no max-pooling, as SimCLR does on CIFAR-10
            (Chen et al. 2020, arXiv:2002.05709, appendix B.9). ``act1`` is then as large as the image, ``layer1`` too.
        patch_size: the side of a ViT's patches, in pixels; None: the model's. timm resamples pretrained ones.
        in_chans: channels of the images; not needed, as the data says, and compared with it. For other numbers than 3, timm adapts the
            first layer of pretrained weights: summed over the colours for 1, repeated and scaled for more.
        drop_path_rate: stochastic depth of the deepest block (Huang et al. 2016, arXiv:1603.09382); None: timm's default, usually 0.

    Raises:
        OptionError: timm has no such model, stem or weights, the model lacks an option, or it cannot take images of this size and colour.
        BackboneError: the pretrained weights cannot be fetched.
    """

    network: Any  # timm's networks share no type

    def __init__(
        self,
        image: ImageSpec,
        *,
        model: str,
        pretrained: bool = False,
        cifar_stem: bool = False,
        patch_size: int | None = None,
        in_chans: int | None = None,
        drop_path_rate: float | None = None,
    ) -> None:
        super().__init__(image)
        if in_chans not in (None, image.num_chs):
            raise OptionError("in_chans", "the images have another number of channels", found=in_chans, allowed=str(image.num_chs))
        if patch_size is not None and patch_size < 1:
            raise OptionError("patch_size", "must be positive", found=patch_size, allowed="1 pixel or more")
        if drop_path_rate is not None and not 0 <= drop_path_rate < 1:
            raise OptionError("drop_path_rate", "must be a probability", found=drop_path_rate, allowed="0 <= drop_path_rate < 1")
        own = {"patch_size": patch_size, "drop_path_rate": drop_path_rate}
        own = {option: value for option, value in own.items() if value is not None}
        with _quiet():
            config = _config(model)
            if pretrained:
                _check_pretrained(model, config, cifar_stem)
            # A dry run on the meta device finds the layers and refuses what cannot work, before any weight is drawn or fetched.
            outline, options = _outline(model, config, image, cifar_stem, own)
            self.feature_info = _layers(outline, model, image)
            self.network = outline if self.mean.is_meta else _create(model, options, cifar_stem, config if pretrained else None)
        if self.feature_info[-1].kind != "vector":
            # Or DDP waits for gradients of unused weights. Before 1.0.31, timm leaves the norm of some heads, a ConvNeXt's for one.
            self.network.prune_intermediate_layers(1, prune_norm=True, prune_head=True)
        self.network.train()
        self.capabilities = frozenset(info.kind for info in self.feature_info)
        if type(self.network) is _timm().models.VisionTransformer:
            self.capabilities |= {"masked_encode"}
        self._resample = _timm().layers.resample_abs_pos_embed  # found here, as torch.compile cannot trace an import
        self._blocks = tuple(name for name in self.layer_names if name not in (NORM, PRE_LOGITS))
        self._step = self.feature_info[0].reduction if "dynamic_img_size" in options else 0 if config.fixed_input_size else 1

    def extract(self, x: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """Run timm's blocks up to the deepest layer asked for; a ``BackboneError`` where it cannot take images of this size."""
        self._check_size(x)
        whole = any(layer not in self._blocks for layer in layers)
        names = [name for name in self._blocks if name in layers or (whole and name == self._blocks[-1])]
        indices = [self._blocks.index(name) - len(self._blocks) for name in names]  # from the end, as some versions count a stem first
        layout = "NCHW" if self.feature_info[0].kind == "map" else "NLC"
        out = self.network.forward_intermediates(x, indices=indices, stop_early=not whole, output_fmt=layout, intermediates_only=not whole)
        final, features = out if whole else (None, out)
        found = dict(zip(names, features, strict=True))
        if final is not None:
            found[NORM] = final[:, final.shape[1] - features[-1].shape[1] :]  # prefix tokens come first
        if PRE_LOGITS in layers:
            found[PRE_LOGITS] = self.network.forward_head(final, pre_logits=True)
        return {layer: found[layer] for layer in layers}

    def masked_encode(self, images: Tensor, keep: Tensor) -> Tensor:
        """Encode only some patches of each image, as the encoder of a masked autoencoder does (He et al. 2022, arXiv:2111.06377).

        With all patches kept in order, this is the layer ``norm``.
        """
        if "masked_encode" not in self.capabilities:
            return super().masked_encode(images, keep)
        network = self.network
        x = self.prepare(images)
        self._check_size(x)
        tokens = _embed_patches(network, x, self._resample)  # (N, P + L, D), P prefix tokens
        prefix = torch.arange(network.num_prefix_tokens, device=keep.device).expand(len(keep), -1)
        kept = torch.cat([prefix, keep + network.num_prefix_tokens], dim=1)
        tokens = tokens.gather(1, kept[:, :, None].expand(-1, -1, tokens.shape[2]))
        return network.norm(network.blocks(network.norm_pre(tokens)))[:, network.num_prefix_tokens :]

    def _check_size(self, x: Tensor) -> None:
        size = tuple(x.shape[-2:])
        if size == (self.image.height, self.image.width) or (self._step and not any(side % self._step for side in size)):
            return
        allowed = f"multiples of {self._step}" if self._step else f"{self.image.height} x {self.image.width}, which it was built for"
        raise BackboneError(f"this {type(self.network).__name__} cannot take these images", found=f"{size[0]} x {size[1]}", allowed=allowed)


# -------------------------------------------------------------------------------------------------------------- building


def _timm() -> Any:
    """Timm, imported late: it takes seconds, and this module is loaded at every start, for the list of backbones."""
    return importlib.import_module("timm")


def _config(model: str) -> Any:
    """What timm knows of a model before building it."""
    timm = _timm()
    try:
        config = timm.get_pretrained_cfg(model) if timm.is_model(model) else None
    except RuntimeError:  # a good name with an unknown tag
        config = None
    if config is None:
        near = difflib.get_close_matches(model, timm.list_pretrained() if "." in model else timm.list_models())
        fix = f"did you mean {' or '.join(map(repr, near))}?" if near else "timm.list_models() lists all names"
        raise OptionError("model", f"timm {timm.__version__} has no such model", found=model, fix=fix)
    return config


def _check_pretrained(model: str, config: Any, cifar_stem: bool) -> None:
    if not config.has_weights:
        raise OptionError("pretrained", f"timm has no weights for {model}", fix="set pretrained = false")
    if not hub_file(config):
        problem = f"timm's weights for {model} would have to be unpickled, which may run code"
        fix = "choose another, or set pretrained = false"
        raise OptionError("pretrained", problem, allowed="models with weights in safetensors", fix=fix)
    if cifar_stem:
        raise OptionError("cifar_stem", "pretrained weights do not fit this stem", fix="set pretrained = false or cifar_stem = false")


def _outline(model: str, config: Any, image: ImageSpec, cifar_stem: bool, own: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Build the network on the meta device, and find out which options it takes for its size, besides the user's ``own``."""
    common = {"num_classes": 0, "in_chans": image.num_chs, **own}
    sized = {**common, "img_size": (image.height, image.width)}
    candidates = [{**sized, "dynamic_img_size": True}, sized, common] if config.fixed_input_size else [common]
    while True:
        options = candidates.pop(0)
        try:
            try:
                with torch.device("meta"):
                    return _create(model, options, cifar_stem), options
            except (NotImplementedError, RuntimeError):  # some versions of timm read numbers from tensors while they build
                with torch.device("cpu"), torch.random.fork_rng(devices=()):
                    return _create(model, options, cifar_stem).to("meta"), options
        except OptionError:
            raise
        except Exception as error:  # whatever an architecture raises where it cannot be built for this image
            for option, value in own.items():
                if "keyword argument" in str(error) and f"'{option}'" in str(error):  # it is unexpected, or the model sets it itself
                    raise OptionError(option, f"{model} takes no such option", found=value, fix="leave it out") from error
            if not candidates or "unexpected keyword argument" not in str(error):
                raise _refusal(model, image, error) from error


def _create(model: str, options: dict[str, Any], cifar_stem: bool, weights: Any = None) -> Any:
    """Build the network with random weights, or with those that timm's configuration names."""
    network = _timm().create_model(model, **options) if weights is None else _load(model, options, weights)
    if cifar_stem:
        _replace_stem(network, model)
    return network


def _load(model: str, options: dict[str, Any], weights: Any) -> Any:
    try:
        # Given a file, timm looks for no other: by default it would unpickle what it finds where there are no safetensors, in some
        # versions without any limits.
        file = {"file": fetch(weights), "custom_load": False}
        return _timm().create_model(model, pretrained=True, pretrained_cfg_overlay=file, **options)
    except Exception as error:  # whatever the network, the hub, the disk or a parser raises
        raise BackboneError(
            f"the pretrained weights of timm's {model} could not be fetched ({_reason(error)})",
            fix="set pretrained = false, or put the weights into the cache of the Hugging Face hub (HF_HUB_CACHE)",
        ) from error


def _replace_stem(network: Any, model: str) -> None:
    """7x7 convolution of stride 2 and max-pooling -> 3x3 convolution of stride 1."""
    stem = (getattr(network, "conv1", None), getattr(network, "maxpool", None))
    if type(network) is not _timm().models.ResNet or tuple(map(type, stem)) != (nn.Conv2d, nn.MaxPool2d):
        problem = f"{model} has no 7x7 convolution and max-pooling to replace"
        raise OptionError("cifar_stem", problem, allowed="plain ResNets, such as resnet18", fix="set cifar_stem = false")
    old = network.conv1
    network.conv1 = nn.Conv2d(old.in_channels, old.out_channels, kernel_size=3, padding=1, bias=False)
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")  # as in timm's ResNets
    network.maxpool = nn.Identity()
    for entry in network.feature_info:
        entry["reduction"] //= 2 if entry["module"] == "act1" else 4


# ---------------------------------------------------------------------------------------------------------------- layers


def _layers(outline: Any, model: str, image: ImageSpec) -> tuple[FeatureInfo, ...]:
    """Run the network dry on the meta device and describe what comes out."""
    if getattr(outline, "forward_intermediates", None) is None:
        version = _timm().__version__
        raise OptionError("model", f"timm {version} cannot extract features from {model}", fix="upgrade timm, or choose another model")
    x = torch.zeros(2, image.num_chs, image.height, image.width, device="meta")
    try:
        with torch.no_grad():
            return _describe(outline.eval(), x)
    except Exception as error:  # assertions, RuntimeError, ValueError: each architecture has its own
        raise _refusal(model, image, error) from error


def _describe(outline: Any, x: Tensor) -> tuple[FeatureInfo, ...]:
    final: Any = None
    features: list[Tensor] = []
    with suppress(AssertionError):  # how timm's networks refuse a layout
        final, features = outline.forward_intermediates(x, output_fmt="NLC")  # the final tokens, prefix first, and those of each block
    kind: LayerKind = "tokens" if len({feature.shape[1] for feature in features}) == 1 else "map"  # or tokens of several resolutions
    if kind == "map":
        final, features = None, outline.forward_intermediates(x, stop_early=True, output_fmt="NCHW", intermediates_only=True)
    if not all(feature.numel() for feature in features):
        raise ValueError("nothing is left of them at its deepest layer")
    layers = [
        FeatureInfo(entry["module"].replace(".", "_"), feature.shape[1 if kind == "map" else 2], entry["reduction"], kind)
        for entry, feature in zip(outline.feature_info, features[-len(outline.feature_info) :], strict=True)
    ]
    if len({info.name for info in layers}) < len(layers):
        raise ValueError("timm gives two of its layers one name")
    if isinstance(final, Tensor) and final.ndim == 3:  # some keep a grid
        layers.append(FeatureInfo(NORM, final.shape[2], layers[-1].reduction, "tokens"))
        layers.append(FeatureInfo(PRE_LOGITS, outline.forward_head(final, pre_logits=True).shape[1], 1, "vector"))
    return tuple(layers)


def _embed_patches(network: Any, x: Tensor, resample: Callable[..., Tensor]) -> Tensor:
    """The input of a VisionTransformer's first block: (N, C, H, W) -> (N, P + L, D), P prefix tokens first, with positions."""
    patches = network.patch_embed(x)  # (N, h, w, D), as networks with dynamic_img_size have it
    grid, tokens = tuple(patches.shape[1:3]), patches.flatten(1, 2)
    prefix = [token.expand(len(x), -1, -1) for token in (network.cls_token, network.reg_token) if token is not None]
    positions = network.pos_embed
    if positions is None:
        return torch.cat([*prefix, tokens], dim=1)
    if grid != tuple(network.patch_embed.grid_size):
        num_prefix = 0 if network.no_embed_class else network.num_prefix_tokens
        positions = resample(positions, list(grid), list(network.patch_embed.grid_size), num_prefix)
    if network.no_embed_class:  # only patches have positions
        return network.pos_drop(torch.cat([*prefix, tokens + positions], dim=1))
    return network.pos_drop(torch.cat([*prefix, tokens], dim=1) + positions)


# ---------------------------------------------------------------------------------------------------------------- errors


def _refusal(model: str, image: ImageSpec, error: Exception) -> OptionError:
    size = f"{image.height} x {image.width} pixels and {image.num_chs} channel{'s' * (image.num_chs > 1)}"
    fix = "choose another model, or another size of the images"
    return OptionError("model", f"{model} cannot take images of {size} ({_reason(error)})", fix=fix)


def _reason(error: Exception) -> str:
    """The message of a library's error, in one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 160 else f"{text[:157]}..."


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep timm and the hub from warning on the console: what matters becomes one of our own errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _timm()  # imported now because this configures its loggers
        levels = {logger: logger.level for logger in map(logging.getLogger, ("timm", "huggingface_hub"))}
        for logger in levels:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for logger, level in levels.items():
                logger.setLevel(level)
