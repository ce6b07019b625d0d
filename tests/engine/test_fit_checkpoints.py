import copy
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sslkit import (
    ArtifactError,
    CheckpointSaved,
    HeldoutEnd,
    RunFailedError,
    RunInterruptedError,
    StepOutput,
    Training,
    fit,
)
from sslkit.data.loader import Loader
from sslkit.engine.state import TrainState
from sslkit.engine.tensor_file import load_tensors
from sslkit.events import Event
from tests.contract.miniatures.images import tiny_images
from tests.engine.brightness import CPU, Brightness, assert_same_state, context_with, logged, run, stop_after, told

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


def test_a_mean_goes_on_after_resuming(tmp_path: Path):
    whole: list[Event] = []
    parts: list[Event] = []
    run(Brightness(), log_every=4, emit=whole.append)
    with pytest.raises(RunInterruptedError):
        run(Brightness(), log_every=4, emit=parts.append, folder=tmp_path, should_stop=stop_after(3))
    run(Brightness(), log_every=4, emit=parts.append, folder=tmp_path)
    assert logged(parts) == logged(whole)
    assert logged(parts, "too_bright") == logged(whole, "too_bright")
    assert len(logged(whole)) == 3  # after steps 4 and 8, and at the end
