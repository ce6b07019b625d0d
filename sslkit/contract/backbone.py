"""Images in, named feature layers out."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Self, final

import torch
from torch import Tensor, nn

from sslkit.contract.checks import Contract, check_arguments
from sslkit.contract.errors import BackboneError
from sslkit.contract.images import CHANNELS, ImageSpec

LayerKind = Literal["map", "tokens", "vector"]


class FeatureInfo(NamedTuple):
    """A layer whose features can be asked for, in timm's vocabulary.

    Attributes:
        name: unique in its backbone.
        num_chs: channels of a map, width of a token or vector.
        reduction: how many input pixels one feature cell covers along each side (1 for vectors).
        kind: ``map`` (N, num_chs, h, w); ``tokens`` (N, L, num_chs), row-major, without prefix tokens; ``vector`` (N, num_chs).
    """

    name: str
    num_chs: int
    reduction: int
    kind: LayerKind = "map"


class Backbone(nn.Module, Contract):
    """Images in, named feature layers out. Normalisation and colour belong to the backbone: everyone feeds it a dataset's images.

    A concrete backbone takes ``image`` first and its options as annotated keyword-only parameters; those are the options of the
    recipe's ``[backbone]`` table. It calls ``super().__init__(image)`` and sets ``feature_info``. An option ``pretrained: bool`` means
    fetching weights; it is switched off wherever a stage begins with others: random ones, or those of an earlier stage.

    Args:
        image: what the backbone is built for.

    Attributes:
        image: the same.
        feature_info: the layers, shallow to deep.
        arguments: what its constructor was given.
        capabilities: what else it can do; a task's ``requires`` is checked against it. Every kind of layer in ``feature_info``
            and ``masked_encode`` are the names in use.
    """

    feature_info: tuple[FeatureInfo, ...]
    capabilities: frozenset[str] = frozenset({"map"})
    mean: Tensor
    std: Tensor
    arguments: tuple[tuple[Any, ...], dict[str, Any]]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Remember what the constructor is given, so that a stage can write down how to build the network again."""
        check_arguments(cls, **kwargs)
        backbone = super().__new__(cls)
        object.__setattr__(backbone, "arguments", (args, kwargs))  # a module's own attributes wait for its constructor
        return backbone

    def __init__(self, image: ImageSpec) -> None:
        super().__init__()
        if not isinstance(image, ImageSpec):
            raise BackboneError(f"{type(self).__name__} is built for an ImageSpec", found=type(image).__name__, fix="pass data.image()")
        expected = CHANNELS.get(image.color or "", image.num_chs)
        if not (len(image.std) == image.num_chs == expected > 0):
            found = f"{len(image.mean)} means and {len(image.std)} deviations"
            raise BackboneError(f"an ImageSpec of {image.color or 'bands'} has one mean and one std per channel", found=found)
        self.image = image
        shape = (1, image.num_chs, 1, 1)
        self.register_buffer("mean", torch.tensor(image.mean).reshape(shape), persistent=False)
        self.register_buffer("std", torch.tensor(image.std).reshape(shape), persistent=False)
        self._range_checked = False

    @abstractmethod
    def extract(self, x: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """Compute features, stopping at the deepest layer asked for.

        Args:
            x: (N, C, H, W) float, normalised. H and W may differ from ``image`` (tiles, multi-crop).
            layers: names out of ``feature_info``, at least one.

        Returns:
            ``{name: features}`` for exactly these layers, shaped by their kind.
        """

    @final
    def forward(self, images: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """``extract(prepare(images), layers)``.

        Raises:
            BackboneError: a layer does not exist.
        """
        for layer in layers:
            self.layer(layer)
        return self.extract(self.prepare(images), layers)

    @final
    def prepare(self, images: Tensor) -> Tensor:
        """Convert a dataset's images to what ``extract`` takes.

        Args:
            images: (N, C, H, W), uint8 or float in [0, 1]; rgb (C = 3), gray (C = 1), or already in the spec's colour. Where the spec has
                none, as many channels as it has.

        Returns:
            (N, C, H, W) float32 in the spec's colour, normalised with the spec's mean and std.

        Raises:
            BackboneError: they are no tensor of these types, the number of channels does not fit, or float images are outside [0, 1].
                The range is checked until some have passed, and again after ``train()`` and ``eval()``.
        """
        if not isinstance(images, Tensor):
            raise BackboneError("images must be a tensor", found=type(images).__name__)
        if images.is_floating_point():
            self._check_range(images)
            x = images.float()
        elif images.dtype != torch.uint8:
            raise BackboneError("images must be uint8, or floats in [0, 1]", found=str(images.dtype).removeprefix("torch."))
        else:
            x = images.float() / 255.0
        return (_to_color(x, self.image) - self.mean) / self.std

    @final
    def embed(self, images: Tensor, layer: str | None = None) -> Tensor:
        """One vector per image: maps and tokens are averaged over their positions.

        Args:
            images: as in ``prepare``.
            layer: a layer's name; None: the deepest.

        Returns:
            (N, D) float32 features.
        """
        info = self.layer(self.layer_names[-1] if layer is None else layer)
        return pool(self(images, [info.name])[info.name], info.kind)

    def masked_encode(self, images: Tensor, keep: Tensor) -> Tensor:
        """Encode only some patches of each image (capability ``masked_encode``).

        Args:
            images: as in ``prepare``.
            keep: (N, L_keep) int64, row-major positions of the patches to see.

        Returns:
            (N, L_keep, D) tokens, in the order of ``keep``.

        Raises:
            BackboneError: this backbone cannot.
        """
        raise BackboneError(f"{type(self).__name__} has no masked_encode", fix="use a backbone with the capability 'masked_encode'")

    @final
    @property
    def layer_names(self) -> tuple[str, ...]:
        """The names in ``feature_info``, shallow to deep."""
        return tuple(info.name for info in self.feature_info)

    @final
    @property
    def width(self) -> int:
        """How many features ``embed`` gives of an image: the channels of the deepest layer."""
        return self.feature_info[-1].num_chs

    @final
    def layer(self, name: str) -> FeatureInfo:
        """The description of one layer.

        Raises:
            BackboneError: it does not exist.
        """
        for info in self.feature_info:
            if info.name == name:
                return info
        raise BackboneError(f"layer {name!r} does not exist in {type(self).__name__}", allowed=self.layer_names)

    def train(self, mode: bool = True) -> Self:
        """As in :class:`torch.nn.Module`; the range of float images is checked again, because they may come from elsewhere now."""
        self._range_checked = False
        return super().train(mode)

    def _check_range(self, images: Tensor) -> None:
        """Catch 0..255 floats, once: reading a value on every step would stall a GPU. Not under torch.compile, which cannot trace it."""
        if torch.compiler.is_compiling() or self._range_checked or images.is_meta or not images.numel():
            return
        low, high = (float(v) for v in images.detach().aminmax())
        if not (low >= 0.0 and high <= 1.0):  # which NaN is not either
            raise BackboneError(
                "float images must lie in [0, 1]", found=f"{low:.3g} to {high:.3g}", fix="pass uint8, or divide by 255 and do not normalise"
            )
        self._range_checked = True


def pool(features: Tensor, kind: LayerKind) -> Tensor:
    """Average a map or tokens over their positions; a vector passes through. Returns (N, D) float32, also of bfloat16 features."""
    if kind == "vector":
        return features.float()
    return features.mean(dim=(-2, -1) if kind == "map" else 1, dtype=torch.float32)


def _to_color(x: Tensor, image: ImageSpec) -> Tensor:
    """(N, C, H, W) in [0, 1], rgb or gray -> the colour asked for. Images already in it pass through, and so do bands."""
    num_chs, color = x.shape[1], image.color
    if color is None:
        if num_chs != image.num_chs:
            raise BackboneError(f"this backbone is built for {image.meaning}", found=f"{num_chs} channels", allowed=str(image.num_chs))
        return x
    if num_chs not in (1, 3):
        raise BackboneError("images must have 1 or 3 channels", found=num_chs)
    if color == "rgb":
        return x if num_chs == 3 else x.expand(-1, 3, -1, -1)
    if num_chs == 1:
        return x
    # ITU-R BT.601 luma is what PIL's mode L holds.
    return _weighted(x, 0.299, 0.587, 0.114) if color == "gray" else _lightness(x)


def _lightness(rgb: Tensor) -> Tensor:
    """CIE 1976 L* / 100 of sRGB (IEC 61966-2-1) under D65."""
    linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    luminance = _weighted(linear, 0.2126, 0.7152, 0.0722)
    delta = 6 / 29
    root = torch.where(luminance > delta**3, luminance.clamp_min(delta**3) ** (1 / 3), luminance / (3 * delta**2) + 4 / 29)
    return 1.16 * root - 0.16


def _weighted(rgb: Tensor, red: float, green: float, blue: float) -> Tensor:
    """The channels' sum, (N, 1, H, W). The weights are numbers, as a GPU would wait for a tensor of them that comes from memory."""
    return red * rgb[:, :1] + green * rgb[:, 1:2] + blue * rgb[:, 2:]
