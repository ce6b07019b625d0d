"""What measures a backbone, and where and how a stage runs."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import ClassVar, NamedTuple

import torch
from torch import nn

from sslkit.contract.backbone import Backbone
from sslkit.contract.checks import Checked, Contract
from sslkit.contract.events import Emit, tell_nobody
from sslkit.contract.images import ImageSpec, LabeledData
from sslkit.contract.objective import Classified
from sslkit.contract.runtime import Runtime


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """Where and how a stage runs. Made by the stage; pass it on to ``fit``.

    Attributes:
        stage: the stage's name.
        seed: the run's seed; draw through ``generator``.
        device: where to compute.
        runtime: precision, checkpoints and the like.
        folder: where checkpoints go, or None to keep nothing.
        part: names this fit where a stage has several.
        emit: tells the observers.
        should_stop: whether the user asked to stop; ``fit`` then writes a checkpoint and raises ``RunInterruptedError``.
        begun: the parts that a fit has been run for; shared by all copies of a context.
    """

    stage: str
    seed: int
    device: torch.device
    runtime: Runtime = field(default_factory=Runtime)
    folder: Path | None = None
    part: str = ""
    emit: Emit = tell_nobody
    should_stop: Callable[[], bool] = lambda: False
    begun: set[str] = field(default_factory=set, repr=False, compare=False)

    @cached_property
    def autocast(self) -> torch.dtype | None:
        """The dtype of autocast, or None for plain float32."""
        return self.runtime.resolve_autocast(self.device)


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
    predictions: Mapping[str, Classified] = {}


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
    def frozen(self) -> bool:
        """Whether the backbone must come out bit-identical, by default True. The stage checks its hash before and after."""
        return True

    def image_spec(self, data: ImageSpec) -> ImageSpec:
        """The images that a backbone which begins in this stage is built for: by default the data's; an evaluator with views returns theirs."""
        return data

    def check(self, backbone: Backbone, data: LabeledData) -> None:
        """Refuse what cannot work, before anything is computed: a layer that does not exist, more labels than there are. By default nothing.

        Args:
            backbone: without its weights; on the meta device, if it can be built there.
            data: labels can be read; do not read images.

        Raises:
            OptionError: names the option at fault.
        """

    @abstractmethod
    def evaluate(self, backbone: Backbone, data: LabeledData, context: RunContext) -> Evaluation:
        """Measure ``backbone``, which is the evaluator's own copy, on ``context.device``."""
