import weakref
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Generator, Tensor

from sslkit import (
    Batch,
    CheckpointSaved,
    DivergedError,
    FitStart,
    HeldoutEnd,
    Mean,
    Objective,
    Prediction,
    RunInterruptedError,
    Step,
    StepEnd,
    StepOutput,
    TrainingOptions,
    fit,
)
from sslkit.contract.events import Event
from sslkit.data.loader import Loader
from sslkit.training import metrics as step_log
from tests.contract.contexts import make_context
from tests.contract.families import FAMILIES, build
from tests.contract.miniatures.images import tiny_images
from tests.training.brightness import CPU, IMAGES, PLAIN_SGD, Brightness, interrupt, logged, names_and_steps, run, stop_after, watched


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
    def forward(self, views: dict[str, Tensor], step: Step) -> StepOutput:
        bfloat16 = super().forward(views, step).loss.bfloat16() * 0
        return StepOutput(bfloat16 + (len(views["images"]) > 1), {})


def test_counts_are_exact_where_bfloat16_is_not():
    training = TrainingOptions(epochs=1, batch_size=22)
    images = Loader(tiny_images(258, size=4), batch_size=257, device=CPU)
    result = fit(FirstBatchLoss(), Loader(IMAGES, batch_size=22, device=CPU), images, training, make_context())
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


class ManyClasses(Brightness):
    """Predicts one of K classes, and counts how many forward passes' logits are still held when the next one begins."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self._passes: list[weakref.ref[Tensor]] = []
        self.held = 0

    def forward(self, views: dict[str, Tensor], step: Step) -> StepOutput:
        self.held = max(self.held, sum(logits() is not None for logits in self._passes))
        bright = views["images"].float().mean(dim=(1, 2, 3))
        logits = (bright[:, None] * torch.arange(1, self.num_classes + 1)).sin()
        self._passes.append(weakref.ref(logits))
        prediction = Prediction(logits, torch.arange(len(bright)) % self.num_classes)
        return super().forward(views, step)._replace(predictions={"a": prediction})


def test_what_is_kept_of_predictions_does_not_grow_with_the_classes():
    kept = []
    for num_classes in (20, 2000):
        objective = ManyClasses(num_classes)
        result = run(objective, TrainingOptions(epochs=1, batch_size=2), heldout=tiny_images(12, seed=1))
        kept.append(sum(part.numel() for part in result.predictions["a"] if isinstance(part, Tensor)))
        assert result.logits == {}
        assert objective.held <= 1, "the last pass's"
    assert kept == [3 * 12] * 2


@pytest.mark.parametrize("num_classes", [19, 20])
def test_predictions_are_those_of_all_logits_together(num_classes: int):
    heldout = Loader(tiny_images(11, seed=1), batch_size=4, device=CPU)
    images = Loader(IMAGES, batch_size=22, device=CPU)
    result = fit(ManyClasses(num_classes), images, heldout, TrainingOptions(epochs=1, batch_size=22), make_context(), keep_logits=True)
    logits, (classes, targets, num_found, in_top5) = result.logits["a"], result.predictions["a"]
    assert (logits.shape, num_found) == ((11, num_classes), num_classes)
    assert targets.tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2]
    assert torch.equal(classes, logits.argmax(dim=1))
    naive = [target in sorted(range(num_classes), key=lambda k: -row[k])[:5] for row, target in zip(logits.tolist(), targets, strict=True)]
    assert (in_top5 is None) if num_classes == 19 else (in_top5.tolist() == naive)


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


@pytest.mark.parametrize("epochs", [1, 7, 10, 11, 15, 19, 20, 23])
def test_by_default_they_are_measured_ten_times_at_most_whatever_the_number_of_epochs(epochs: int):
    events = watched(Brightness(), TrainingOptions(epochs=epochs, batch_size=22, optimizer=PLAIN_SGD), heldout=tiny_images(4))
    measured = [round(event.epoch) for event in events if isinstance(event, HeldoutEnd)]
    assert len(measured) == min(10, epochs)
    assert measured[-1] == epochs
    steps = {after - before for before, after in pairwise([0, *measured])}
    assert max(steps) - min(steps) <= 1, "evenly spread"


def test_metrics_are_means_since_they_were_last_read():
    every_step, every_other = (watched(Brightness(), log_every=log_every) for log_every in (1, 2))
    losses = logged(every_step)
    pairs = [(losses[i] + losses[i + 1]) / 2 for i in (0, 2, 4, 6)]
    assert logged(every_other) == pytest.approx([*pairs, losses[8]], rel=1e-12)  # nine steps: the last is read alone
    steps = [event for event in every_other if isinstance(event, StepEnd)]
    assert [event.step for event in steps if event.metrics] == [2, 4, 6, 8, 9]
    assert all(event.metrics["images_per_second"] > 0 for event in steps if event.metrics)
    bright = logged(every_step, "too_bright")
    assert logged(every_other, "too_bright")[1] == pytest.approx((6 * bright[2] + 8 * bright[3]) / 14)


class Sporadic(Brightness):
    """Measures other things in odd steps than in even ones, and counts one of them itself."""

    def on_before_step(self, phase, context) -> None:
        self._odd = context.step % 2 == 0

    def forward(self, views: dict[str, Tensor], step: Step) -> StepOutput:
        output = super().forward(views, step)
        dark = (views["targets"] < 0.5).sum()
        counted = {"spread": Mean(views["targets"].std() * dark, dark)}
        return output._replace(metrics={**output.metrics, **counted} if self._odd else {"error": Mean.of(output.loss.sqrt())})


def adversarial() -> Objective:
    return build(FAMILIES["gan"])


def recorded(objective: Objective) -> list[tuple[str, StepOutput]]:
    """What every forward pass from now on returns, by phase."""
    passes: list[tuple[str, StepOutput]] = []
    forward = objective.forward

    def record(views: dict[str, Tensor], step: Step) -> StepOutput:
        passes.append((step.phase, forward(views, step)))
        return passes[-1][1]

    objective.forward = record
    return passes


def naive_means(passes: list[tuple[str, StepOutput]], *, prefixed: bool) -> dict[str, float]:
    """With Python's numbers, pass after pass."""
    totals: dict[str, float] = {}
    counts: dict[str, float] = {}
    for phase, output in passes:
        for name, (total, num) in {"loss": Mean(output.loss.detach(), 1), **output.metrics}.items():
            key = f"{phase}_{name}" if prefixed else name
            totals[key] = totals.get(key, 0.0) + float(total)
            counts[key] = counts.get(key, 0.0) + float(num)
    return {key: totals[key] / counts[key] for key in totals if counts[key]}


@pytest.mark.parametrize("log_every", [1, 2, 4, 1000])
@pytest.mark.parametrize("make", [Brightness, Sporadic, adversarial])
def test_what_is_logged_equals_plain_means_over_the_steps(make: Callable[[], Objective], log_every: int):
    objective = make()
    passes = recorded(objective)
    events = watched(objective, log_every=log_every)
    lines = [event for event in events if isinstance(event, StepEnd) and event.metrics]
    phases = len(objective.phases)
    since = 0
    for line in lines:
        expected = naive_means(passes[phases * since : phases * line.step], prefixed=phases > 1)
        norms = {name for name in line.metrics if name.endswith("gradient_norm")}
        assert len(norms) == phases
        assert {name: line.metrics[name] for name in line.metrics.keys() - norms - {"lr", "images_per_second"}} == expected
        since = line.step
    assert since == 9


@pytest.mark.parametrize("stops", [[2, 3], [1] * 8, [6]], ids=str)
@pytest.mark.parametrize("make", [Sporadic, adversarial])
def test_what_is_logged_does_not_depend_on_interruptions(make: Callable[[], Objective], stops: list[int], tmp_path: Path):
    def lines(events: list[Event]) -> list[tuple[int, dict[str, float]]]:
        found = [(event.step, dict(event.metrics)) for event in events if isinstance(event, StepEnd) and event.metrics]
        assert all(metrics.pop("images_per_second") > 0 for _, metrics in found)
        return found

    whole: list[Event] = []
    parts: list[Event] = []
    run(make(), log_every=4, emit=whole.append)
    for steps in stops:
        interrupt(steps, make(), log_every=4, emit=parts.append, folder=tmp_path)
    run(make(), log_every=4, emit=parts.append, folder=tmp_path)
    assert lines(parts) == lines(whole)
    assert [step for step, _ in lines(whole)] == [4, 8, 9]


def test_steps_that_are_never_logged_do_not_pile_up(monkeypatch: pytest.MonkeyPatch):
    """Read now and then, in the middle of an epoch: what is logged in the end is the same."""
    logs: list[list[Event]] = []
    for limit in (1000, 4):
        monkeypatch.setattr(step_log, "MAX_WAITING", limit)
        logs.append([])
        run(Sporadic(), TrainingOptions(epochs=2, batch_size=2, optimizer=PLAIN_SGD), log_every=10**9, emit=logs[-1].append)
    (few,), (many,) = (logged(events, "loss") for events in logs)
    assert few == many
    with pytest.raises(DivergedError, match="at step 2: loss nan"):
        run(Brightness(poisoned_step=2), TrainingOptions(epochs=2, batch_size=2), log_every=10**9, emit=logs[-1].append)
    assert names_and_steps(logs[-1])[-1] == ("StepEnd", 3), "found after step 4 of 11"


def test_events_tell_the_story_in_order(tmp_path: Path):
    events: list[Event] = []
    training = TrainingOptions(epochs=2, batch_size=8, optimizer=PLAIN_SGD)
    run(Brightness(), training, tiny_images(4), evaluate_every=1, emit=events.append, folder=tmp_path, part="k20")
    steps = [("StepEnd", step) for step in range(1, 7)]
    end = [("CheckpointSaved", 6), ("HeldoutEnd", 6)]
    assert names_and_steps(events) == [("FitStart", 0), *steps[:3], ("HeldoutEnd", 3), *steps[3:], *end]
    assert {(event.stage, getattr(event, "part", None)) for event in events} == {("pretrain", "k20")}
    start, first, *_ = events
    assert start == FitStart(stage="pretrain", part="k20", step=0, num_steps=6, num_epochs=2)
    assert first == StepEnd(stage="pretrain", part="k20", step=1, epoch=1 / 3, num_images=8, metrics={})
    assert [event.num_images for event in events if isinstance(event, StepEnd)] == [8, 8, 6] * 2
    assert [event.path for event in events if isinstance(event, CheckpointSaved)] == [tmp_path / "checkpoint-k20-000000006.safetensors"]


def test_a_resumed_fit_says_where_it_goes_on(tmp_path: Path):
    with pytest.raises(RunInterruptedError, match="stopped in stage 'pretrain' after 4 steps"):
        run(Brightness(), folder=tmp_path, should_stop=stop_after(4))
    events: list[Event] = []
    assert run(Brightness(), folder=tmp_path, emit=events.append).steps == 9
    assert events[0] == FitStart(stage="pretrain", part="", step=4, num_steps=9, num_epochs=3)
    assert names_and_steps(events) == [("FitStart", 4), *[("StepEnd", step) for step in range(5, 10)], ("CheckpointSaved", 9)]
