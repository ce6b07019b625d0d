"""The options of training, the same in every stage that trains."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, final

from sslkit.contract.checks import Checked
from sslkit.contract.errors import OptionError, did_you_mean
from sslkit.contract.images import Augment
from sslkit.contract.objective import Objective
from sslkit.contract.training import OptimizerFactory, Schedule
from sslkit.training.optimizers import SGD
from sslkit.training.schedules import Cosine

LR_REFERENCE = 256
"""The batch size that learning rates to be scaled are stated for, as in the papers."""


@final
@dataclass(frozen=True, kw_only=True)
class OnNan(Checked):
    """What to do when the loss or its gradient is no longer finite, or explodes.

    The fit goes back to the beginning of the epoch in which that happened, and continues with a lower learning rate.

    Attributes:
        retries: how many times; 0: stop at the first.
        lr_factor: multiplies the learning rate from there on, again with each retry.
    """

    retries: int = 0
    lr_factor: float = 0.5

    def __post_init__(self) -> None:
        if self.retries < 0:
            raise OptionError("retries", "must not be negative", found=self.retries, allowed="0 (stop) or more")
        if not 0.0 < self.lr_factor < 1.0:
            raise OptionError("lr_factor", "must lower the learning rate", found=self.lr_factor, allowed="0 < lr_factor < 1")


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(Checked):
    """The options of a training loop. Evaluators that train inherit these fields; a pretraining stage holds them itself.

    Attributes:
        epochs: passes over the images.
        batch_size: images per optimizer step, over all processes, before a task multiplies them into views.
        optimizer: one for all phases, or one for each phase by name.
        schedule: of the learning rate.
        lr_scaling: how the learning rate grows with the batch size: ``linear``, lr * batch_size / 256 (Goyal et al. 2017, arXiv:1706.02677);
            ``sqrt``, lr * sqrt(batch_size / 256); or ``none``.
        augment: done once per image, on training images only.
        accumulate_batches: pass each batch through the network in so many equal parts and average their gradients: the same step in less
            memory, except that BatchNorm, and a loss that compares images, see one part at a time.
        drop_last: whether an epoch leaves out its last images where they do not fill a batch; None: if the objective needs full batches.
            Otherwise they are a smaller batch; a single one, which BatchNorm cannot take, joins the batch before.
        clip_grad_norm: gradients of a phase are scaled down to this 2-norm where they are longer; None: never.
        on_nan: what to do when the loss or its gradient is no longer finite, or explodes.
    """

    epochs: int = 100
    batch_size: int = 128
    optimizer: OptimizerFactory | Mapping[str, OptimizerFactory] = field(default_factory=SGD)
    schedule: Schedule = field(default_factory=Cosine)
    lr_scaling: Literal["none", "linear", "sqrt"] = "none"
    augment: Augment = field(default_factory=Augment)
    accumulate_batches: int = 1
    drop_last: bool | None = None
    clip_grad_norm: float | None = None
    on_nan: OnNan = field(default_factory=OnNan)

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise OptionError("epochs", "must be positive", found=self.epochs, allowed="1 or more")
        if self.batch_size < 1:
            raise OptionError("batch_size", "must be positive", found=self.batch_size, allowed="1 or more images")
        if self.accumulate_batches < 1:
            raise OptionError("accumulate_batches", "must be positive", found=self.accumulate_batches, allowed="1 or more")
        if self.batch_size % self.accumulate_batches:
            problem = f"must divide batch_size, {self.batch_size}, into equal parts"
            raise OptionError("accumulate_batches", problem, found=self.accumulate_batches)
        if self.clip_grad_norm is not None and self.clip_grad_norm <= 0.0:
            raise OptionError("clip_grad_norm", "must be positive", found=self.clip_grad_norm, allowed="a number above 0")

    @property
    def rate_factor(self) -> float:
        """What ``lr_scaling`` multiplies the learning rate by."""
        ratio = self.batch_size / LR_REFERENCE
        return {"none": 1.0, "linear": ratio, "sqrt": math.sqrt(ratio)}[self.lr_scaling]

    @property
    def rate_notes(self) -> list[str]:
        """The learning rates that ``lr_scaling`` leads to, a sentence each that begins with the option."""
        if self.lr_scaling == "none":
            return []
        given = {"": self.optimizer} if isinstance(self.optimizer, OptimizerFactory) else self.optimizer
        optimizers = {f"optimizer.{phase}".rstrip("."): optimizer for phase, optimizer in given.items()}
        why = f"{self.lr_scaling} scaling from {LR_REFERENCE} to {self.batch_size} images a step"
        rates = {name: vars(optimizer)["lr"] for name, optimizer in optimizers.items()}
        return [f"{name}.lr: {lr:g} becomes {lr * self.rate_factor:g} by {why}" for name, lr in rates.items()]

    def drops_last(self, objective: Objective) -> bool:
        """Whether an epoch leaves out the images that do not fill a batch.

        Raises:
            OptionError: the objective needs full batches, and ``drop_last`` says otherwise.
        """
        if objective.full_batches and self.drop_last is False:
            problem = f"{type(objective).__name__} needs full batches"
            raise OptionError("drop_last", problem, found=False, fix="leave it out")
        return objective.full_batches if self.drop_last is None else self.drop_last

    def check_batch_size(self, num_images: int) -> None:
        """Refuse a batch larger than the data, which would silently train on fewer images per step.

        Raises:
            OptionError: names ``batch_size``.
        """
        if self.batch_size > num_images:
            raise OptionError(
                "batch_size", f"is larger than the data ({num_images} images)", found=self.batch_size, allowed=f"1 to {num_images}"
            )

    def optimizers_for(self, phases: Sequence[str]) -> dict[str, OptimizerFactory]:
        """The optimizer of each phase.

        Raises:
            OptionError: optimizers are given per phase, and not for these phases.
        """
        if isinstance(self.optimizer, OptimizerFactory):
            return dict.fromkeys(phases, self.optimizer)
        for name in self.optimizer:
            if name not in phases:
                problem = "is given for an unknown phase"
                raise OptionError("optimizer", problem, found=name, allowed=phases, fix=did_you_mean(name, phases))
        for phase in phases:
            if phase not in self.optimizer:
                raise OptionError("optimizer", f"no optimizer for phase {phase!r}", found=list(self.optimizer))
        return dict(self.optimizer)


def check_epochs(option: str, epochs: Iterable[int], num_epochs: int) -> list[int]:
    """The epochs of an option in order; 0 for the untrained network. They must be distinct epochs of the training."""
    found = sorted(epochs)
    if any(not 0 <= epoch <= num_epochs for epoch in found) or len(set(found)) < len(found):
        raise OptionError(option, "must be distinct epochs of the training", found=found, allowed=f"0 to {num_epochs}")
    return found


def spread_epochs(num_epochs: int, most: int) -> list[int]:
    """At most so many epochs of a training, 2 or more, evenly spread: 0 and the last among them."""
    steps = min(most - 1, num_epochs)
    return [round(step * num_epochs / steps) for step in range(steps + 1)]
