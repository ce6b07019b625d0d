"""The contract: everything that a plugin author must know, and nothing else.

A method is a :class:`PretextTask` (its options) that builds an :class:`Objective` (its trainable module). The one training loop
draws a :class:`Batch`, asks the objective for views, calls ``forward`` for the loss, and steps. It never names a method: what a
method does differently, it does by overriding a method of ``Objective``. Everything not marked abstract has a default.

Shapes: N images in a batch, C channels, H rows, W columns, D features, L tokens, K classes of a pretext task.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, Self, final

import torch
from torch import Generator, Tensor, nn

from sslkit.contract.annotations import Checked, check_options
from sslkit.contract.errors import BackboneError, OptionError
from sslkit.contract.events import Emit, Observer, tell_nobody
from sslkit.contract.misspelling import Contract

__all__ = [
    "Augment",
    "Backbone",
    "Batch",
    "DataInfo",
    "Dataset",
    "Evaluation",
    "Evaluator",
    "FeatureInfo",
    "ImageSet",
    "ImageSpec",
    "LabeledData",
    "Mean",
    "Objective",
    "Observer",
    "OptimizerFactory",
    "Prediction",
    "PretextTask",
    "RunContext",
    "Schedule",
    "Split",
    "StepOutput",
    "TrainContext",
]

Color = Literal["rgb", "gray", "lightness"]
Split = Literal["pretrain", "train", "test"]
LayerKind = Literal["map", "tokens", "vector"]


# ---------------------------------------------------------------------------------------------------------------- images


class ImageSpec(NamedTuple):
    """What a backbone is built for, or what a data set holds.

    Attributes:
        height: rows, in pixels.
        width: columns, in pixels.
        color: ``rgb`` (3 channels), ``gray`` or ``lightness`` (CIE L* / 100; 1 channel each).
        mean: per channel, of values in [0, 1].
        std: per channel, of values in [0, 1].
    """

    height: int
    width: int
    color: Color
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def num_chs(self) -> int:
        """Channels of an image of this colour."""
        return 3 if self.color == "rgb" else 1


class DataInfo(NamedTuple):
    """What a pretext task may know of the data before any pixel is read."""

    image: ImageSpec
    num_images: int | None
    """How many images there are; None for a stream of unknown length."""


class Batch(NamedTuple):
    """Images as the loader hands them over: on the compute device, augmented once, without labels.

    Attributes:
        images: (N, C, H, W) uint8.
        indices: (N,) int64, each image's stable position in its data set.
    """

    images: Tensor
    indices: Tensor


class ImageSet(Contract):
    """One split of a data set: an indexable collection of images of one size, with labels or without.

    Attributes:
        image: size, colour and statistics.
        labels: (len(self),) int64 on the CPU, or None.
        classes: the class names, in the order of the labels; empty without labels.
        fingerprint: changes when the images or labels do; goes into a stage's fingerprint.
        skipped: files left out because they could not be decoded.
        notes: what else a user should know of how these images were found, a sentence each.
        pixels: (len(self), C, H, W) uint8 on the CPU where all images are in memory, else None.
    """

    image: ImageSpec
    labels: Tensor | None = None
    classes: tuple[str, ...] = ()
    fingerprint: str
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    pixels: Tensor | None = None

    @abstractmethod
    def __len__(self) -> int:
        """The number of images."""

    @abstractmethod
    def read(self, indices: Sequence[int]) -> Tensor:
        """Decode images. Called in loader workers for large data.

        Returns:
            (len(indices), C, H, W) uint8 on the CPU.

        Raises:
            DataError: a file cannot be decoded; the message names it.
        """


class LabeledData(NamedTuple):
    """What an evaluator measures with: both sets have labels of the same classes, unless the evaluator needs none."""

    train: ImageSet
    test: ImageSet

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.train.classes)


class Dataset(Checked, Contract):
    """Where images come from. Concrete data sets are final frozen dataclasses; their fields are the options of ``[data]``."""

    @abstractmethod
    def image(self) -> ImageSpec:
        """What the images will be, without reading a pixel."""

    @abstractmethod
    def load(self, split: Split) -> ImageSet | None:
        """Open one split; decoding may wait until the images are read.

        Args:
            split: ``pretrain`` (labels are ignored), ``train`` or ``test``.

        Returns:
            The images, or None if there is no such split (``test`` of a folder without labels).

        Raises:
            DataError: the data is not there and cannot be fetched; the message says which files to put where.
        """

    def why_unlabeled(self, split: Split) -> str:
        """Why ``load`` gives no images, or none with labels, for a split that an evaluation needs; empty where there is nothing to add."""
        return ""

    def available(self) -> bool:
        """Whether ``load`` needs no download. ``sslkit check`` never downloads."""
        return True


MAX_CROP_PADDING = 1024
"""A whole batch is padded at once."""


@final
@dataclass(frozen=True, kw_only=True)
class Augment(Checked):
    """The basic augmentation, done once per image before ``make_views``, on whole uint8 batches.

    Attributes:
        crop_padding: pixels of zero padding on each side before a random crop back to the image's size; 0: no crop.
        horizontal_flip: mirror each image with probability 0.5.
    """

    crop_padding: int = 0
    horizontal_flip: bool = False

    def __post_init__(self) -> None:
        if self.crop_padding < 0:
            raise OptionError("crop_padding", "must not be negative", found=self.crop_padding, allowed="0 or more pixels")
        if self.crop_padding > MAX_CROP_PADDING:
            raise OptionError("crop_padding", "is too large", found=self.crop_padding, allowed=f"at most {MAX_CROP_PADDING:,} pixels")


# ------------------------------------------------------------------------------------------------------------- backbones


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
    """Images in, named feature layers out. Normalisation and colour belong to the backbone: everyone feeds it data-set images.

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
        check_options(cls, kwargs)
        backbone = super().__new__(cls)
        object.__setattr__(backbone, "arguments", (args, kwargs))  # a module's own attributes wait for its constructor
        return backbone

    def __init__(self, image: ImageSpec) -> None:
        super().__init__()
        if not isinstance(image, ImageSpec):
            raise BackboneError(f"{type(self).__name__} is built for an ImageSpec", found=type(image).__name__, fix="pass data.image()")
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
        names = self.layer_names
        for layer in layers:
            if layer not in names:
                raise BackboneError(f"layer {layer!r} does not exist in {type(self).__name__}", allowed=names)
        return self.extract(self.prepare(images), layers)

    @final
    def prepare(self, images: Tensor) -> Tensor:
        """Convert data-set images to what ``extract`` takes.

        Args:
            images: (N, C, H, W), uint8 or float in [0, 1]; rgb (C = 3), gray (C = 1), or already in the spec's colour.

        Returns:
            (N, C, H, W) float32 in the spec's colour, normalised with the spec's mean and std.

        Raises:
            BackboneError: they are no tensor of these types, the number of channels fits no colour, or float images lie outside [0, 1]. Only until some have passed, and anew
                after ``train()`` and ``eval()``.
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
        return (_to_color(x, self.image.color) - self.mean) / self.std

    @final
    def embed(self, images: Tensor, layer: str | None = None) -> Tensor:
        """One vector an image: maps and tokens are averaged over their positions.

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
        """See :class:`torch.nn.Module`. What comes in the new mode may come from somebody else: the range of float images is checked anew."""
        self._range_checked = False
        return super().train(mode)

    def _check_range(self, images: Tensor) -> None:
        """Catch 0..255 floats once they come: reading a value on every step would stall a GPU. Not under torch.compile, which cannot trace it."""
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


def _to_color(x: Tensor, color: Color) -> Tensor:
    """(N, C, H, W) in [0, 1], rgb or gray -> the colour asked for. Images already in it pass through."""
    num_chs = x.shape[1]
    if num_chs not in (1, 3):
        raise BackboneError("images must have 1 or 3 channels", found=num_chs)
    if color == "rgb":
        return x if num_chs == 3 else x.expand(-1, 3, -1, -1)
    if num_chs == 1:
        return x
    return _luma(x) if color == "gray" else _lightness(x)


def _luma(rgb: Tensor) -> Tensor:
    """ITU-R BT.601 luma, which is what PIL's mode L holds."""
    return _weighted(rgb, 0.299, 0.587, 0.114)


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


# --------------------------------------------------------------------------------------------------------- pretext tasks


class Mean(NamedTuple):
    """An exact mean over batches and processes: both parts are summed, then divided.

    Attributes:
        total: 0-dim tensor, the sum of the values.
        num: how many there were: a number where it is known without reading a tensor, else a 0-dim tensor.
    """

    total: Tensor
    num: Tensor | float

    @classmethod
    def of(cls, values: Tensor) -> "Mean":
        """The mean of all elements of ``values`` (any shape), detached."""
        values = values.detach().float()
        return cls(values.sum(), values.numel())


class Prediction(NamedTuple):
    """What a classifier said and what would have been right. Gathered on held-out images, for confusion matrices and audits.

    Attributes:
        logits: (M, K), detached.
        targets: (M,) int64, the right class of each.
    """

    logits: Tensor
    targets: Tensor


class StepOutput(NamedTuple):
    """What one forward pass of an objective returns.

    Attributes:
        loss: scalar, to be minimised.
        metrics: detached, left on the device. The name is what a log shows; accuracies are in percent and end in ``top1``.
        predictions: of every classifier in it, by name; empty for a method that predicts no classes.
    """

    loss: Tensor
    metrics: dict[str, Mean]
    predictions: Mapping[str, Prediction] = {}


class TrainContext(Protocol):
    """What an objective's hooks may know and use of the loop around them.

    Attributes:
        epoch: epochs completed.
        step: optimiser steps completed.
    """

    epoch: int
    step: int

    @property
    def progress(self) -> float:
        """The completed part of all steps, in [0, 1]."""
        ...

    @property
    def schedule(self) -> Mapping[str, float]:
        """The current values of ``Objective.schedules``, as floats: in a hook, reading a tensor would stall the GPU."""
        ...

    def generator(self, purpose: str) -> Generator:
        """A generator on the CPU of this stage's own, seeded from (seed, stage, purpose); its state is part of checkpoints."""
        ...

    def embed(self, layer: str) -> Tensor:
        """Pooled features of every training image, not augmented: (num_images, D) float32 on the CPU, in index order."""
        ...

    def reset_optimizer_state(self, module: nn.Module) -> None:
        """Forget momentum and the like of a module's parameters (a head that was re-initialised)."""
        ...


class Objective(nn.Module, Contract):
    """The trainable module of a method: views in, loss out. ``forward`` is what is compiled and what runs in parallel.

    All state that training changes must be in parameters or persistent buffers: those are what a checkpoint holds. ``forward``
    must run in eval mode too, and may update its own buffers only while training and only in float32.

    Args:
        backbone: the network to pretrain.

    Attributes:
        phases: one optimiser each, stepped in this order on every batch; a GAN has ``("discriminator", "generator")``.
        heldout_phase: the phase whose loss and metrics mean something on held-out images; None: there is none.
        frozen: names of submodules that training never changes. They stay in eval mode, so that their BatchNorm statistics stay
            put, and checkpoints leave them out.
        classes: names of the classes that the method predicts, in the order of their targets; empty where it predicts none.
    """

    phases: tuple[str, ...] = ("main",)
    heldout_phase: str | None = None
    frozen: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    @abstractmethod
    def make_views(self, batch: Batch, generator: Generator, *, train: bool) -> dict[str, Tensor]:
        """Make what ``forward`` takes, for the whole batch at once, on the batch's device. Runs without gradients.

        Args:
            batch: N images, uint8, already cropped and flipped as the recipe's ``augment`` says.
            generator: the source of all randomness, on the batch's device. Held-out images get the same draws every time.
            train: False on held-out images.

        Returns:
            Named tensors. Images stay uint8 or become floats in [0, 1]; the backbone normalises.
        """

    @abstractmethod
    def forward(self, views: dict[str, Tensor], phase: str, schedule: Mapping[str, Tensor]) -> StepOutput:
        """Compute the loss of one phase.

        Args:
            views: what ``make_views`` returned.
            phase: one of ``phases``.
            schedule: the current values of ``schedules`` as 0-dim tensors.
        """

    def captions(self, views: Mapping[str, Tensor]) -> Mapping[str, Sequence[str]]:
        """What to write under each image of the views in a picture of them, by view: for example the class that is to be predicted.

        Args:
            views: what ``make_views`` returned.

        Returns:
            ``{view: one caption an image}``; a view that is left out is shown under its name alone.
        """
        return {}

    @final
    def train(self, mode: bool = True) -> Self:
        """Training mode for everything but the ``frozen`` parts."""
        super().train(mode)
        for name in self.frozen:
            self.get_submodule(name).eval()
        return self

    def parameter_groups(self) -> dict[str, list[dict]]:
        """Which parameters each phase trains: ``{phase: [{"params": [...], "lr_scale": 1.0, "weight_decay": 0.0}, ...]}``.

        ``lr_scale`` and ``weight_decay`` are optional. By default the single phase trains everything that requires a gradient and is
        not ``frozen``. Every parameter that requires one must be trained by exactly one phase. The optimiser's own options may stand in a
        group, too.
        """
        first, *others = self.phases
        if others:
            raise NotImplementedError(f"{type(self).__name__} has phases {self.phases}: override parameter_groups")
        frozen = {id(p) for name in self.frozen for p in self.get_submodule(name).parameters()}
        return {first: [{"params": [p for p in self.parameters() if p.requires_grad and id(p) not in frozen]}]}

    def schedules(self) -> dict[str, Callable[[float], float]]:
        """Values that change with progress in [0, 1], by name: an EMA momentum, a temperature."""
        return {}

    def epoch_indices(self, context: TrainContext) -> Tensor | None:
        """The method's own sampling: (M,) int64 indices that make up the coming epoch, in any order; None: every image once.

        The loop shuffles them. Called after ``on_epoch_start``.
        """
        return None

    def on_epoch_start(self, context: TrainContext) -> None:
        """Before an epoch, without gradients: cluster, rebuild a memory bank."""

    def on_before_step(self, phase: str, context: TrainContext) -> None:
        """Before a phase's forward pass."""

    def on_after_step(self, phase: str, context: TrainContext) -> None:
        """After a phase's optimiser step, without gradients: move an EMA teacher (its BatchNorm buffers too)."""

    def exported_backbone(self) -> Backbone:
        """The network that later stages get; DINO exports its teacher."""
        return self.backbone


class PretextTask(Checked, Contract):
    """The options of a self-supervised method. Concrete tasks are ``@final @dataclass(frozen=True, kw_only=True)`` classes; their
    annotated fields are the options of ``task`` in a recipe, checked in ``__post_init__`` with :class:`OptionError`.

    Attributes:
        requires: capabilities that the backbone must have.
    """

    requires: ClassVar[frozenset[str]] = frozenset()

    def image_spec(self, data: ImageSpec) -> ImageSpec:
        """What the backbone is built for: by default the data's images; a tile for a jigsaw, lightness for colorization."""
        return data

    @abstractmethod
    def build_objective(self, backbone: Backbone, data: DataInfo) -> Objective:
        """Build the method's trainable module around ``backbone``."""


# ------------------------------------------------------------------------------------------------------------ evaluation


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """Where and how a stage runs. Made by the stage; pass it on to ``fit``.

    Attributes:
        stage: the stage's name.
        seed: the run's seed; draw through ``generator``.
        device: where to compute.
        autocast: the dtype of autocast, or None for plain float32.
        channels_last: keep convolution weights in channels_last memory format.
        compile: compile ``Objective.forward``.
        cuda_graphs: record what is compiled as a CUDA graph and replay it.
        log_every: read metrics every so many steps.
        checkpoint_minutes: write a checkpoint that often.
        keep_checkpoints: so many of a fit stay.
        folder: where checkpoints go, or None to keep nothing.
        part: names this fit where a stage has several.
        emit: tells the observers.
        should_stop: whether the user asked to stop; ``fit`` then writes a checkpoint and raises ``RunInterruptedError``.
        begun: the parts that a fit has been run for; shared by all copies of a context.
    """

    stage: str
    seed: int
    device: torch.device
    autocast: torch.dtype | None = None
    channels_last: bool = True
    compile: bool = False
    cuda_graphs: bool = False
    log_every: int = 50
    checkpoint_minutes: float = 10.0
    keep_checkpoints: int = 2
    folder: Path | None = None
    part: str = ""
    emit: Emit = tell_nobody
    should_stop: Callable[[], bool] = lambda: False
    begun: set[str] = field(default_factory=set, repr=False, compare=False)


class Evaluation(NamedTuple):
    """What an evaluator found.

    Attributes:
        metrics: dotted names (``conv2.top1``, ``conv2.k20.top1``), accuracies in percent from exact counts.
        backbone: a network worth keeping (fine-tuning), or None.
        heads: trained heads worth keeping, by name.
        predictions: on all test images, in their order, by name (a layer's, usually); for confusion matrices.
    """

    metrics: dict[str, float]
    backbone: Backbone | None = None
    heads: Mapping[str, nn.Module] = {}
    predictions: Mapping[str, Prediction] = {}


class Evaluator(Checked, Contract):
    """Measures a backbone with labels. Concrete evaluators are final frozen dataclasses, like tasks.

    Attributes:
        requires: capabilities that the backbone must have.
        from_scratch: the network is trained from random weights; a stage whose ``weights`` are not ``random`` is refused.
        exports_backbone: ``evaluate`` returns a backbone that later stages can start from.
        needs_labels: without, ``data.train`` holds the images of pretraining, and ``data.test`` the held-out ones, or the same
            again where there are none; neither need have labels.
    """

    requires: ClassVar[frozenset[str]] = frozenset()
    from_scratch: ClassVar[bool] = False
    exports_backbone: ClassVar[bool] = False
    needs_labels: ClassVar[bool] = True

    @property
    @abstractmethod
    def frozen(self) -> bool:
        """Whether the backbone must come out bit-identical. The stage checks its hash before and after."""

    @abstractmethod
    def check(self, backbone: Backbone, data: LabeledData) -> None:
        """Refuse what cannot work, before anything is computed: a layer that does not exist, more labels than there are.

        Args:
            backbone: without its weights; on the meta device, if it can be built there.
            data: labels can be read; do not read images.

        Raises:
            OptionError: names the option at fault.
        """

    @abstractmethod
    def evaluate(self, backbone: Backbone, data: LabeledData, context: RunContext) -> Evaluation:
        """Measure ``backbone``, which is the evaluator's own copy, on ``context.device``."""


# -------------------------------------------------------------------------------------------------------------- training


class OptimizerFactory(Checked, Contract):
    """The options of an optimiser (``optimizer`` in a recipe); a final frozen dataclass with a field ``lr``."""

    @abstractmethod
    def build(self, groups: list[dict]) -> torch.optim.Optimizer:
        """Build the optimiser.

        Args:
            groups: torch's parameter groups. Start each at the base rate: the loop multiplies it by the group's ``lr_scale`` and
                by the schedule before each step.

        Returns:
            The optimiser of exactly these parameters. All that it remembers must be in its ``state_dict``: that is what a checkpoint holds.
        """


class Schedule(Checked, Contract):
    """How the learning rate changes (``schedule`` in a recipe): a pure function of the epoch; a final frozen dataclass."""

    @abstractmethod
    def scale(self, epoch: float, num_epochs: float) -> float:
        """The factor on the base learning rate after ``epoch`` of ``num_epochs`` epochs (fractions of an epoch count)."""

    def notes(self, num_epochs: float) -> Sequence[str]:
        """What is probably not meant where training has ``num_epochs`` epochs, a sentence each that begins with the option's name."""
        return ()
