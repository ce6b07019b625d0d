"""The contract holds for every family of methods: each trains, resumes bit-exactly and exports through the one ``fit``."""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from sslkit import RunInterruptedError, Step, StepEnd
from sslkit.contract.events import Event
from sslkit.data.loader import Loader
from sslkit.storage.tensor_file import load_tensors
from sslkit.training.fit import FitResult
from tests.contract.families import CPU, FAMILIES, Family, assert_same, build, every_family, train
from tests.contract.miniatures.images import tiny_images


def stop_after(steps: int) -> dict[str, Any]:
    """What makes a context ask to stop after so many steps."""
    taken: list[Event] = []
    return {"emit": lambda event: taken.append(event) if isinstance(event, StepEnd) else None, "should_stop": lambda: len(taken) >= steps}


def told(result: FitResult) -> tuple[Any, ...]:
    """All that a fit returns, in values that can be compared."""
    predictions = {name: (kept.classes.tolist(), kept.targets.tolist()) for name, kept in result.predictions.items()}
    return result.heldout, result.steps, result.rollbacks, predictions


@every_family
def test_trains_every_parameter_of_its_groups(family: Family) -> None:
    objective = build(family)
    before = copy.deepcopy(objective.state_dict())
    trained = [p for groups in objective.parameter_groups().values() for group in groups for p in group["params"]]
    names = {id(parameter): name for name, parameter in objective.named_parameters()}
    events: list[Event] = []
    result = train(objective, family, emit=events.append, log_every=1)

    losses = [value for event in events if isinstance(event, StepEnd) for name, value in event.metrics.items() if name.endswith("loss")]
    assert len(losses) == result.steps * len(objective.phases)
    assert all(math.isfinite(loss) for loss in [*losses, *result.heldout.values()])
    assert ("loss" in result.heldout) == (objective.heldout_phase is not None)
    assert trained
    assert not [names[id(p)] for p in trained if torch.equal(p, before[names[id(p)]])]


@every_family
@pytest.mark.parametrize("stops", [[5], [3, 2], [1] * 8], ids=["mid-epoch", "end of an epoch, then mid-epoch", "every step"])
def test_resumes_bit_exactly(family: Family, stops: list[int], tmp_path: Path) -> None:
    whole = build(family)
    expected = train(whole, family, folder=tmp_path / "whole")

    folder = tmp_path / "parts"
    for attempt, steps in enumerate(stops):
        with pytest.raises(RunInterruptedError, match=f"after {sum(stops[: attempt + 1])} steps"):
            # Other initial weights after an interruption: all that counts must come from the checkpoint.
            train(build(family, seed=attempt), family, folder=folder, **stop_after(steps))
    resumed = build(family, seed=99)
    found = train(resumed, family, folder=folder)

    assert told(found) == told(expected)
    assert_same(resumed.state_dict(), whole.state_dict())
    assert_same(resumed.exported_backbone().state_dict(), whole.exported_backbone().state_dict())
    checkpoints = [load_tensors(max((tmp_path / part).glob("checkpoint-*"))) for part in ("parts", "whole")]
    assert_same(checkpoints[0][0], checkpoints[1][0])  # optimizers, generators, the global random state
    assert checkpoints[0][1] == checkpoints[1][1]


@every_family
def test_resuming_what_is_finished_changes_nothing(family: Family, tmp_path: Path) -> None:
    first = build(family)
    expected = train(first, family, folder=tmp_path)
    again = build(family, seed=99)
    assert told(train(again, family, folder=tmp_path)) == told(expected)
    assert_same(again.state_dict(), first.state_dict())


def test_resumes_bit_exactly_when_workers_decode(tmp_path: Path) -> None:
    family = FAMILIES["rotation"]
    whole = build(family)
    train(whole, family, resident=False)
    with pytest.raises(RunInterruptedError):
        train(build(family), family, resident=False, folder=tmp_path, **stop_after(4))
    resumed = build(family, seed=99)
    train(resumed, family, resident=False, folder=tmp_path)
    assert_same(resumed.state_dict(), whole.state_dict())


@every_family
def test_exports_a_backbone_that_embeds_images(family: Family) -> None:
    objective = build(family)
    train(objective, family)
    backbone = objective.exported_backbone().eval()
    images = tiny_images(5, seed=2).read(range(5))
    features = {info.name: backbone.embed(images, info.name) for info in backbone.feature_info}
    for info in backbone.feature_info:
        assert features[info.name].shape == (5, info.num_chs)
        assert features[info.name].isfinite().all()
    deepest = backbone.embed(images)
    assert torch.equal(deepest, features[backbone.layer_names[-1]])
    assert deepest.std(dim=0).max() > 0


@every_family
def test_runs_in_eval_mode_without_moving_its_buffers(family: Family) -> None:
    objective = build(family).eval()
    before = copy.deepcopy(objective.state_dict())
    batch = next(Loader(tiny_images(8), batch_size=8, device=CPU).in_order())
    views = objective.make_views(batch, torch.Generator(), train=False)
    schedule = {name: torch.tensor(value(0.5)) for name, value in objective.schedules().items()}
    with torch.no_grad():
        losses = [objective(views, Step(phase, schedule)).loss for phase in objective.phases]
    assert all(loss.isfinite() for loss in losses)
    assert_same(objective.state_dict(), before)


@every_family
def test_trains_under_bfloat16_autocast_and_keeps_its_state_in_float32(family: Family) -> None:
    objective = build(family)
    result = train(objective, family, autocast=torch.bfloat16)
    assert all(math.isfinite(value) for value in result.heldout.values())
    assert {tensor.dtype for tensor in objective.state_dict().values() if tensor.is_floating_point()} == {torch.float32}
