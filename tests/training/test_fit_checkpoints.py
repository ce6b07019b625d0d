import contextlib
import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn

from sslkit import (
    ArtifactError,
    Batch,
    CheckpointSaved,
    DivergedError,
    FitStart,
    HeldoutEnd,
    Notice,
    Objective,
    OnNan,
    OptionError,
    RunInterruptedError,
    Step,
    StepOutput,
    TrainingOptions,
    fit,
)
from sslkit.contract.events import Event
from sslkit.data.loader import Loader
from sslkit.storage.metrics_log import MetricsLog
from sslkit.storage.tensor_file import load_tensors, save_tensors
from sslkit.training.fit import FitResult
from tests.contract.contexts import make_context
from tests.contract.families import FAMILIES, build
from tests.contract.miniatures.images import tiny_images
from tests.recipes import steps_logged
from tests.training.brightness import (
    CPU,
    IMAGES,
    Brightness,
    assert_same_state,
    interrupt,
    names_and_steps,
    run,
    short,
    stop_after,
    watched,
)

# -------------------------------------------------------------------------------------------------- a loss that is not finite


NUMBER = r"[\d.]+(e[+-]\d+)?"
REMEDY = r"start over \(--fresh\) with a lower learning rate, warmup_epochs, clip_grad_norm or on_nan$"


@pytest.mark.parametrize(
    ("log_every", "clip", "known", "before"),
    [
        (3, None, "", ""),
        (3, 1e9, ", gradient norm nan", f", gradient norm {NUMBER}"),
        (1, None, ", gradient norm nan, weight norm nan", f", gradient norm {NUMBER}, weight norm {NUMBER}"),
    ],
    ids=["logged later", "clipped", "logged at once"],
)
def test_nan_stops_at_the_next_log_and_says_what_is_known(log_every: int, clip: float | None, known: str, before: str, tmp_path: Path):
    """The norm of a gradient is known where it was logged or clipped, that of the weights after the last step that was looked at."""
    message = (
        rf"^training diverged at step 5: loss nan{known}, learning rate 0\.1; the step before: loss {NUMBER}{before}; "
        rf"there is no checkpoint yet; {REMEDY}"
    )
    events: list[Event] = []
    with pytest.raises(DivergedError, match=message):
        run(Brightness(poisoned_step=5), short(clip_grad_norm=clip), log_every=log_every, folder=tmp_path, emit=events.append)
    assert names_and_steps(events)[-1] == ("StepEnd", 5 if log_every == 3 else 4)
    assert list(tmp_path.iterdir()) == []


def test_nan_never_reaches_a_checkpoint(tmp_path: Path):
    path = tmp_path / "checkpoint-000000004.safetensors"
    with pytest.raises(DivergedError, match=rf"at step 5: .*; the last good checkpoint is {path}"):
        run(Brightness(poisoned_step=5), log_every=1000, folder=tmp_path, checkpoint_minutes=0)
    tensors, state = load_tensors(path)
    assert state["counters"]["step"] == 4
    assert all(tensor.isfinite().all() for tensor in tensors.values())


def test_nan_is_noticed_at_the_end_of_its_epoch_at_the_latest():
    with pytest.raises(DivergedError, match="at step 7"):
        run(Brightness(poisoned_step=7), log_every=1000)


def test_the_first_bad_step_is_named_even_if_later_losses_recover():
    class Recovering(Brightness):
        def on_after_step(self, phase, context) -> None:
            for tensor in self.state_dict().values():
                tensor.nan_to_num_()

    with pytest.raises(DivergedError, match=r"at step 2: loss nan, .*the step before: loss 0\."):
        run(Recovering(poisoned_step=2), log_every=1000)


class Steep(Brightness):
    """In one step the loss is as ever and its gradient is not.

    Args:
        step: counted from 1.
        slope: its gradient by the head's bias.
    """

    def __init__(self, step: int, slope: float) -> None:
        super().__init__()
        self._step, self._slope = step, slope

    def on_before_step(self, phase, context) -> None:
        self._steep = context.step + 1 == self._step

    def forward(self, views: dict[str, Tensor], step: Step) -> StepOutput:
        output = super().forward(views, step)
        if not self._steep:
            return output
        nothing = (self.head.bias - self.head.bias.detach()).sum()
        nothing.register_hook(lambda gradient: self._slope * gradient)
        return output._replace(loss=output.loss + nothing)


def steep_fit(step: int, slope: float, *, clip: float | None = None, **options: Any) -> None:
    run(Steep(step, slope), short(clip_grad_norm=clip), **options)


@pytest.mark.parametrize("slope", [float("nan"), 1e15])
def test_a_gradient_that_overflows_under_a_finite_loss_is_divergence(slope: float):
    """It is named with its norm in a step that is logged or clipped, without it in the last step of an epoch, and else by what it does to
    the loss of the next step.
    """
    shown = "nan" if math.isnan(slope) else r"\d(\.\d+)?e\+1\d"
    with pytest.raises(DivergedError, match=rf"at step 4: loss 0\.\d+, gradient norm {shown}, weight norm {shown}, learning rate"):
        steep_fit(4, slope, log_every=1)
    clipped = rf"at step 4: loss 0\.\d+, gradient norm {shown}, learning rate .*before: loss 0\.\d+, gradient"
    with pytest.raises(DivergedError, match=clipped):
        steep_fit(4, slope, log_every=1000, clip=1e9)
    with pytest.raises(DivergedError, match=rf"at step 6: loss 0\.\d+, weight norm {shown}, learning rate .*before: loss 0\.\d+; there"):
        steep_fit(6, slope, log_every=1000)
    with pytest.raises(DivergedError, match=r"at step 5: loss (nan|\S+e\+\d\d), learning rate 0\.1; the step before: loss 0\.\d+; there"):
        steep_fit(4, slope, log_every=1000)


@pytest.mark.parametrize("options", [{"checkpoint_minutes": 0}, {"should_stop": stop_after(5)}], ids=["each step", "asked to stop"])
def test_a_gradient_that_overflows_never_reaches_a_checkpoint(options: dict, tmp_path: Path):
    """Not even that of the very step, whose loss was finite."""
    with pytest.raises(DivergedError, match=r"at step 5: loss 0\.\d+, weight norm nan, learning rate"):
        steep_fit(5, float("nan"), log_every=1000, folder=tmp_path, **options)
    paths = sorted(tmp_path.iterdir())
    assert [load_tensors(path)[1]["step"] for path in paths] == ([3, 4] if "checkpoint_minutes" in options else [])
    assert all(tensor.isfinite().all() for path in paths for tensor in load_tensors(path)[0].values())


def test_weights_that_are_not_finite_are_found_where_no_loss_shows_them(tmp_path: Path):
    """A parameter that the loss of one step uses, and no other's."""

    class Seldom(Brightness):
        def __init__(self) -> None:
            super().__init__()
            self.offset = nn.Parameter(torch.zeros(()))

        def on_before_step(self, phase, context) -> None:
            self._uses_offset = context.step == 1

        def forward(self, views: dict[str, Tensor], step: Step) -> StepOutput:
            output = super().forward(views, step)
            return output._replace(loss=output.loss + self.offset.sqrt() * 0) if self._uses_offset else output

    with pytest.raises(DivergedError, match=r"at step 3: loss 0\.\d+, weight norm nan, "):
        run(Seldom(), log_every=1000, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_step_before_is_that_of_the_same_phase():
    objective = build(FAMILIES["gan"])
    forward = objective.forward
    calls: list[str] = []

    def poisoned(views: dict[str, Tensor], step: Step) -> StepOutput:
        calls.append(step.phase)
        output = forward(views, step)
        loss = 0 * output.loss + (1 if step.phase == "discriminator" else 2)
        return output._replace(loss=loss * float("nan") if len(calls) == 5 else loss)

    objective.forward = poisoned
    with pytest.raises(DivergedError, match=r"at step 3: loss nan, learning rate 0\.1; the step before: loss 1; there"):
        run(objective, log_every=1000)


def test_a_loss_on_held_out_images_that_is_not_finite_is_no_result():
    class Unmeasurable(Brightness):
        def make_views(self, batch: Batch, generator: Generator, *, train: bool) -> dict[str, Tensor]:
            views = super().make_views(batch, generator, train=train)
            return views if train else {**views, "targets": views["targets"] * float("inf")}

    with pytest.raises(DivergedError, match=r"the loss on held-out images is inf after 3 steps, learning rate 0\.1; start over"):
        run(Unmeasurable(), heldout=tiny_images(4))


def test_a_loss_that_explodes_is_divergence_before_it_overflows():
    class Exploding(Brightness):
        def forward(self, views: dict[str, Tensor], step: Step) -> StepOutput:
            output = super().forward(views, step)
            return output._replace(loss=output.loss.detach() * 1e12 + output.loss)

    with pytest.raises(DivergedError, match=r"at step 1: loss [\d.]+e\+1\d, learning rate 0\.1"):
        run(Exploding())


# ------------------------------------------------------------------------------------------------------------ rolling back


class Fragile(Brightness):
    """Diverges at a step, unless its learning rate is low enough by then."""

    def __init__(self, *, step: int = 5, tolerated: float = 0.03) -> None:
        super().__init__(dropout=0.3)
        self._step, self._tolerated = step, tolerated
        self.rates: list[tuple[int, float]] = []
        self._now = 0

    def on_before_step(self, phase, context) -> None:
        rate = context.optimizers["main"].param_groups[0]["lr"]
        self.rates.append((context.step + 1, rate))
        self._poisoned = context.step + 1 == self._step and rate > self._tolerated

    def forward(self, views: dict[str, Tensor], step: Step) -> StepOutput:
        output = super().forward(views, step)
        return output._replace(loss=output.loss * float("nan")) if self.training and self._poisoned else output


def forgiving(retries: int) -> TrainingOptions:
    return short(on_nan=OnNan(retries=retries, lr_factor=0.5))


def test_a_fit_rolls_back_to_the_beginning_of_the_epoch_and_lowers_the_rate(tmp_path: Path):
    objective = Fragile()
    events: list[Event] = []
    result = run(objective, forgiving(2), folder=tmp_path, emit=events.append, log_every=1)
    attempts = ((range(1, 6), 0.1), (range(4, 6), 0.05), (range(4, 10), 0.025))
    assert objective.rates == [(step, rate) for steps, rate in attempts for step in steps]
    assert (result.steps, result.rollbacks) == (9, 2)
    notes = [event.message for event in events if isinstance(event, Notice)]
    assert [note.partition(". Back")[2] for note in notes] == [
        " to step 3, resuming at 0.5 of the learning rate: retry 1 of 2",
        " to step 3, resuming at 0.25 of the learning rate: retry 2 of 2",
    ]
    assert [event.step for event in events if isinstance(event, FitStart)] == [0, 3, 3]
    assert all(tensor.isfinite().all() for tensor in objective.state_dict().values())


def test_a_fit_that_rolled_back_is_the_fit_that_had_the_lower_rate_from_that_epoch_on(tmp_path: Path):
    """The naive reference: two fits by hand, one for each rate."""
    rolled = Fragile(tolerated=0.06)
    run(rolled, forgiving(1), folder=tmp_path / "rolled")
    reference = Fragile(tolerated=1.0)
    interrupt(3, reference, forgiving(1), folder=tmp_path / "reference")

    class Slower(Fragile):
        __qualname__ = Fragile.__qualname__  # for whose checkpoint it stands in

        def on_before_step(self, phase, context) -> None:
            context.optimizers["main"].param_groups[0]["lr"] = 0.05
            super().on_before_step(phase, context)

    slower = Slower(tolerated=1.0)
    run(slower, forgiving(1), folder=tmp_path / "reference")
    assert_same_state(slower, rolled)


@pytest.mark.parametrize("log_every", [1, 1000])
@pytest.mark.parametrize("step", [4, 5, 6])
def test_a_gradient_that_is_not_finite_rolls_back_to_the_beginning_of_its_own_epoch(step: int, log_every: int, tmp_path: Path):
    """The last step's too: the next loss, which would show it, is one of the next epoch."""

    class SteepAtFirst(Steep):
        def on_before_step(self, phase, context) -> None:
            super().on_before_step(phase, context)
            self._steep = self._steep and context.rollbacks == 0

    objective = SteepAtFirst(step, float("nan"))
    events: list[Event] = []
    result = run(objective, forgiving(1), folder=tmp_path, emit=events.append, log_every=log_every)
    assert [event.step for event in events if isinstance(event, FitStart)] == [0, 3]
    assert (result.steps, result.rollbacks) == (9, 1)
    assert all(tensor.isfinite().all() for tensor in objective.state_dict().values())


def test_the_measurement_after_the_last_epoch_may_roll_back_too(tmp_path: Path):
    class Unmeasurable(Fragile):
        """Its loss on held-out images is finite from the second attempt on."""

        def forward(self, views: dict[str, Tensor], step: Step) -> StepOutput:
            output = super().forward(views, step)
            failing = not self.training and self.rates[-1] == (9, 0.1)
            return output._replace(loss=output.loss * float("inf")) if failing else output

    objective = Unmeasurable(tolerated=1.0)
    result = run(objective, forgiving(1), tiny_images(4), evaluate_every=3, folder=tmp_path)
    assert (result.rollbacks, result.steps) == (1, 9)
    assert objective.rates[-3:] == [(step, 0.05) for step in (7, 8, 9)]


def test_retries_end(tmp_path: Path):
    with pytest.raises(DivergedError, match=r"at step 5: .*learning rate 0\.025"):
        run(Fragile(tolerated=0.0), forgiving(2), folder=tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("checkpoint_minutes", [0, 1e9])
@pytest.mark.parametrize("stops", [[1] * 12, [4, 1], [5, 2], [6]], ids=str)
def test_an_interrupted_fit_that_rolls_back_ends_with_the_same_bits(stops: list[int], checkpoint_minutes: float, tmp_path: Path):
    def forgive(objective: Objective, folder: Path, **options: object) -> FitResult:
        folder.mkdir(exist_ok=True)
        log = MetricsLog(folder / "metrics.jsonl")
        return run(objective, forgiving(2), tiny_images(4), evaluate_every=1, log_every=1, folder=folder, emit=log.observe, **options)

    whole, resumed = Fragile(), Fragile()
    expected = forgive(whole, tmp_path / "whole")
    for steps in stops:
        with contextlib.suppress(RunInterruptedError):
            forgive(Fragile(), tmp_path / "parts", checkpoint_minutes=checkpoint_minutes, should_stop=stop_after(steps))
    assert forgive(resumed, tmp_path / "parts") == expected
    assert_same_state(resumed, whole)
    assert steps_logged(tmp_path / "parts" / "metrics.jsonl") == steps_logged(tmp_path / "whole" / "metrics.jsonl")


def test_a_kill_at_the_beginning_of_an_epoch_keeps_what_was_measured_before(tmp_path: Path):
    """The rollback point of the second epoch is the newest checkpoint: the measurement after the first one does not come again."""
    (tmp_path / "parts").mkdir()

    def killed(event: Event) -> None:
        MetricsLog(tmp_path / "parts" / "metrics.jsonl").observe(event)
        if isinstance(event, CheckpointSaved) and event.step == 3:
            raise KeyboardInterrupt

    options = {"evaluate_every": 1, "log_every": 1}
    with pytest.raises(KeyboardInterrupt):
        run(Brightness(), forgiving(1), tiny_images(4), folder=tmp_path / "parts", emit=killed, **options)
    for name in ("parts", "whole"):
        (tmp_path / name).mkdir(exist_ok=True)
        log = MetricsLog(tmp_path / name / "metrics.jsonl")
        run(Brightness(), forgiving(1), tiny_images(4), folder=tmp_path / name, emit=log.observe, **options)
    assert steps_logged(tmp_path / "parts" / "metrics.jsonl") == steps_logged(tmp_path / "whole" / "metrics.jsonl")


def test_a_roll_back_needs_a_folder():
    with pytest.raises(OptionError, match=r"^on_nan: there is no folder to keep what is rolled back to; found .*; give output$"):
        run(Brightness(), forgiving(1))


# -------------------------------------------------------------------------------------------------------------- checkpoints


def test_checkpoints_are_written_that_often_and_at_the_end(tmp_path: Path):
    events = watched(Brightness(), folder=tmp_path, checkpoint_minutes=0)
    assert [event.step for event in events if isinstance(event, CheckpointSaved)] == [*range(1, 10), 9]


def test_stopping_without_a_folder_keeps_nothing_and_says_so():
    with pytest.raises(RunInterruptedError, match="after 2 steps"):
        run(Brightness(), should_stop=stop_after(2))


class Scheduled(Brightness):
    """Its loss on held-out images is the schedule's value."""

    def schedules(self) -> dict[str, Callable[[float], float]]:
        return {"value": lambda progress: 1 + progress}

    def forward(self, views: dict[str, Tensor], step: Step) -> StepOutput:
        if not self.training:
            return StepOutput(step.schedule["value"], {})
        return super().forward(views, step)


@pytest.mark.parametrize("steps", [2, 3, 9])
def test_held_out_images_see_the_schedule_of_their_moment_also_after_resuming(steps: int, tmp_path: Path):
    whole: list[Event] = []
    parts: list[Event] = []
    run(Scheduled(), heldout=tiny_images(4), evaluate_every=1, emit=whole.append)
    interrupt(steps, Scheduled(), heldout=tiny_images(4), evaluate_every=1, emit=parts.append, folder=tmp_path)
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

        def forward(self, views: dict[str, Tensor], step: Step) -> StepOutput:
            assert step.schedule["value"].shape == ()
            tensors.append(float(step.schedule["value"]))
            return super().forward(views, step)

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
    interrupt(4, stopped, folder=tmp_path)
    stored = {name for name in load_tensors(tmp_path / "checkpoint-000000004.safetensors")[0] if name.startswith("objective.")}
    assert stored == {"objective.head.weight", "objective.head.bias"}
    run(resumed, folder=tmp_path)
    assert_same_state(resumed, whole)


def interrupted(folder: Path) -> Path:
    interrupt(4, Brightness(), folder=folder)
    return folder / "checkpoint-000000004.safetensors"


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_last_checkpoints_are_kept(keep: int, tmp_path: Path):
    run(Brightness(), folder=tmp_path, checkpoint_minutes=0, keep_checkpoints=keep)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"checkpoint-{step:09d}.safetensors" for step in range(10 - keep, 10)]


def test_checkpoints_of_parts_do_not_meet(tmp_path: Path):
    for part in ("k1", "k1-2", ""):
        run(Brightness(), folder=tmp_path, part=part, checkpoint_minutes=0, keep_checkpoints=1)
    assert {path.name for path in tmp_path.iterdir()} == {f"checkpoint-{part}000000009.safetensors" for part in ("k1-", "k1-2-", "")}


def rewritten(path: Path, **state: object) -> None:
    """The same checkpoint with other values beside the tensors, intact."""
    tensors, before = load_tensors(path)
    save_tensors(path, tensors, {**before, **state})


def test_a_checkpoint_of_another_format_is_refused(tmp_path: Path):
    path = interrupted(tmp_path)
    rewritten(path, format=0)
    fix = f"finish the stage with the version that began it, or remove {tmp_path} to run it again"
    with pytest.raises(ArtifactError, match=rf"^{path}: is a checkpoint of another version of sslkit \(format 0, not 3\); {fix}$"):
        run(Brightness(), folder=tmp_path)
    assert path.exists()


@pytest.mark.parametrize(
    "change",
    [
        {"counters": "x"},
        {"counters": {"step": 4}},
        {"counters": {"epoch": 10**6, "batch": 1, "step": 4, "rollbacks": 0, "num_images": 22}},
        {"counters": {"epoch": 1, "batch": -1, "step": 4, "rollbacks": 0, "num_images": 22}},
        {"optimizers": {"main": {"dict": [["state", {"dict": []}]]}}},
        {"optimizers": {"main": {"tensor": "order", "device": "cpu", "order": [3]}}},
        {"optimizers": {"main": {"dict": [[{"dict": []}, 1]]}}},
        {"optimizers": {}},
        {"optimizers": 3},
    ],
    ids=str,
)
def test_a_checkpoint_that_is_intact_and_none_of_ours_is_no_traceback(change: dict, tmp_path: Path):
    path = interrupted(tmp_path)
    rewritten(path, **change)
    with pytest.raises(
        ArtifactError, match=rf"^{path}: is not a checkpoint of this fit \(\w+: .*\); remove it to begin from the one before$"
    ):
        run(Brightness(), folder=tmp_path)


@pytest.mark.parametrize("stamp", [None, "x", [1], {}])
def test_a_stamp_that_is_none_is_another_machines(stamp: object, tmp_path: Path):
    rewritten(interrupted(tmp_path), written_on=stamp)
    events = watched(Brightness(), folder=tmp_path)
    assert "written on another machine or version (torch: None -> " in next(event.message for event in events if isinstance(event, Notice))


def test_a_checkpoint_of_another_machine_is_used_with_a_word_of_warning(tmp_path: Path):
    path = interrupted(tmp_path)
    written_on = load_tensors(path)[1]["written_on"]
    rewritten(path, written_on={**written_on, "torch": "2.0.1"})
    events = watched(Brightness(), folder=tmp_path)
    (notice,) = [event for event in events if isinstance(event, Notice)]
    assert notice.message == (
        f"the checkpoint was written on another machine or version (torch: 2.0.1 -> {torch.__version__}): "
        "results may differ in the last digits"
    )


def test_a_checkpoint_of_a_gpu_is_resumed_on_a_cpu_and_its_draws_begin_anew(tmp_path: Path):
    """As one is that was written in another place: the states of a GPU's generators are of another size."""
    path = interrupted(tmp_path)
    tensors, state = load_tensors(path)
    state_of_a_gpu = torch.zeros(16, dtype=torch.uint8)
    save_tensors(path, {**tensors, "random.cuda": state_of_a_gpu, "generator.augment@cuda": state_of_a_gpu}, state)
    events: list[Event] = []
    assert run(Brightness(), folder=tmp_path, emit=events.append).steps == 9
    (notice,) = [event for event in events if isinstance(event, Notice)]
    assert notice.message == "the checkpoint was written on cuda: what is drawn on cpu restarts from its seed"


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path):
    interrupted(tmp_path)
    other = Brightness()
    other.head = nn.Linear(8, 2)
    with pytest.raises(ArtifactError, match=r"checkpoint-000000004\.safetensors: does not fit the model \(.*head\.bias.*\)"):
        run(other, folder=tmp_path)


def test_a_checkpoint_of_other_data_is_refused(tmp_path: Path):
    interrupted(tmp_path)
    loader = Loader(tiny_images(21), batch_size=8, device=CPU)
    message = r"checkpoint-000000004\.safetensors: is a checkpoint of another fit \(data: '\w+' -> '\w+'\); remove the checkpoints"
    with pytest.raises(ArtifactError, match=message):
        fit(Brightness(), loader, None, short(), make_context(folder=tmp_path))


@dataclass(frozen=True)
class Strength:
    factor: float = 1.0


class Strong(Brightness):
    """Keeps its options, as many objectives keep their task."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.options = Strength(factor)


class Steadied(Brightness):
    """Has a frozen part, whose weights are in no checkpoint."""

    frozen = ("teacher",)

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.teacher = nn.Linear(1, 1)
        with torch.no_grad():
            for parameter in self.teacher.parameters():
                parameter.fill_(weight)


@pytest.mark.parametrize(
    ("before", "after", "training", "difference"),
    [
        (lambda: Strong(1.0), lambda: Strong(2.0), {}, r"options\.options\.factor: 1\.0 -> 2\.0"),
        (lambda: Steadied(1.0), lambda: Steadied(2.0), {}, r"frozen: \['\w+'\] -> \['\w+'\]"),
        (Brightness, Brightness, {"epochs": 5}, r"training\.epochs: 3 -> 5"),
        (Brightness, lambda: Strong(1.0), {}, r".*objective: '.*:Brightness' -> '.*:Strong'.*"),
    ],
    ids=["options", "frozen weights", "training", "class"],
)
def test_a_checkpoint_of_another_fit_is_refused(before: Callable, after: Callable, training: dict, difference: str, tmp_path: Path):
    interrupt(4, before(), folder=tmp_path)
    with pytest.raises(ArtifactError, match=rf"checkpoint-000000004\.safetensors: is a checkpoint of another fit \({difference}\); remove"):
        run(after(), short(**training), folder=tmp_path)
    resumed, whole = before(), before()
    run(resumed, folder=tmp_path)  # the refusal has cost nothing
    run(whole)
    assert_same_state(resumed, whole)


@pytest.mark.parametrize("kept", [True, False])
def test_two_fits_of_one_context_need_parts_of_their_own(kept: bool, tmp_path: Path):
    """The second would find the first one's last checkpoint, train for no step, and return its weights."""
    context = make_context(folder=tmp_path if kept else None)
    loader = Loader(IMAGES, batch_size=8, device=CPU)
    training = TrainingOptions(epochs=1, batch_size=8)
    first, second, alone = Brightness(), Brightness(), Brightness()
    fit(first, loader, None, training, context)
    message = r"^part: another fit of stage 'pretrain' has it; found ''; give each fit of a stage its own: dataclasses\.replace\(context, part=\.\.\.\)$"
    with pytest.raises(OptionError, match=message):
        fit(second, loader, None, training, context)
    with pytest.raises(OptionError, match=message):
        fit(second, loader, None, training, replace(context, seed=9))
    assert_same_state(second, Brightness())
    assert fit(second, loader, None, training, replace(context, part="second")).steps == 3
    fit(alone, loader, None, training, make_context(part="second"))
    assert_same_state(second, alone)


def test_a_fit_that_was_stopped_may_be_called_again_with_its_context(tmp_path: Path):
    stops = iter([False, True])
    context = make_context(folder=tmp_path, should_stop=lambda: next(stops, False))
    loader = Loader(IMAGES, batch_size=8, device=CPU)
    resumed, whole = Brightness(), Brightness()
    with pytest.raises(RunInterruptedError):
        fit(resumed, loader, None, short(epochs=2), context)
    assert fit(resumed, loader, None, short(epochs=2), context).steps == 6
    fit(whole, loader, None, short(epochs=2), make_context())
    assert_same_state(resumed, whole)
