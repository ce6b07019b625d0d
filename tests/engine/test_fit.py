import copy
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Generator, Tensor, nn

import sslkit.engine.fit as module
from sslkit import (
    SGD,
    ArtifactError,
    Augment,
    BackboneError,
    Batch,
    CheckpointSaved,
    Constant,
    FitStart,
    HeldoutEnd,
    Mean,
    Objective,
    OptionError,
    RunContext,
    RunFailedError,
    RunInterruptedError,
    Step,
    StepEnd,
    StepOutput,
    Training,
    fit,
)
from sslkit.data.loader import Loader
from sslkit.engine.checkpoint import load_tensors
from sslkit.engine.fit import FitResult
from sslkit.engine.randomness import derive_seed, global_seed, make_generator
from sslkit.engine.state import TrainState
from sslkit.events import Event
from tests.contract.miniatures.backbones import TinyConv
from tests.contract.miniatures.images import TinyImages, tiny_images

CPU = torch.device("cpu")
IMAGES = tiny_images(22)
PLAIN_SGD = SGD(lr=0.1, momentum=0.9, nesterov=False, weight_decay=0.01)


class Brightness(Objective):
    """Regress the mean brightness of an image.

    Args:
        poisoned_step: the loss of this training step is NaN.
    """

    heldout_phase = "main"

    def __init__(self, *, dropout: float = 0.0, poisoned_step: int = 0) -> None:
        with global_seed(0):
            super().__init__(TinyConv(IMAGES.image, dropout=dropout))
            self.head = nn.Linear(8, 1)
        self.steps_to_poison = poisoned_step

    def make_views(self, batch: Batch, generator: Generator, *, train: bool) -> dict[str, Tensor]:
        targets = batch.images.float().mean(dim=(1, 2, 3)) / 255
        if train:
            self.steps_to_poison -= 1
            targets = targets * float("nan") if self.steps_to_poison == 0 else targets
        return {"images": batch.images, "targets": targets}

    def forward(self, views: dict[str, Tensor], phase: str, schedule: Mapping[str, Tensor]) -> StepOutput:
        error = self.head(self.backbone.embed(views["images"])).squeeze(1) - views["targets"]
        return StepOutput(error.square().mean(), {"too_bright": Mean.of((error > 0) * 100.0)})


def context_with(**options: object) -> RunContext:
    defaults: dict = {"stage": "pretrain", "seed": 3, "device": CPU, "checkpoint_minutes": 1e9, "channels_last": False}
    return RunContext(**{**defaults, **options})


def run(
    objective: Objective,
    training: Training | None = None,
    heldout: TinyImages | None = None,
    *,
    evaluate_every: int | None = None,
    **options: object,
) -> FitResult:
    """Three epochs of three steps of 8, 8 and 6 images."""
    training = training or Training(epochs=3, batch_size=8, optimizer=PLAIN_SGD, schedule=Constant())
    loader = Loader(IMAGES, batch_size=training.batch_size, device=CPU, options=training.augment)
    measured = None if heldout is None else Loader(heldout, batch_size=8, device=CPU)
    return fit(objective, loader, measured, training, context_with(**options), evaluate_every=evaluate_every)


def stop_after(steps: int) -> Callable[[], bool]:
    answers = iter([False] * (steps - 1) + [True])
    return lambda: next(answers)


def naive_orders(epochs: int) -> list[list[Tensor]]:
    """The batches of each epoch, as indices."""
    generator = make_generator(derive_seed(3, "pretrain", "", "order"))
    orders = [torch.randperm(22, generator=generator) for _ in range(epochs)]
    return [[order[:8], order[8:16], order[16:]] for order in orders]


def assert_same_state(one: nn.Module, two: nn.Module) -> None:
    for (name, a), (_, b) in zip(one.state_dict().items(), two.state_dict().items(), strict=True):
        assert torch.equal(a, b), name


# ------------------------------------------------------------------------------------------------- steps against plain torch


def naive_fit(
    objective: Brightness, groups: list[dict], learning_rate: Callable[[float], float], pixels: Callable[[Tensor], Tensor]
) -> list[float]:
    """The loop that everybody writes; returns the losses."""
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9, weight_decay=0.01)
    base = [group["lr"] for group in optimizer.param_groups]
    losses = []
    objective.train()
    for epoch, batches in enumerate(naive_orders(3)):
        for i, indices in enumerate(batches):
            for group, rate in zip(optimizer.param_groups, base, strict=True):
                group["lr"] = rate * learning_rate(epoch + i / 3)
            images = pixels(indices)
            features = objective.backbone.extract((images / 255 - 0.5) / 0.25, ["body"])["body"].mean(dim=(2, 3))
            loss = (objective.head(features)[:, 0] - images.float().mean(dim=(1, 2, 3)) / 255).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
    return losses


def plain_pixels(indices: Tensor) -> Tensor:
    return IMAGES.read(indices.tolist())


def logged(events: list[Event], name: str = "loss") -> list[float]:
    return [event.metrics[name] for event in events if isinstance(event, StepEnd) and event.metrics]


def test_steps_equal_a_plain_torch_loop():
    ours, theirs = Brightness(), Brightness()
    events: list[Event] = []
    training = Training(epochs=3, batch_size=8, optimizer=PLAIN_SGD, schedule=Step(milestones=(1.5,), gamma=0.1))
    result = run(ours, training, log_every=1, emit=events.append)
    losses = naive_fit(theirs, [{"params": theirs.parameters()}], lambda epoch: 0.1 if epoch >= 1.5 else 1.0, plain_pixels)
    assert result.steps == len(losses) == 9
    assert logged(events) == losses
    assert logged(events, "lr") == pytest.approx([0.1] * 5 + [0.01] * 4)
    assert_same_state(ours, theirs)


def test_augmentation_is_drawn_from_a_generator_of_its_own():
    generator = make_generator(derive_seed(3, "pretrain", "", "augment"))

    def naive_augment(indices: Tensor) -> Tensor:
        images = plain_pixels(indices)
        top, left = torch.randint(0, 5, (2, len(images)), generator=generator)
        flips = torch.rand(len(images), generator=generator) < 0.5
        padded = nn.functional.pad(images, [2] * 4)
        crops = [image[:, t : t + 16, x : x + 16] for image, t, x in zip(padded, top, left, strict=True)]
        return torch.stack([crop.flip(2) if flip else crop for crop, flip in zip(crops, flips, strict=True)])

    ours, theirs = Brightness(), Brightness()
    augment = Augment(crop_padding=2, horizontal_flip=True)
    run(ours, Training(epochs=3, batch_size=8, optimizer=PLAIN_SGD, schedule=Constant(), augment=augment))
    naive_fit(theirs, [{"params": theirs.parameters()}], lambda _: 1.0, naive_augment)
    assert_same_state(ours, theirs)


class Grouped(Brightness):
    def parameter_groups(self) -> dict[str, list[dict]]:
        return {
            "main": [
                {"params": list(self.backbone.parameters()), "lr_scale": 0.5},
                {"params": list(self.head.parameters()), "weight_decay": 0.2},
            ]
        }


def test_groups_have_their_own_rate_and_weight_decay():
    ours, theirs = Grouped(), Grouped()
    run(ours, Training(epochs=3, batch_size=8, optimizer=PLAIN_SGD, schedule=Step(milestones=(1,), gamma=0.1)))
    groups = [{"params": theirs.backbone.parameters(), "lr": 0.05}, {"params": theirs.head.parameters(), "weight_decay": 0.2}]
    naive_fit(theirs, groups, lambda epoch: 0.1 if epoch >= 1 else 1.0, plain_pixels)
    assert_same_state(ours, theirs)


class TwoPhases(Brightness):
    """Each phase's gradients reach the other phase's parameters too."""

    phases = ("head", "backbone")

    def forward(self, views: dict[str, Tensor], phase: str, schedule: Mapping[str, Tensor]) -> StepOutput:
        assert all(parameter.grad is None for parameter in self.parameters())
        return super().forward(views, phase, schedule)

    def parameter_groups(self) -> dict[str, list[dict]]:
        return {phase: [{"params": list(self.get_submodule(phase).parameters())}] for phase in self.phases}


def test_each_phase_has_its_optimiser_and_starts_without_gradients():
    ours, theirs = TwoPhases(), TwoPhases()
    events: list[Event] = []
    head_sgd = SGD(lr=0.3, momentum=0.0, nesterov=False, weight_decay=0.0)
    training = Training(epochs=3, batch_size=8, optimizer={"backbone": PLAIN_SGD, "head": head_sgd}, schedule=Constant())
    run(ours, training, log_every=9, emit=events.append)

    optimizers = {
        "head": torch.optim.SGD(theirs.head.parameters(), lr=0.3),
        "backbone": torch.optim.SGD(theirs.backbone.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01),
    }
    theirs.train()
    for indices in [batch for batches in naive_orders(3) for batch in batches]:
        for phase in ("head", "backbone"):
            theirs.zero_grad(set_to_none=True)
            batch = Batch(plain_pixels(indices), indices)
            theirs(theirs.make_views(batch, Generator(), train=True), phase, {}).loss.backward()
            optimizers[phase].step()
    assert_same_state(ours, theirs)
    step = next(event for event in events if isinstance(event, StepEnd) and event.metrics)
    assert {"head_loss", "backbone_loss", "head_too_bright", "backbone_too_bright", "lr"} < set(step.metrics)


def test_a_phase_without_optimiser_is_an_error():
    with pytest.raises(OptionError, match=r"^optimizer: no optimiser for phase 'backbone'; found \['head'\]"):
        run(TwoPhases(), Training(epochs=1, batch_size=8, optimizer={"head": SGD()}))


def test_channels_last_changes_the_layout_and_nothing_else():
    plain, channels_last = Brightness(), Brightness()
    run(plain)
    run(channels_last, channels_last=True)
    for name, parameter in channels_last.named_parameters():
        if parameter.ndim == 4:
            assert parameter.is_contiguous(memory_format=torch.channels_last), name
        torch.testing.assert_close(parameter, dict(plain.named_parameters())[name], rtol=1e-4, atol=1e-5)


def test_momenta_have_their_parameters_layout_again_after_resuming(tmp_path: Path):
    seen: list[bool] = []

    class Watching(Brightness):
        def on_before_step(self, phase, context) -> None:
            assert isinstance(context, TrainState)
            entries = context.optimizers["main"].state.items()
            seen.extend(value["momentum_buffer"].stride() == parameter.stride() for parameter, value in entries)

    with pytest.raises(RunInterruptedError):
        run(Brightness(), channels_last=True, folder=tmp_path, should_stop=stop_after(4))
    run(Watching(), channels_last=True, folder=tmp_path)
    assert seen
    assert all(seen)


# --------------------------------------------------------------------------------------------------------------- randomness


def test_the_global_random_state_is_neither_used_nor_changed():
    trained = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        trained.append(Brightness(dropout=0.5))
        run(trained[-1])
        assert torch.equal(torch.get_rng_state(), before)
    assert_same_state(*trained)


@pytest.mark.parametrize("changed", [{"seed": 4}, {"stage": "other"}, {"part": "k20"}])
def test_seed_stage_and_part_make_other_draws(changed: dict):
    one, two = Brightness(), Brightness()
    run(one)
    run(two, **changed)
    assert not torch.equal(one.head.weight, two.head.weight)


def test_measuring_does_not_change_training():
    quiet, measured = Brightness(dropout=0.5), Brightness(dropout=0.5)
    run(quiet)
    run(measured, heldout=tiny_images(10, seed=1), evaluate_every=1)
    assert_same_state(quiet, measured)


# ---------------------------------------------------------------------------------------------------- metrics and the events


def test_held_out_metrics_are_exact_on_an_uneven_last_batch():
    objective = Brightness(dropout=0.5)
    heldout = tiny_images(11, seed=1)
    result = run(objective, heldout=heldout)
    objective.eval()
    pixels = heldout.read(range(11))
    with torch.no_grad():
        errors = objective.head(objective.backbone.embed(pixels))[:, 0] - pixels.float().mean(dim=(1, 2, 3)) / 255
    assert result.heldout["too_bright"] == int((errors > 0).sum()) / 11 * 100
    assert result.heldout["loss"] == pytest.approx(float(errors.square().mean()), rel=1e-5)


class FirstBatchLoss(Brightness):
    def forward(self, views: dict[str, Tensor], phase: str, schedule: Mapping[str, Tensor]) -> StepOutput:
        bfloat16 = super().forward(views, phase, schedule).loss.bfloat16() * 0
        return StepOutput(bfloat16 + (len(views["images"]) > 1), {})


def test_counts_are_exact_where_bfloat16_is_not():
    training = Training(epochs=1, batch_size=22)
    images = Loader(tiny_images(258, size=4), batch_size=257, device=CPU)
    result = fit(FirstBatchLoss(), Loader(IMAGES, batch_size=22, device=CPU), images, training, context_with())
    assert result.heldout["loss"] == 257 / 258


def test_held_out_images_are_seen_in_eval_mode_with_the_same_draws():
    draws: list[float] = []
    modes: list[bool] = []

    class Drawing(Brightness):
        def make_views(self, batch: Batch, generator: Generator, *, train: bool) -> dict[str, Tensor]:
            if not train:
                draws.append(float(torch.rand((), generator=generator)))
                modes.append(self.backbone.training)
            return super().make_views(batch, generator, train=train)

    run(Drawing(), heldout=tiny_images(11, seed=1), evaluate_every=1)
    assert len(draws) == 6
    assert draws[:2] == draws[2:4] == draws[4:]
    assert len(set(draws)) == 2
    assert not any(modes)


def test_an_objective_without_heldout_phase_is_not_measured():
    class Unmeasured(Brightness):
        heldout_phase = None

    events: list[Event] = []
    assert run(Unmeasured(), heldout=tiny_images(4), emit=events.append).heldout == {}
    assert not any(isinstance(event, HeldoutEnd) for event in events)
    assert run(Brightness()).heldout == {}


@pytest.mark.parametrize(("every", "epochs"), [(1, [1.0, 2.0, 3.0]), (2, [2.0, 3.0]), (3, [3.0]), (None, [1.0, 2.0, 3.0])])
def test_held_out_images_are_measured_every_so_many_epochs_and_at_the_end(every: int | None, epochs: list[float]):
    events: list[Event] = []
    result = run(Brightness(), heldout=tiny_images(4), evaluate_every=every, emit=events.append)
    measured = [event for event in events if isinstance(event, HeldoutEnd)]
    assert [event.epoch for event in measured] == epochs
    assert [event.step for event in measured] == [3 * epoch for epoch in epochs]
    assert measured[-1].metrics == result.heldout


def test_by_default_they_are_measured_ten_times():
    events: list[Event] = []
    training = Training(epochs=20, batch_size=22, optimizer=PLAIN_SGD)
    run(Brightness(), training, heldout=tiny_images(4), emit=events.append)
    assert [event.epoch for event in events if isinstance(event, HeldoutEnd)] == [*range(2, 21, 2)]


def test_metrics_are_means_since_they_were_last_read():
    every_step: list[Event] = []
    every_other: list[Event] = []
    run(Brightness(), log_every=1, emit=every_step.append)
    run(Brightness(), log_every=2, emit=every_other.append)
    losses = logged(every_step)
    assert logged(every_other) == pytest.approx([(losses[i] + losses[i + 1]) / 2 for i in (0, 2, 4, 6)], rel=1e-12)
    steps = [event for event in every_other if isinstance(event, StepEnd)]
    assert [event.step for event in steps if event.metrics] == [2, 4, 6, 8]
    assert all(event.metrics["images_per_second"] > 0 for event in steps if event.metrics)
    bright = logged(every_step, "too_bright")
    assert logged(every_other, "too_bright")[1] == pytest.approx((6 * bright[2] + 8 * bright[3]) / 14)


def told(events: list[Event]) -> list[tuple[str, int]]:
    return [(type(event).__name__, event.step) for event in events if isinstance(event, FitStart | StepEnd | HeldoutEnd | CheckpointSaved)]


def test_events_tell_the_story_in_order(tmp_path: Path):
    events: list[Event] = []
    training = Training(epochs=2, batch_size=8, optimizer=PLAIN_SGD)
    run(Brightness(), training, tiny_images(4), evaluate_every=1, emit=events.append, folder=tmp_path, part="k20")
    steps = [("StepEnd", step) for step in range(1, 7)]
    end = [("CheckpointSaved", 6), ("HeldoutEnd", 6)]
    assert told(events) == [("FitStart", 0), *steps[:3], ("HeldoutEnd", 3), *steps[3:], *end]
    assert {(event.stage, getattr(event, "part", None)) for event in events} == {("pretrain", "k20")}
    start, first, *_ = events
    assert start == FitStart(stage="pretrain", part="k20", step=0, num_steps=6, num_epochs=2)
    assert first == StepEnd(stage="pretrain", part="k20", step=1, epoch=1 / 3, num_images=8, metrics={})
    assert [event.num_images for event in events if isinstance(event, StepEnd)] == [8, 8, 6] * 2
    assert [event.path for event in events if isinstance(event, CheckpointSaved)] == [tmp_path / "checkpoint-k20.safetensors"]


def test_a_resumed_fit_says_where_it_goes_on(tmp_path: Path):
    with pytest.raises(RunInterruptedError, match="stopped in stage 'pretrain' after 4 steps"):
        run(Brightness(), folder=tmp_path, should_stop=stop_after(4))
    events: list[Event] = []
    assert run(Brightness(), folder=tmp_path, emit=events.append).steps == 9
    assert events[0] == FitStart(stage="pretrain", part="", step=4, num_steps=9, num_epochs=3)
    assert told(events) == [("FitStart", 4), *[("StepEnd", step) for step in range(5, 10)], ("CheckpointSaved", 9)]


def test_a_mean_goes_on_after_resuming(tmp_path: Path):
    whole: list[Event] = []
    parts: list[Event] = []
    run(Brightness(), log_every=4, emit=whole.append)
    with pytest.raises(RunInterruptedError):
        run(Brightness(), log_every=4, emit=parts.append, folder=tmp_path, should_stop=stop_after(3))
    run(Brightness(), log_every=4, emit=parts.append, folder=tmp_path)
    assert logged(parts) == logged(whole)
    assert logged(parts, "too_bright") == logged(whole, "too_bright")
    assert len(logged(whole)) == 2


# -------------------------------------------------------------------------------------------------- a loss that is not finite


def test_nan_stops_at_the_next_log_and_names_step_rate_and_the_lack_of_a_checkpoint(tmp_path: Path):
    message = (
        r"the loss was not finite at step 5; learning rate about 0\.1; there is no checkpoint yet; "
        r"lower the learning rate or add warmup_epochs"
    )
    events: list[Event] = []
    with pytest.raises(RunFailedError, match=message):
        run(Brightness(poisoned_step=5), log_every=3, folder=tmp_path, emit=events.append)
    assert told(events)[-1] == ("StepEnd", 5)
    assert list(tmp_path.iterdir()) == []


def test_nan_never_reaches_a_checkpoint(tmp_path: Path):
    path = tmp_path / "checkpoint.safetensors"
    with pytest.raises(RunFailedError, match=rf"not finite at step 5; .*; the last checkpoint is {path}"):
        run(Brightness(poisoned_step=5), log_every=1000, folder=tmp_path, checkpoint_minutes=0)
    tensors, state = load_tensors(path)
    assert state["counters"]["step"] == 4
    assert all(tensor.isfinite().all() for tensor in tensors.values())


def test_nan_is_noticed_at_the_end_at_the_latest():
    with pytest.raises(RunFailedError, match="not finite at step 9"):
        run(Brightness(poisoned_step=9), log_every=1000)


def test_the_first_bad_step_is_named_even_if_later_losses_recover():
    class Recovering(Brightness):
        def on_after_step(self, phase, context) -> None:
            for tensor in self.state_dict().values():
                tensor.nan_to_num_()

    with pytest.raises(RunFailedError, match="not finite at step 2"):
        run(Recovering(poisoned_step=2), log_every=1000)


# -------------------------------------------------------------------------------------------------------------- checkpoints


def test_checkpoints_are_written_that_often_and_at_the_end(tmp_path: Path):
    events: list[Event] = []
    run(Brightness(), folder=tmp_path, checkpoint_minutes=0, emit=events.append)
    assert [event.step for event in events if isinstance(event, CheckpointSaved)] == [*range(1, 10), 9]


def test_stopping_without_a_folder_keeps_nothing_and_says_so():
    with pytest.raises(RunInterruptedError, match="after 2 steps"):
        run(Brightness(), should_stop=stop_after(2))


class Scheduled(Brightness):
    """Its loss on held-out images is the schedule's value."""

    def schedules(self) -> dict[str, Callable[[float], float]]:
        return {"value": lambda progress: 1 + progress}

    def forward(self, views: dict[str, Tensor], phase: str, schedule: Mapping[str, Tensor]) -> StepOutput:
        if not self.training:
            return StepOutput(schedule["value"], {})
        return super().forward(views, phase, schedule)


@pytest.mark.parametrize("steps", [2, 3, 9])
def test_held_out_images_see_the_schedule_of_their_moment_also_after_resuming(steps: int, tmp_path: Path):
    whole: list[Event] = []
    parts: list[Event] = []
    run(Scheduled(), heldout=tiny_images(4), evaluate_every=1, emit=whole.append)
    with pytest.raises(RunInterruptedError):
        run(Scheduled(), heldout=tiny_images(4), evaluate_every=1, emit=parts.append, folder=tmp_path, should_stop=stop_after(steps))
    run(Scheduled(), heldout=tiny_images(4), evaluate_every=1, emit=parts.append, folder=tmp_path)
    found, expected = ([event for event in events if isinstance(event, HeldoutEnd)] for events in (parts, whole))
    assert found == expected
    assert [event.metrics["loss"] for event in expected] == pytest.approx([1 + 1 / 3, 1 + 2 / 3, 2.0])


def test_schedules_follow_progress_as_floats_in_hooks_and_tensors_in_forward():
    floats: list[float] = []
    tensors: list[float] = []

    class Watching(Scheduled):
        def on_before_step(self, phase, context) -> None:
            assert type(context.schedule["value"]) is float
            floats.append(context.schedule["value"])
            assert context.progress == pytest.approx(context.step / 9)

        def forward(self, views: dict[str, Tensor], phase: str, schedule: Mapping[str, Tensor]) -> StepOutput:
            assert schedule["value"].shape == ()
            tensors.append(float(schedule["value"]))
            return super().forward(views, phase, schedule)

    run(Watching())
    assert floats == pytest.approx([1 + step / 9 for step in range(9)])
    assert tensors == pytest.approx(floats)


class Probe(Brightness):
    """A frozen trunk that has BatchNorm, under a head."""

    frozen = ("backbone",)

    def __init__(self) -> None:
        super().__init__(dropout=0.5)
        self.backbone.requires_grad_(False)


def test_frozen_parts_do_not_move_and_stay_out_of_checkpoints(tmp_path: Path):
    whole, stopped, resumed = Probe(), Probe(), Probe()
    before = copy.deepcopy(whole.backbone.state_dict())
    run(whole)
    assert all(torch.equal(tensor, before[name]) for name, tensor in whole.backbone.state_dict().items())
    with pytest.raises(RunInterruptedError):
        run(stopped, folder=tmp_path, should_stop=stop_after(4))
    stored = {name for name in load_tensors(tmp_path / "checkpoint.safetensors")[0] if name.startswith("objective.")}
    assert stored == {"objective.head.weight", "objective.head.bias"}
    run(resumed, folder=tmp_path)
    assert_same_state(resumed, whole)


def interrupted(folder: Path) -> Path:
    with pytest.raises(RunInterruptedError):
        run(Brightness(), folder=folder, should_stop=stop_after(4))
    return folder / "checkpoint.safetensors"


def test_a_damaged_checkpoint_is_said_to_be_damaged(tmp_path: Path):
    path = interrupted(tmp_path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ArtifactError, match=r"checkpoint\.safetensors: damaged"):
        run(Brightness(), folder=tmp_path)


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path):
    interrupted(tmp_path)
    other = Brightness()
    other.head = nn.Linear(8, 2)
    with pytest.raises(ArtifactError, match=r"checkpoint: does not fit the model \(.*head\.bias.*\)"):
        run(other, folder=tmp_path)


def test_a_checkpoint_of_other_data_is_refused(tmp_path: Path):
    interrupted(tmp_path)
    loader = Loader(tiny_images(21), batch_size=8, device=CPU)
    with pytest.raises(ArtifactError, match="checkpoint: the number of training images changed; found 21; allowed: 22"):
        fit(Brightness(), loader, None, Training(epochs=3, batch_size=8), context_with(folder=tmp_path))


# ----------------------------------------------------------------------------------------------------------------- compiling


@pytest.fixture
def traced_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trace as on a GPU, but run the graph as it is: a CPU would compile for minutes."""
    torch.compiler.reset()
    monkeypatch.setattr(module, "_compiled", lambda objective: torch.compile(objective, backend="eager", fullgraph=True))


@pytest.mark.usefixtures("traced_only")
def test_compiling_changes_nothing():
    eager, compiled = Brightness(dropout=0.5), Brightness(dropout=0.5)
    assert run(eager, heldout=tiny_images(4)) == run(compiled, heldout=tiny_images(4), compile=True)
    assert_same_state(eager, compiled)


class Unscaled(Brightness):
    def make_views(self, batch: Batch, generator: Generator, *, train: bool) -> dict[str, Tensor]:
        views = super().make_views(batch, generator, train=train)
        return {**views, "images": views["images"].float()}


@pytest.mark.usefixtures("traced_only")
@pytest.mark.parametrize("compiled", [False, True])
def test_floats_from_0_to_255_do_not_slip_through(compiled: bool):
    with pytest.raises(BackboneError, match=r"float images must lie in \[0, 1\]; found '.*25\d'; pass uint8, or divide by 255"):
        run(Unscaled(), compile=compiled)
