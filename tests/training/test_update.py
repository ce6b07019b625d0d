"""One optimizer step: batches in parts, the hook before the step, batches that are left out; all of it interrupted and resumed."""

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn

from sslkit import (
    LARS,
    SGD,
    Adam,
    AdamW,
    Augment,
    Batch,
    Cosine,
    Mean,
    OptionError,
    RunFailedError,
    RunInterruptedError,
    StepEnd,
    StepOutput,
    TrainingOptions,
    fit,
)
from sslkit.data.loader import Loader
from tests.contract.contexts import make_context
from tests.contract.families import FAMILIES, build
from tests.contract.miniatures.images import tiny_images
from tests.training.brightness import CPU, Brightness, assert_same_state, interrupt, logged, run, short, stop_after, watched

# ------------------------------------------------------------------------------------------------------- batches in parts


class Parted(Brightness):
    """Remembers the parts, and counts its hooks. Metrics: a mean over images, and over some of them. Its BatchNorms are
    frozen: their statistics would be those of a part.
    """

    frozen = ("backbone.stem.1", "backbone.body.1")

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[Tensor] = []
        self.hooks: list[str] = []

    def make_views(self, batch: Batch, generator: Generator, *, train: bool) -> dict[str, Tensor]:
        self.parts.append(batch.indices)
        return super().make_views(batch, generator, train=train)

    def forward(self, views, step) -> StepOutput:
        output = super().forward(views, step)
        dark = views["targets"] < 0.5
        own = {"dark": Mean(dark.sum(), len(dark)), "of_the_dark": Mean((views["targets"] * dark).sum(), dark.sum())}
        return output._replace(metrics={**output.metrics, **own})

    def on_before_step(self, phase, context) -> None:
        self.hooks.append("before")

    def on_after_backward(self, phase, context) -> None:
        self.hooks.append("backward")

    def on_after_step(self, phase, context) -> None:
        self.hooks.append("after")


@pytest.mark.parametrize("optimizer", [SGD(lr=0.1), AdamW(lr=0.01), LARS(lr=1.0)], ids=lambda factory: type(factory).__name__)
@pytest.mark.parametrize("parts", [2, 4, 8])
def test_a_batch_in_parts_is_the_batch(optimizer: Any, parts: int):
    """The last batch of an epoch has 6 images: 4 and 2, three times 2, or six of one."""
    whole, parted = Parted(), Parted()
    options = {"optimizer": optimizer, "clip_grad_norm": 0.1, "augment": Augment(horizontal_flip=True)}
    expected = watched(whole, short(**options), log_every=2)
    found = watched(parted, short(accumulate_batches=parts, **options), log_every=2)
    torch.testing.assert_close(dict(parted.named_parameters()), dict(whole.named_parameters()), rtol=1e-4, atol=1e-5)
    for name in ("loss", "gradient_norm", "too_bright", "of_the_dark"):
        assert logged(found, name) == pytest.approx(logged(expected, name), rel=1e-4, abs=1e-6)
    assert logged(found, "dark") == logged(expected, "dark"), "an exact mean of integers"
    assert [event.num_images for event in found if isinstance(event, StepEnd)] == [8, 8, 6] * 3
    assert torch.equal(torch.cat(parted.parts), torch.cat(whole.parts))
    assert [len(part) for part in parted.parts[: parts + 1]] == [*[8 // parts] * parts, 8 // parts]
    assert parted.hooks == whole.hooks == ["before", "backward", "after"] * 9


def test_an_image_that_is_alone_joins_a_part():
    objective = Parted()
    loader = Loader(tiny_images(9), batch_size=4, device=CPU)
    fit(objective, loader, None, short(epochs=1, batch_size=4, accumulate_batches=2), make_context())
    assert [len(part) for part in objective.parts] == [2, 2, 2, 3]


def test_every_phase_trains_on_the_same_views_in_parts():
    whole, parted = build(FAMILIES["gan"]), build(FAMILIES["gan"])
    run(whole, short(epochs=1, optimizer=SGD(lr=0.01)))
    views: list[int] = []
    forward = parted.forward
    parted.forward = lambda given, step: (views.append(id(given)), forward(given, step))[1]
    run(parted, short(epochs=1, accumulate_batches=2, optimizer=SGD(lr=0.01)))
    assert views[:2] == views[2:4]
    assert all(tensor.isfinite().all() for tensor in parted.state_dict().values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"accumulate_batches": 0}, "accumulate_batches: must be positive; found 0; allowed: 1 or more"),
        ({"batch_size": 10, "accumulate_batches": 4}, "accumulate_batches: must divide batch_size, 10, into equal parts; found 4"),
        ({"lr_scaling": "cubic"}, "lr_scaling: must be 'none' or 'linear' or 'sqrt'; found 'cubic'"),
        ({"drop_last": 1}, "drop_last: must be true or false; found 1"),
    ],
)
def test_wrong_options_are_one_line(options: dict[str, Any], message: str):
    with pytest.raises(OptionError) as caught:
        TrainingOptions(**options)
    assert str(caught.value) == message


# ------------------------------------------------------------------------------------------------- between backward and step


class Frozen(Brightness):
    """Its head is not trained in the first epoch: gradients are cancelled in either way. Remembers norms of gradients."""

    def __init__(self, *, none: bool = False, factor: float = 1.0) -> None:
        super().__init__()
        self.none, self.factor = none, factor
        self.heads: list[Tensor] = []
        self.graphs: list[bool] = []
        self.norms: list[float] = []

    def on_before_step(self, phase, context) -> None:
        self.heads.append(self.head.weight.detach().clone())

    def on_after_backward(self, phase, context) -> None:
        self.graphs.append(torch.is_grad_enabled())
        gradient = self.head.weight.grad
        assert gradient is not None
        self.norms.append(float(gradient.norm()))
        for parameter in self.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(self.factor)
        for parameter in self.head.parameters():
            if context.epoch == 0:
                parameter.grad = None if self.none else torch.zeros_like(parameter)


@pytest.mark.parametrize("precision", [None, torch.float16], ids=["float32", "float16"])
@pytest.mark.parametrize("none", [True, False])
def test_gradients_may_be_cancelled_before_the_step(none: bool, precision: torch.dtype | None):
    objective = Frozen(none=none)
    run(objective, short(optimizer=SGD(lr=0.1, weight_decay=0.0)), autocast=precision)
    moved = [not torch.equal(one, other) for one, other in zip(objective.heads, objective.heads[1:], strict=False)]
    assert moved == [False] * 3 + [True] * 5
    assert not any(objective.graphs)


def test_the_hook_sees_unscaled_gradients_before_they_are_clipped():
    sizes, norms = [], []
    for options in ({}, {"autocast": torch.float16}):
        objective = Frozen(factor=100.0)
        events = watched(objective, short(epochs=1, clip_grad_norm=1e-6), log_every=1, **options)
        sizes.append(objective.norms)
        norms.append(logged(events, "gradient_norm"))
    assert sizes[0] == pytest.approx(sizes[1], rel=0.05)
    assert norms[0] == pytest.approx(norms[1], rel=0.05), "and what is logged is what the hook has left"
    assert norms[0][0] > 50 * sizes[0][0]


# ------------------------------------------------------------------------------------------------------------ full batches


class Full(Parted):
    full_batches = True


def test_a_method_that_needs_full_batches_gets_no_other():
    objective = Full()
    assert run(objective).steps == 6
    assert [len(part) for part in objective.parts] == [8] * 6
    assert len(torch.cat(objective.parts[:2]).unique()) == 16
    with pytest.raises(OptionError, match=r"^drop_last: Full needs full batches; found False; leave it out$"):
        run(Full(), short(drop_last=False))
    with pytest.raises(OptionError, match=r"^batch_size: is larger than the data \(22 images\); found 24; allowed: 1 to 22$"):
        run(Full(), short(batch_size=24))


def test_the_last_batch_may_be_dropped_and_what_is_measured_is_whole():
    objective = Parted()
    assert run(objective, short(epochs=1, drop_last=True), tiny_images(9)).steps == 2
    assert [len(part) for part in objective.parts] == [8, 8, 8, 1]


def test_an_epoch_of_less_than_a_full_batch_is_refused():
    class Few(Full):
        def epoch_indices(self, context) -> Tensor:
            return torch.arange(7)

    with pytest.raises(
        RunFailedError, match=r"^stage 'pretrain': \S+Few of test_update\.py: epoch_indices chose less than a full batch; found 7;"
    ):
        run(Few())


# ---------------------------------------------------------------------------------------------------------------- resuming

RESUMED: dict[str, dict[str, Any]] = {
    "lars classic": {"optimizer": LARS(lr=2.0, final_weight_decay=0.1)},
    "lars larc": {"optimizer": LARS(lr=2.0, flavour="larc", weight_decay=0.1)},
    "lars larc_clip, accumulated": {"optimizer": LARS(lr=0.1, flavour="larc_clip", eta=0.02), "accumulate_batches": 2},
    "adam, scaled, clipped": {"optimizer": Adam(lr=0.3, weight_decay=0.1), "lr_scaling": "linear", "clip_grad_norm": 0.1},
    "adamw, moving decay, excluded": {"optimizer": AdamW(lr=0.01, final_weight_decay=0.4, exclude_norm_and_bias=True)},
    "sgd, dropped": {"optimizer": SGD(lr=0.1, exclude_norm_and_bias=True), "drop_last": True, "lr_scaling": "sqrt"},
    "sgd, float16": {"optimizer": SGD(lr=0.1), "autocast": torch.float16},
    "lars, float16, accumulated, clipped": {"optimizer": LARS(), "autocast": torch.float16, "accumulate_batches": 4, "clip_grad_norm": 0.1},
}


class Everything(Brightness):
    """Dropout, a hook that changes gradients, and a loss scale that falls at first."""

    def __init__(self) -> None:
        super().__init__(dropout=0.3)
        self.norm = nn.GroupNorm(1, 8)

    def forward(self, views, step) -> StepOutput:
        error = self.head(self.norm(self.backbone.embed(views["images"]))).squeeze(1) - views["targets"]
        nothing = (self.head.bias - self.head.bias.detach()).sum()
        if self.training:
            nothing.register_hook(lambda gradient: (2 * gradient).half().float())
        return StepOutput(error.square().mean() + nothing, {"error": Mean.of(error)})

    def on_after_backward(self, phase, context) -> None:
        for parameter in self.backbone.parameters():
            if context.step % 3 == 0 and parameter.grad is not None:
                parameter.grad.zero_()


@pytest.mark.parametrize("name", RESUMED)
def test_an_interrupted_training_ends_with_the_same_bits(name: str, tmp_path: Path):
    options = {"schedule": Cosine(warmup_epochs=1), "augment": Augment(crop_padding=1, horizontal_flip=True), **RESUMED[name]}
    context = {"autocast": options.pop("autocast", None)}
    training = short(**options)
    whole, resumed = Everything(), Everything()
    expected = run(whole, training, tiny_images(5), **context)
    for steps in (1, 3):
        interrupt(steps, Everything(), training, folder=tmp_path, **context)
    assert run(resumed, training, tiny_images(5), folder=tmp_path, **context) == expected
    assert_same_state(resumed, whole)


@pytest.mark.parametrize("images", [17, 18])
def test_a_training_with_a_short_last_batch_in_parts_ends_with_the_same_bits_wherever_it_stops(images: int, tmp_path: Path):
    training = short(epochs=1, accumulate_batches=2, optimizer=SGD(lr=0.1))

    def train(objective: Everything, **options: Any) -> None:
        fit(objective, Loader(tiny_images(images), batch_size=8, device=CPU), None, training, make_context(**options))

    whole = Everything()
    train(whole)
    for steps in (1, 2):
        resumed = Everything()
        with contextlib.suppress(RunInterruptedError):
            train(Everything(), folder=tmp_path / str(steps), should_stop=stop_after(steps))
        train(resumed, folder=tmp_path / str(steps))
        assert_same_state(resumed, whole)
