"""Events observe: nothing that an observer does to one changes a run."""

import copy
import dataclasses
import json
import pickle
import random
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from sslkit import (
    Backbone,
    Digits,
    Evaluation,
    Evaluator,
    Event,
    HeldoutEnd,
    LabeledData,
    Observer,
    RunContext,
    StageEnd,
    StageSkipped,
    StepEnd,
    TrainingOptions,
    load_catalog,
    pretrain,
    run_recipe,
)
from sslkit.contract.runtime import Runtime
from sslkit.recipe.recipe import parse_recipe
from sslkit.storage.identity import state_hash
from sslkit.storage.metrics_log import read_metrics
from tests.contract.miniatures.backbones import TinyConv
from tests.contract.miniatures.rotation import Rotation
from tests.recipes import SMALL, steps_logged, two_stages_of, weights


class Meddling(Observer):
    """Writes into everything that an event carries, whenever it gets one."""

    def __init__(self) -> None:
        self.refused = 0

    def observe(self, event: Event) -> None:
        for value in vars(event).values():
            if isinstance(value, dict):
                with pytest.raises(TypeError, match=r"^the values of an event are read-only: change a copy, dict\(event\.metrics\)$"):
                    value["top1"] = value["loss"] = 100.0
                self.refused += 1


class Drawing(Observer):
    """Draws from, and seeds, the generators that training draws from."""

    def observe(self, event: Event) -> None:
        torch.rand(3)
        torch.manual_seed(int(random.random() * 1000))


@dataclass(frozen=True, kw_only=True)
class Forgetful(Evaluator):
    """Hands out one and the same dictionary each time."""

    found: ClassVar[dict[str, float]] = {}

    @property
    def frozen(self) -> bool:
        return True

    def check(self, backbone: Backbone, data: LabeledData) -> None:
        pass

    def evaluate(self, backbone: Backbone, data: LabeledData, context: RunContext) -> Evaluation:
        self.found["stages"] = self.found.get("stages", 0.0) + 1.0
        return Evaluation(self.found)


def events() -> list[Any]:
    metrics = {"loss": 1.5, "conv2.top1": 40.0}
    return [
        StageSkipped(stage="probe", metrics=metrics),
        StepEnd(stage="probe", part="", step=1, epoch=0.1, num_images=3, metrics=metrics),
        HeldoutEnd(stage="probe", part="", step=1, epoch=0.1, metrics=metrics),
        StageEnd(stage="probe", metrics=metrics, seconds=1.0),
    ]


@pytest.mark.parametrize("event", events(), ids=lambda event: type(event).__name__)
def test_what_an_event_carries_is_a_copy_that_stays_as_it_is(event: Any):
    for change in (
        lambda: event.metrics.__setitem__("loss", 0.0),
        lambda: event.metrics.__delitem__("loss"),
        lambda: event.metrics.update(loss=0.0),
        lambda: event.metrics.setdefault("more", 0.0),
        lambda: event.metrics.pop("loss"),
        event.metrics.popitem,
        event.metrics.clear,
        lambda: event.metrics.__ior__({"loss": 0.0}),
    ):
        with pytest.raises(TypeError, match="read-only"):
            change()
    assert event.metrics == {"loss": 1.5, "conv2.top1": 40.0}
    given = {"loss": 1.0}
    kept = replace(event, metrics=given)
    given["loss"] = 2.0
    assert kept.metrics == {"loss": 1.0}, "nor does it change with what it was made of"


@pytest.mark.parametrize("event", events(), ids=lambda event: type(event).__name__)
def test_an_observer_can_do_with_it_what_a_dictionary_can(event: Any):
    assert json.loads(json.dumps(event.metrics)) == event.metrics
    assert copy.deepcopy(event) == pickle.loads(pickle.dumps(event)) == replace(event, stage="probe") == event
    assert dataclasses.asdict(event)["metrics"] == event.metrics
    assert event.metrics | {"lr": 0.1} == {**event.metrics, "lr": 0.1}
    own = dict(event.metrics)
    own["loss"] = 0.0
    assert event.metrics["loss"] == 1.5


def test_a_run_that_is_meddled_with_has_the_figures_of_one_that_is_not(tmp_path: Path):
    recipe = parse_recipe(tomllib.loads(SMALL), load_catalog())
    meddling = Meddling()
    watched = run_recipe(recipe, output=tmp_path / "watched", observers=[meddling, Drawing()], report=False)
    alone = run_recipe(recipe, output=tmp_path / "alone", report=False)
    assert meddling.refused > 8  # steps, held-out images and the ends of both stages
    assert watched.results.as_json() == alone.results.as_json()
    assert json.loads((watched.folder / "results.json").read_text()) == json.loads((alone.folder / "results.json").read_text())
    assert weights(watched.folder) == weights(alone.folder)
    for stage in ("pretrain", "probe"):
        assert steps_logged(watched.folder / stage / "metrics.jsonl") == steps_logged(alone.folder / stage / "metrics.jsonl")
        assert read_metrics(alone.folder / stage / "metrics.jsonl")
    again = run_recipe(recipe, output=tmp_path / "watched", observers=[meddling], report=False)  # finished stages are announced too
    assert again.results.as_json() == alone.results.as_json()


def test_what_an_observer_draws_moves_no_dropout():
    data = Digits()
    backbone = TinyConv(data.image(), dropout=0.5)
    options: dict[str, Any] = {"training": TrainingOptions(epochs=1, batch_size=500), "runtime": Runtime(device="cpu", precision="float32")}
    alone = pretrain(Rotation(), backbone, data, **options)
    watched = pretrain(Rotation(), backbone, data, observers=[Drawing()], **options)
    assert alone.backbone is not None
    assert watched.backbone is not None
    assert state_hash(alone.backbone) == state_hash(watched.backbone)


def test_a_stage_keeps_its_figures_where_an_evaluator_writes_into_them_later(tmp_path: Path):
    result = run_recipe(two_stages_of(Forgetful), output=tmp_path / "run", report=False)
    assert result.results.stages == {"first": {"stages": 1.0}, "second": {"stages": 2.0}}
    assert json.loads((tmp_path / "run" / "results.json").read_text())["stages"] == result.results.stages
