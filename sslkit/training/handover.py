"""Checks of what plugins return, where they return it: later it would be a traceback far from its cause, or a wrong file.

What breaks the contract is refused with the name of its class: with a ``PluginError`` before anything has run, with a ``RunFailedError``
afterwards. A check that passes reads no value of a tensor on a GPU.
"""

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from sslkit.contract.backbone import Backbone
from sslkit.contract.checks import refuse_misspelt_attributes
from sslkit.contract.class_address import provenance_of
from sslkit.contract.errors import PluginError, RunFailedError, did_you_mean
from sslkit.contract.evaluator import Evaluation, Evaluator
from sslkit.contract.images import LabeledData
from sslkit.contract.objective import Classified, Mean, Objective, Prediction, Represented, StepOutput
from sslkit.contract.training import Schedule


def check_objective(objective: Objective) -> None:
    """Before it is trained: its phases, frozen parts, schedules and backbone. Parameter groups are checked with the optimizers."""
    if not isinstance(objective, Objective):
        raise PluginError("build_objective must return an Objective", found=objective)
    refuse_misspelt_attributes(objective, Objective)
    phases = objective.phases
    if not isinstance(phases, tuple) or not phases or not all(isinstance(phase, str) for phase in phases) or len(set(phases)) < len(phases):
        raise _wrong(objective, "phases must be a tuple of distinct names", found=phases)
    if objective.heldout_phase not in (None, *phases):
        raise _wrong(objective, "heldout_phase must be one of its phases, or None", found=objective.heldout_phase, allowed=phases)
    modules = dict(objective.named_modules())
    for name in objective.frozen:
        if name not in modules or not name:
            fix = did_you_mean(str(name), modules)
            raise _wrong(objective, "frozen names what is no submodule of it", found=name, fix=fix or "register it as a submodule")
    exported: object = objective.exported_backbone()
    if not isinstance(exported, Backbone):
        raise _wrong(objective, "exported_backbone must return a Backbone", found=type(exported).__name__)
    schedules = objective.schedules()
    if not isinstance(schedules, Mapping):
        raise _wrong(objective, "schedules must return a mapping from names to functions of progress", found=schedules)
    for name, value in schedules.items():
        found = [value(progress) for progress in (0.0, 1.0)] if callable(value) else [value]
        if not callable(value) or any(finite_number(number) is None for number in found):
            raise _wrong(objective, f"schedules[{name!r}] must be a function of progress that returns finite numbers", found=found)


def _wrong(objective: Objective, problem: str, **facts: Any) -> PluginError:
    return PluginError(f"{provenance_of(type(objective))}: {problem}", **facts)


RESERVED_METRICS = frozenset({"loss", "gradient_norm", "loss_scale", "lr", "images_per_second", "split", "part", "step", "epoch"})
"""Other entries of the log than an objective's metrics."""

_NUM_PROBES = 33


def checked_evaluation(evaluator: Evaluator, evaluation: object, data: LabeledData, stage: str) -> Evaluation:
    """What ``evaluate`` returned, its metrics as plain floats."""
    if not isinstance(evaluation, Evaluation):
        raise _broken(evaluator, "evaluate must return an Evaluation", stage, found=evaluation)
    metrics = {}
    for name, value in _named(evaluator, "metrics", evaluation.metrics, stage).items():
        if (number := finite_number(value)) is None:
            raise _broken(evaluator, f"metric {name!r} must be a finite number", stage, found=value)
        metrics[name] = number
    if evaluator.exports_backbone and not isinstance(evaluation.backbone, Backbone):
        raise _broken(evaluator, "exports_backbone is True, so evaluate must return a backbone", stage, found=evaluation.backbone)
    for name, head in _named(evaluator, "heads", evaluation.heads, stage).items():
        if not isinstance(head, nn.Module) or "." in name:
            raise _broken(evaluator, "heads must be modules by names without dots", stage, found={name: head})
    for name, prediction in _named(evaluator, "predictions", evaluation.predictions, stage).items():
        if not isinstance(prediction, Classified) or not _is_whole(prediction):
            what = f"prediction {name!r} must be a Classified of int64 classes and targets (M,): Classified.of(logits, targets)"
            raise _broken(evaluator, what, stage, found=_kinds(prediction))
        if len(prediction.targets) != len(data.test):
            what = f"prediction {name!r} must be of all {len(data.test)} test images"
            raise _broken(evaluator, what, stage, found=len(prediction.targets))
    check_targets(evaluator, evaluation.predictions, stage)
    return evaluation._replace(metrics=metrics)


def check_output(objective: Objective, output: object, phase: str, stage: str, *, training: bool) -> None:
    """What ``forward`` returned."""
    if not isinstance(output, StepOutput):
        raise _broken(objective, "forward must return a StepOutput", stage, found=output)
    loss = output.loss
    if not isinstance(loss, Tensor) or loss.ndim or not loss.is_floating_point():
        raise _broken(objective, f"the loss of phase {phase!r} must be a scalar tensor of floats", stage, found=_kind(loss))
    if training and not loss.requires_grad:
        raise _broken(objective, f"the loss of phase {phase!r} depends on nothing that is trained", stage)
    for name, mean in _named(objective, "metrics", output.metrics, stage).items():
        if name in RESERVED_METRICS:
            raise _broken(objective, f"no metric may be called {name!r}, because the log has that name already", stage)
        if not _is_mean(mean, loss.device):
            what = f"metric {name!r} must be a Mean of scalars on the loss's device: Mean.of(x)"
            raise _broken(objective, what, stage, found=_kinds(mean))
    for name, prediction in _named(objective, "predictions", output.predictions, stage).items():
        if not isinstance(prediction, Prediction) or not _fits(prediction):
            what = f"prediction {name!r} must be a Prediction of logits (M, K) and int64 targets (M,)"
            raise _broken(objective, what, stage, found=_kinds(prediction))


def checked_represented(objective: Objective, represented: object, num_images: int, stage: str) -> Represented:
    """What ``represent`` returned for so many images."""
    if not isinstance(represented, Represented):
        raise _broken(objective, "represent must return a Represented", stage, found=represented)
    for what, values in represented._asdict().items():
        for name, rows in _named(objective, what, values, stage).items():
            if not isinstance(rows, Tensor) or rows.ndim != 2 or len(rows) != num_images or not rows.is_floating_point():
                problem = f"{what} {name!r} that represent returns must be floats with a row for each of {num_images} images"
                raise _broken(objective, problem, stage, found=_kind(rows))
    return represented


def check_targets(owner: object, predictions: Mapping[str, Classified], stage: str) -> None:
    """Refuse predictions of classes that do not exist. Reads values: for tensors on the CPU."""
    for name, prediction in predictions.items():
        for what in ("classes", "targets"):
            low, high = (int(value) for value in getattr(prediction, what).aminmax())
            if low < 0 or high >= prediction.num_classes:
                allowed = f"0 to {prediction.num_classes - 1}, its classes"
                raise _broken(
                    owner, f"the {what} of prediction {name!r} are out of range", stage, found=f"{low} to {high}", allowed=allowed
                )


def check_means(objective: Objective, means: Mapping[str, float], stage: str, when: str) -> None:
    """Refuse metrics that are not finite, before they are logged; ``when`` says when they were measured."""
    for name, value in means.items():
        if finite_number(value) is None:
            raise _broken(objective, f"metric {name!r} must be finite, and is {value} {when}", stage)


def checked_indices(objective: Objective, indices: object, num_images: int, stage: str) -> Tensor:
    """What ``epoch_indices`` returned, on the CPU."""
    if not isinstance(indices, Tensor) or indices.ndim != 1 or indices.dtype != torch.int64:
        raise _broken(objective, "epoch_indices must return an (M,) int64 tensor", stage, found=_kind(indices))
    indices = indices.cpu()
    if not len(indices):
        raise _broken(objective, "epoch_indices chose no image", stage)
    low, high = (int(value) for value in indices.aminmax())
    if low < 0 or high >= num_images:
        raise _broken(
            objective,
            "epoch_indices returned indices that are out of range",
            stage,
            found=f"{low} to {high}",
            allowed=f"0 to {num_images - 1}",
        )
    return indices


def scale_of(schedule: Schedule, epoch: float, num_epochs: float) -> float:
    """The factor on the learning rate."""
    value: object = schedule.scale(epoch, num_epochs)
    number = finite_number(value)
    if number is None or number < 0.0:
        what = f"{provenance_of(type(schedule))}: scale must return a finite number, 0 or more, after epoch {epoch:.4g} of {num_epochs:g}"
        raise RunFailedError(what, found=value)
    return number


def check_schedule(schedule: Schedule, num_epochs: float) -> None:
    """Compute factors over the whole training, forwards and backwards: unless they depend on the epoch alone, a resumed run differs."""
    epochs = [num_epochs * probe / (_NUM_PROBES - 1) for probe in range(_NUM_PROBES)]
    try:
        forwards, backwards = ({epoch: scale_of(schedule, epoch, num_epochs) for epoch in order} for order in (epochs, epochs[::-1]))
    except RunFailedError as error:  # where nothing has run yet
        raise PluginError(str(error)) from error
    for epoch in epochs:
        if (again := backwards[epoch]) != forwards[epoch]:
            what = f"{provenance_of(type(schedule))}: scale must depend on the epoch alone, or a resumed run would have other rates"
            raise PluginError(what, found=f"{forwards[epoch]:.6g}, then {again:.6g} after epoch {epoch:.4g} of {num_epochs:g}")


def checked_notes(schedule: Schedule, num_epochs: float) -> tuple[str, ...]:
    """What ``notes`` returned."""
    notes: object = schedule.notes(num_epochs)
    if isinstance(notes, str) or not isinstance(notes, Sequence) or not all(isinstance(note, str) for note in notes):
        raise PluginError(f"{provenance_of(type(schedule))}: notes must return a tuple of sentences", found=notes)
    return tuple(notes)


def scheduled_value(objective: Objective, name: str, value: object, progress: float, stage: str) -> float:
    """One of the values of ``Objective.schedules``."""
    if (number := finite_number(value)) is None:
        raise _broken(objective, f"schedule {name!r} must return a finite number at progress {progress:.4g}", stage, found=value)
    return number


def _named(owner: object, what: str, values: object, stage: str) -> Mapping[str, Any]:
    if not isinstance(values, Mapping):
        raise _broken(owner, f"{what} must be a dict", stage, found=values)
    for name in values:
        if not isinstance(name, str) or not name or not name.isprintable():
            raise _broken(owner, f"the names of {what} must be strings in one line", stage, found=name)
    return values


def _is_mean(mean: object, device: torch.device) -> bool:
    if not isinstance(mean, Mean) or not _is_scalar(mean.total, device):
        return False
    return _is_scalar(mean.num, device) if isinstance(mean.num, Tensor) else finite_number(mean.num) is not None


def _is_scalar(value: object, device: torch.device) -> bool:
    return isinstance(value, Tensor) and value.ndim == 0 and not value.is_complex() and value.device == device


def _fits(prediction: Prediction) -> bool:
    logits, targets = prediction
    if not isinstance(logits, Tensor) or not isinstance(targets, Tensor):
        return False
    return logits.ndim == 2 and targets.shape == logits.shape[:1] and logits.is_floating_point() and targets.dtype == torch.int64


def _is_whole(classified: Classified) -> bool:
    classes, targets, num_classes, in_top5 = classified
    labels = [each.shape for each in (classes, targets) if isinstance(each, Tensor) and each.ndim == 1 and each.dtype == torch.int64]
    if len(labels) < 2 or labels[0] != labels[1] or type(num_classes) is not int:
        return False
    return in_top5 is None or (isinstance(in_top5, Tensor) and in_top5.shape == targets.shape and in_top5.dtype == torch.bool)


def _kinds(values: object) -> Any:
    """What a value is, or each in one of our tuples, without reading it."""
    return tuple(map(_kind, values)) if isinstance(values, Mean | Prediction | Classified) else _kind(values)


def _kind(value: object) -> str:
    return f"{value.dtype} {tuple(value.shape)} on {value.device}" if isinstance(value, Tensor) else type(value).__name__


def _broken(owner: object, what: str, stage: str, **facts: Any) -> RunFailedError:
    return RunFailedError(f"stage {stage!r}: {provenance_of(type(owner))}: {what}", **facts)


def finite_number(value: object) -> float | None:
    """A finite number as a float, also one in a tensor or an array of one element; None for anything else, True and False included.

    Reading a tensor on a GPU makes it wait.
    """
    item = getattr(value, "item", None)  # without importing torch or numpy
    if callable(item):
        try:
            value = item()
        except (RuntimeError, TypeError, ValueError):  # several elements, or none
            return None
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
