"""The promises of a pretext task and its objective."""

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from sslkit.contract.backbone import Backbone
from sslkit.contract.errors import RunInterruptedError
from sslkit.contract.images import Augment, Batch, DataInfo, ImageSpec
from sslkit.contract.objective import Mean, Objective, PretextTask, Step, StepOutput
from sslkit.data.loader import Loader
from sslkit.testing.promises import SEEDED, check_options, check_requirements, check_same, load_state, promises_of, require, state_of
from sslkit.testing.specimens import CPU, IMAGE, Build, TinyBackbone, build_seeded, cpu_context, image_set, random_images
from sslkit.training.fit import FitResult, fit
from sslkit.training.optimizers import SGD
from sslkit.training.options import TrainingOptions
from sslkit.training.seeds import global_seed, make_generator
from sslkit.training.state import TrainState

NUM_IMAGES = 24
TRAINING = TrainingOptions(epochs=2, batch_size=8, optimizer=SGD(lr=0.01), augment=Augment(crop_padding=1, horizontal_flip=True))
STOP_AFTER = 4
"""Steps out of six: in the middle of the second epoch."""

Make = Callable[[], Objective]


def check_pretext_task(
    task: PretextTask, *, image: ImageSpec | None = None, backbone: Build = TinyBackbone, without_gradient: Sequence[str] = ()
) -> None:
    """Check a pretext task and its objective.

    The options, whether the seed decides the weights, the views and their order, what comes out in training and in eval mode, gradients, a short run of
    ``fit``, the same run interrupted and resumed, and the exported backbone.

    Args:
        task: with the options to test.
        image: of the data; None: ``IMAGE``.
        backbone: builds the network to pretrain; one with the capabilities that the task requires.
        without_gradient: beginnings of the names of parameters in the objective that no gradient reaches, and rightly so.

    Raises:
        AssertionError: names the broken promise.
        SslkitError: what the task or the backbone itself refuses.
    """
    with promises_of(task):
        check_options(type(task))
        image = IMAGE if image is None else image
        spec = task.image_spec(image)
        with torch.device("meta"):
            check_requirements(task.requires, backbone(spec))
        make = partial(_objective, task, backbone, image)
        _check_attributes(make())
        check_same(state_of(make()), state_of(make()), SEEDED)
        _check_objective(make(), image, tuple(without_gradient))
        _check_resuming(make, image)
        _check_exported(make(), build_seeded(backbone, spec, seed=1), random_images(image, 2))


def _objective(task: PretextTask, backbone: Build, image: ImageSpec) -> Objective:
    with global_seed(0):
        objective = task.build_objective(backbone(task.image_spec(image)), DataInfo(image, NUM_IMAGES))
    require(isinstance(objective, Objective), "build_objective must return an Objective")
    return objective


def _check_attributes(objective: Objective) -> None:
    phases, modules = objective.phases, dict(objective.named_modules())
    require(isinstance(phases, tuple) and phases and all(isinstance(phase, str) for phase in phases), "phases must be a tuple of names")
    require(
        objective.heldout_phase in (None, *phases), f"heldout_phase must be one of its phases or None, and is {objective.heldout_phase!r}"
    )
    for name in objective.frozen:
        require(name in modules, f"frozen names {name!r}, which is no submodule of the objective")
    groups = objective.parameter_groups()
    require(set(groups) == set(phases), f"parameter_groups must have one entry for each phase: {', '.join(phases)}")
    trained = {id(parameter) for group in groups.values() for part in group for parameter in part["params"]}
    idle = [name for name, parameter in objective.named_parameters() if parameter.requires_grad and id(parameter) not in trained]
    require(not idle, f"no phase trains {', '.join(idle)}: add to parameter_groups, or set requires_grad_(False)")


def _check_objective(objective: Objective, image: ImageSpec, without_gradient: tuple[str, ...]) -> None:
    """One batch by hand, after what ``fit`` does at the start of an epoch."""
    state = TrainState(objective, _loader(image), TRAINING, cpu_context("pretrain"))
    state.begin_epoch()
    batch = Batch(random_images(image, TRAINING.batch_size), torch.arange(TRAINING.batch_size))
    for train in (True, False):
        _check_views(objective, batch, train=train)
    trained = _check_training(objective, _views(objective, batch, train=True), state, without_gradient)
    views, before = _views(objective, batch, train=False), state_of(objective.eval())
    for phase, names in trained.items():
        with torch.no_grad():
            output = objective(views, Step(phase, state.schedule_tensors))
        _check_output(output, objective.classes)
        different = ", ".join(sorted(names ^ {*output.metrics, *output.predictions}))
        promise = f"phase {phase!r} must have the same metrics and predictions in eval mode as in training"
        require(not different, f"{promise}: {different} is in one alone")
    check_same(state_of(objective), before, "forward must not change buffers in eval mode")


def _views(objective: Objective, batch: Batch, *, train: bool, seed: int = 0) -> dict[str, Tensor]:
    """The views of one state of their generator, whatever that of the global one."""
    with torch.no_grad(), global_seed(seed):
        return objective.make_views(batch, make_generator(0), train=train)


def _check_views(objective: Objective, batch: Batch, *, train: bool) -> None:
    pixels = batch.images.clone()
    first, second = (_views(objective, batch, train=train, seed=seed) for seed in (0, 1))
    tensors = isinstance(first, dict) and first and all(isinstance(view, Tensor) for view in first.values())
    require(tensors, "make_views must return a dict of tensors")
    require(torch.equal(batch.images, pixels), "make_views must not write into the batch: copy what you change")
    same = first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    require(same, "make_views must draw from its generator alone: two calls with the same generator state differ")
    _check_order(objective, batch, first, train=train)
    if not train and objective.heldout_phase is not None:
        others = _views(objective, batch._replace(indices=batch.indices.flip(0)), train=False)
        same = all(torch.equal(others[name], first[name]) for name in first)
        require(same, "held-out images have other indices than training images: look nothing up by them, or set heldout_phase = None")


def _check_order(objective: Objective, batch: Batch, views: dict[str, Tensor], *, train: bool) -> None:
    """Change one image after the other, and see which rows of the views change with it."""
    num_images = len(batch.images)
    for changed in range(num_images):
        images = batch.images.clone()
        images[changed] = 255 - images[changed]
        for name, view in _views(objective, batch._replace(images=images), train=train).items():
            if view.ndim != 4 or len(view) % num_images or view.shape != views[name].shape:  # no tensor of images
                continue
            rows = (view != views[name]).flatten(1).any(dim=1).nonzero()[:, 0]
            others = [f"{row} (of image {row % num_images})" for row in rows.tolist() if row % num_images != changed]
            promise = f"make_views must make row i of {name!r} from image i % N alone, view after view as torch.cat of k views has it"
            require(not others, f"{promise}: with N = {num_images}, image {changed} changes row {', '.join(others)}")


def _check_training(
    objective: Objective, views: dict[str, Tensor], state: TrainState, without_gradient: tuple[str, ...]
) -> dict[str, set[str]]:
    """One pass a phase with gradients. Returns the names of each one's metrics and predictions."""
    names = {id(parameter): name for name, parameter in objective.named_parameters()}
    groups = objective.parameter_groups()
    measured: dict[str, set[str]] = {}
    objective.train()
    for phase in objective.phases:
        objective.on_before_step(phase, state)
        objective.zero_grad(set_to_none=True)
        output = objective(views, Step(phase, state.schedule_tensors))
        _check_output(output, objective.classes)
        measured[phase] = {*output.metrics, *output.predictions}
        require(output.loss.requires_grad, f"the loss of phase {phase!r} depends on nothing that is trained")
        output.loss.backward()
        bare = [names[id(parameter)] for group in groups[phase] for parameter in group["params"] if parameter.grad is None]
        missed = [name for name in bare if not any(name.startswith(prefix) for prefix in without_gradient)]
        require(not missed, f"phase {phase!r} trains {', '.join(missed)}, which no gradient reaches; if rightly so: without_gradient=[...]")
        with torch.no_grad():
            objective.on_after_backward(phase, state)
    return measured


def _check_output(output: StepOutput, classes: tuple[str, ...]) -> None:
    require(isinstance(output, StepOutput), "forward must return a StepOutput")
    require(output.loss.ndim == 0, f"the loss must be a scalar, and has the shape {tuple(output.loss.shape)}")
    require(output.loss.isfinite(), f"the loss must be finite, and is {float(output.loss.detach())}")
    for name, mean in output.metrics.items():
        scalars = isinstance(mean, Mean) and isinstance(mean.total, Tensor) and mean.total.ndim == torch.as_tensor(mean.num).ndim == 0
        require(scalars, f"metric {name!r} must be a Mean of scalars: Mean.of(x)")
        require(not mean.total.requires_grad, f"metric {name!r} must be detached: Mean.of(x)")
        require(math.isfinite(float(mean.total / mean.num)), f"metric {name!r} must be finite")
    for name, (logits, targets) in output.predictions.items():
        require(not logits.requires_grad, f"prediction {name!r} must be detached")
        fits = logits.ndim == 2 and targets.shape == logits.shape[:1] and not targets.is_floating_point()
        require(fits, f"prediction {name!r} must be logits (M, K) and targets (M,)")
        num_logits = logits.shape[1]
        require(int(targets.max()) < num_logits, f"prediction {name!r} has targets beyond its {num_logits} classes")
        require(
            not classes or len(classes) == num_logits, f"classes names {len(classes)}, and prediction {name!r} has logits of {num_logits}"
        )
        whole = len(targets) % TRAINING.batch_size == 0
        require(
            whole, f"prediction {name!r} must be of every view of every image, and is of {len(targets)} for {TRAINING.batch_size} images"
        )


def _check_resuming(make: Make, image: ImageSpec) -> None:
    whole, resumed = make(), make()
    with TemporaryDirectory() as folder:
        expected = _fit(whole, image, Path(folder, "whole"))
        with suppress(RunInterruptedError):
            _fit(make(), image, Path(folder, "parts"), stop_after=STOP_AFTER)
        found = _fit(resumed, image, Path(folder, "parts"))
    promise = "a resumed run must end with the same bits: keep what training changes in parameters and persistent buffers"
    check_same(state_of(resumed), state_of(whole), promise)
    require(found[:2] == expected[:2], f"{promise}; the held-out metrics differ")


def _check_exported(objective: Objective, fresh: Backbone, images: Tensor) -> None:
    exported = objective.exported_backbone()
    require(isinstance(exported, Backbone), "exported_backbone must return a Backbone")
    promise = "exported_backbone must have the architecture that the task was given: later stages build that again and load the state"
    load_state(fresh, exported.state_dict(), promise)
    with torch.no_grad():
        features = exported.eval().embed(images)
        require(torch.equal(fresh.eval().embed(images), features), f"{promise}; its features differ")
    require(features.isfinite().all(), "the features of the exported backbone must be finite")


def _fit(objective: Objective, image: ImageSpec, folder: Path, *, stop_after: float = float("inf")) -> FitResult:
    context = cpu_context("pretrain", folder, stop_after=stop_after)
    return fit(objective, _loader(image), _loader(image, seed=1), TRAINING, context, evaluate_every=1)


def _loader(image: ImageSpec, *, seed: int = 0) -> Loader:
    return Loader(image_set(image, NUM_IMAGES, seed=seed), batch_size=TRAINING.batch_size, device=CPU, options=TRAINING.augment)
