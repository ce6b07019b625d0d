"""Is the representation collapsing? Every pretraining looks at the same few images again and again, and says so when it does."""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from sslkit.contract.backbone import Backbone
from sslkit.contract.errors import BackboneError, RunInterruptedError
from sslkit.contract.evaluator import RunContext
from sslkit.contract.events import FeaturesMeasured, Notice
from sslkit.contract.images import Batch
from sslkit.contract.objective import Objective
from sslkit.training.device import tf32
from sslkit.training.features import BatchSource, evaluating
from sslkit.training.handover import checked_represented
from sslkit.training.representation import assignment_entropy, feature_std, mean_cosine, quick_rankme
from sslkit.training.seeds import derive_seed, global_seed, make_generator
from sslkit.training.state import TrainState

NUM_IMAGES = 512
"""Of the fixed batch, where there are so many: a standard deviation is then known to 3 %, and an effective rank can count to 512."""

MIN_IMAGES = 16
"""With fewer images nothing is measured."""

SHARE = 0.005
"""The pixels that are measured, as a fraction of those that are trained on: half of the one percent of time that watching may cost."""

MAX_TIMES = 100
"""Measurements per fit at most: they have costs that do not grow with the pixels, such as an eigenvalue decomposition."""


class Watched(NamedTuple):
    """When and how a pretraining measures the quality of its features, besides whether they collapse.

    Attributes:
        epochs: after which the quality is measured; 0: before the first.
        quality: measures a network, which is trained further: ``{name: value}``.
    """

    epochs: frozenset[int] = frozenset()
    quality: Callable[[Backbone], Mapping[str, float]] = lambda _backbone: {}


class FeatureWatch:
    """Measures the representation of the same images again and again, and warns when it collapses; does nothing where ``watched`` is
    None. Changes nothing, not even a random state.

    When is decided by counting pixels and steps, not by a clock: a resumed fit measures at the same steps.
    """

    def __init__(
        self, watched: Watched | None, state: TrainState, heldout: BatchSource | None, train: BatchSource, context: RunContext
    ) -> None:
        self._watched = watched
        self._state = state
        self._context = context
        self._train = train
        self._source = train if heldout is None or heldout.num_images < min(MIN_IMAGES, train.num_images) else heldout
        self._images: Tensor | None = None
        self._interval = 0

    def load(self) -> None:
        """Read the images: held-out ones where there are enough, else training images; not augmented."""
        context, number = self._context, self._source.num_images
        if self._watched is None or self._images is not None or number < MIN_IMAGES:
            return
        chosen = torch.randperm(number, generator=make_generator(derive_seed(context.seed, context.stage, context.part, "collapse")))
        batches = self._source.batches(chosen[:NUM_IMAGES].sort().values)
        self._images = torch.cat([batch.images for batch in batches])

    def before_step(self, views: Mapping[str, Tensor], batch: Batch, epochs: int) -> None:
        """Measure if it is due, before a step on ``views`` of ``batch``, in a fit of so many epochs."""
        if self._images is not None and not self._interval:
            self._interval = self._steps_between(self._images, views, batch, epochs)
        if self._interval and self._state.step % self._interval == 0:
            self.look()

    def look(self) -> None:
        """Measure now."""
        if self._images is None:
            return
        state, context = self._state, self._context
        try:
            measured = measure_collapse(state.objective, self._images, self._train.batch_size, context)
        except BackboneError as error:  # a network that takes images of another size alone, such as crops
            self._images = None
            self._notify(f"whether the representation collapses is not measured ({error})")
            return
        self._tell({f"collapse.{name}": value for name, value in measured.items()})
        for name in state.signs.take(measured):
            what = f"{name} is {measured[name]:.2g} after step {state.step:,}, and was {state.signs.highest[name]:.2g}"
            message = f"the representation has collapsed: {what}; the usual cause: {state.objective.collapse_cause}"
            state.signs.alarms.append(message)
            self._notify(message)

    @property
    def quality_epochs(self) -> frozenset[int]:
        """After which :meth:`measure_quality` is to be called."""
        return frozenset() if self._watched is None else self._watched.epochs

    def measure_quality(self) -> None:
        """Measure what is exported; a ``RunInterruptedError`` says after how many steps the user asked to stop."""
        assert self._watched is not None
        try:
            with global_seed(0, self._context.device):
                metrics = self._watched.quality(self._state.objective.exported_backbone())
        except BackboneError as error:
            self._watched = Watched()
            self._notify(f"the quality of the features is not measured ({error})")
            return
        except RunInterruptedError:  # while features were computed, of which a user who pretrains knows nothing
            raise RunInterruptedError(f"stopped in stage {self._context.stage!r} after {self._state.step} steps") from None
        self._tell({f"quality.{name}": value for name, value in metrics.items()})

    def _notify(self, message: str) -> None:
        self._context.emit(Notice(stage=self._context.stage, message=message))

    def _tell(self, metrics: Mapping[str, float]) -> None:
        finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
        state, context = self._state, self._context
        if finite:
            context.emit(FeaturesMeasured(stage=context.stage, part=context.part, step=state.step, epoch=state.exact_epoch, metrics=finite))

    def _steps_between(self, images: Tensor, views: Mapping[str, Tensor], batch: Batch, epochs: int) -> int:
        """So many that watching stays within its share: a forward pass costs a third of a training step on as many pixels."""
        size = self._train.batch_size
        pixels = sum(view.numel() for view in views.values() if view.ndim == 4) or batch.images.numel()
        each = math.ceil(images.numel() / (3 * SHARE * pixels / len(batch.indices) * size))
        return max(each, math.ceil(epochs * math.ceil(self._train.num_images / size) / MAX_TIMES))


def measure_collapse(objective: Objective, images: Tensor, batch_size: int, context: RunContext) -> dict[str, float]:
    """Of each embedding ``std``, ``cosine`` and ``rankme``, of each assignment ``entropy``: ``{"features.std": ...}``. In eval mode, in
    full float32. What is not finite is left out.

    Args:
        objective: on the images' device.
        images: (N, C, H, W), not augmented.
        batch_size: images per forward pass.
        context: names the stage in what is wrong with ``represent``.
    """
    embeddings: dict[str, list[Tensor]] = {}
    assignments: dict[str, list[Tensor]] = {}
    with torch.no_grad(), evaluating(objective), global_seed(0, context.device), tf32(allowed=False):
        for part in images.split(batch_size):
            found = checked_represented(objective, objective.represent(part), len(part), context.stage)
            for kept, named in ((embeddings, found.embeddings), (assignments, found.assignments)):
                for name, rows in named.items():
                    kept.setdefault(name, []).append(rows.float())
    measured: dict[str, float] = {}
    for name, parts in embeddings.items():
        features = torch.cat(parts).cpu()
        if features.isfinite().all():  # diverged weights are reported by the fit itself
            measured |= {f"{name}.std": feature_std(features), f"{name}.cosine": mean_cosine(features)}
            measured[f"{name}.rankme"] = quick_rankme(features)
    for name, parts in assignments.items():
        probabilities = torch.cat(parts).cpu()
        if probabilities.isfinite().all() and probabilities.shape[1] > 1:
            measured[f"{name}.entropy"] = assignment_entropy(probabilities)
    return measured
