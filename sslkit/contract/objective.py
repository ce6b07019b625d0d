"""A method: its options, and the trainable module that they build."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, NamedTuple, Protocol, Self, cast, final

import torch
from torch import Generator, Tensor, nn

from sslkit.contract.backbone import Backbone
from sslkit.contract.checks import Checked, Contract
from sslkit.contract.images import Batch, DataInfo, ImageSpec


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
    """What a classifier predicted in one forward pass, and the right classes.

    Attributes:
        logits: (M, K), detached.
        targets: (M,) int64, the right class of each.
    """

    logits: Tensor
    targets: Tensor


class Classified(NamedTuple):
    """The classes that a classifier chose, without its logits: what is kept of many images does not grow with the number of classes.

    Attributes:
        classes: (M,) int64, the class with the largest logit.
        targets: (M,) int64, the right class of each.
        num_classes: how many there are to choose from.
        in_top5: (M,) bool, whether the right class is among the five largest logits; None where there are fewer than 20 classes.
    """

    classes: Tensor
    targets: Tensor
    num_classes: int
    in_top5: Tensor | None = None

    @classmethod
    def of(cls, logits: Tensor, targets: Tensor) -> "Classified":
        """Reduce (M, K) logits, or other scores, with their (M,) int64 targets."""
        scores, num_classes = logits.float(), logits.shape[1]
        in_top5 = (scores.topk(5, dim=1).indices == targets[:, None]).any(dim=1) if num_classes >= 20 else None
        return cls(scores.argmax(dim=1), targets.clone(), num_classes, in_top5)

    @classmethod
    def join(cls, parts: "Sequence[Classified]") -> "Classified":
        """Batches of one classifier, in their order, on the CPU."""
        classes, targets, num_classes, in_top5 = zip(*parts, strict=True)
        joined = None if in_top5[0] is None else torch.cat(in_top5).cpu()
        return cls(torch.cat(classes).cpu(), torch.cat(targets).cpu(), num_classes[0], joined)


class Step(NamedTuple):
    """What ``Objective.forward`` may know of the current step.

    Attributes:
        phase: one of ``Objective.phases``.
        schedule: the current values of ``Objective.schedules`` as 0-dim tensors, by name.
    """

    phase: str
    schedule: Mapping[str, Tensor] = {}


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


class Represented(NamedTuple):
    """What a method makes of N images, in which a collapse would be visible.

    Attributes:
        embeddings: (N, D) each, by name; in a collapse all rows become equal.
        assignments: (N, K) each, by name: probabilities of clusters or prototypes, of which a collapse leaves one; empty for methods
            without clusters.
    """

    embeddings: Mapping[str, Tensor]
    assignments: Mapping[str, Tensor] = {}


class TrainContext(Protocol):
    """What an objective's hooks may know and use of the loop around them.

    Attributes:
        epoch: epochs completed.
        step: optimizer steps completed.
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


class _OnlyPhase:
    """The default of ``heldout_phase``, which depends on ``phases``."""

    def __get__(self, objective: "Objective | None", cls: "type[Objective]") -> str | None:
        phases = (cls if objective is None else objective).phases
        return phases[0] if len(phases) == 1 else None


class Objective(nn.Module, Contract):
    """The trainable module of a method: views in, loss out. ``forward`` is what is compiled and what runs in parallel.

    All state that training changes must be in parameters or persistent buffers: those are what a checkpoint holds. ``forward``
    must run in eval mode too, and may update its own buffers only while training and only in float32.

    Args:
        backbone: the network to pretrain.

    Attributes:
        phases: one optimizer each, stepped in this order on every batch; a GAN has ``("discriminator", "generator")``.
        heldout_phase: the phase whose loss and metrics are measured on held-out images; by default the only phase, or None where there
            are several. Set it to None where they are meaningless, as where labels are looked up by the index of a training image.
        frozen: names of submodules that training never changes. They stay in eval mode, so that their BatchNorm statistics stay
            put, and checkpoints leave them out.
        classes: names of the classes that the method predicts, in the order of their targets; empty where it predicts none.
        full_batches: whether every training batch must have ``batch_size`` images, as for negatives, a queue or the marginals of clusters:
            the rest of an epoch is then dropped, and data with fewer images than a batch is refused.
        collapse_cause: the usual cause of a collapse, a clause for the notice that reports one.
    """

    phases: tuple[str, ...] = ("main",)
    heldout_phase: str | None = cast("str | None", _OnlyPhase())
    frozen: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    full_batches: bool = False
    collapse_cause: str = "the learning rate is too high, or the loss is lowest where all images look the same"

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
            Named tensors. Images stay uint8 or become floats in [0, 1]; the backbone normalises. A tensor of images has N * k rows, k
            whole and its own for each tensor, view after view as ``torch.cat`` of k views has it: row ``i`` was made of image ``i % N``
            alone. Whoever mixes images does so in ``forward``, as further tensors say.
        """

    @abstractmethod
    def forward(self, views: dict[str, Tensor], step: Step) -> StepOutput:
        """Compute the loss of one phase.

        Args:
            views: what ``make_views`` returned.
            step: the phase, and the current values of ``schedules``.
        """

    def represent(self, images: Tensor) -> Represented:
        """What is watched for a collapse: by default the pooled features of the exported backbone's deepest layer.

        A method whose head can collapse while the features still look healthy adds what its loss compares, and its cluster assignments.
        Called now and then in eval mode, without gradients and in float32; must not draw random numbers or change anything.

        Args:
            images: (N, C, H, W) of the dataset, not augmented, as in ``Backbone.prepare``.
        """
        return Represented({"features": self.exported_backbone().embed(images)})

    def captions(self, views: Mapping[str, Tensor]) -> Mapping[str, Sequence[str]]:
        """What to write under each image of the views in a picture of them, by view: for example the class that is to be predicted.

        Args:
            views: what ``make_views`` returned.

        Returns:
            ``{view: one caption per image}``; a view that is left out is shown under its name alone. By default the class of each image,
            where there are ``classes``, and ``labels`` in the views.
        """
        if not self.classes or "labels" not in views:
            return {}
        names = [self.classes[label] for label in views["labels"].tolist()]
        return {name: names for name, view in views.items() if view.ndim == 4 and len(view) == len(names)}

    @final
    def train(self, mode: bool = True) -> Self:
        """Training mode for everything but the ``frozen`` parts."""
        super().train(mode)
        for name in self.frozen:
            self.get_submodule(name).eval()
        return self

    def parameter_groups(self) -> dict[str, list[dict]]:
        """Which parameters each phase trains: ``{phase: [{"params": [...], "lr_scale": 1.0, "weight_decay": 0.0}, ...]}``.

        ``lr_scale`` and ``weight_decay`` are optional, and a group may hold the optimizer's own options too. A group's ``weight_decay``
        stays as it is, unless it has a ``final_weight_decay`` as well, to which it moves along half a cosine. By default the single phase
        trains everything that requires a gradient and is not ``frozen``. Exactly one phase must train each parameter that requires one.
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

    def on_after_backward(self, phase: str, context: TrainContext) -> None:
        """Between a phase's backward pass and its optimizer step, under ``no_grad``: cancel or change ``parameter.grad``, as DINO does for
        its last layer. These are the gradients of the whole batch, without float16's loss scale; they are clipped afterwards.
        """

    def on_after_step(self, phase: str, context: TrainContext) -> None:
        """After a phase's optimizer step, without gradients: move an EMA teacher (its BatchNorm buffers too)."""

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
