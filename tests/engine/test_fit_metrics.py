from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Generator, Tensor

from sslkit import (
    Batch,
    CheckpointSaved,
    FitStart,
    HeldoutEnd,
    RunInterruptedError,
    StepEnd,
    StepOutput,
    Training,
    fit,
)
from sslkit.data.loader import Loader
from sslkit.events import Event
from tests.contract.miniatures.images import tiny_images
from tests.engine.brightness import CPU, IMAGES, PLAIN_SGD, Brightness, context_with, logged, run, stop_after, told


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
    pairs = [(losses[i] + losses[i + 1]) / 2 for i in (0, 2, 4, 6)]
    assert logged(every_other) == pytest.approx([*pairs, losses[8]], rel=1e-12)  # nine steps: the last is read alone
    steps = [event for event in every_other if isinstance(event, StepEnd)]
    assert [event.step for event in steps if event.metrics] == [2, 4, 6, 8, 9]
    assert all(event.metrics["images_per_second"] > 0 for event in steps if event.metrics)
    bright = logged(every_step, "too_bright")
    assert logged(every_other, "too_bright")[1] == pytest.approx((6 * bright[2] + 8 * bright[3]) / 14)


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
    assert [event.path for event in events if isinstance(event, CheckpointSaved)] == [tmp_path / "checkpoint-k20-000000006.safetensors"]


def test_a_resumed_fit_says_where_it_goes_on(tmp_path: Path):
    with pytest.raises(RunInterruptedError, match="stopped in stage 'pretrain' after 4 steps"):
        run(Brightness(), folder=tmp_path, should_stop=stop_after(4))
    events: list[Event] = []
    assert run(Brightness(), folder=tmp_path, emit=events.append).steps == 9
    assert events[0] == FitStart(stage="pretrain", part="", step=4, num_steps=9, num_epochs=3)
    assert told(events) == [("FitStart", 4), *[("StepEnd", step) for step in range(5, 10)], ("CheckpointSaved", 9)]
