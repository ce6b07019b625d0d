"""What plugins hand over while a stage runs: right values arrive as plain ones, wrong ones end it in one line before anything is written."""

import itertools
import json
import math
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sslkit import (
    Backbone,
    Classified,
    Constant,
    DataInfo,
    Evaluation,
    Evaluator,
    LabeledData,
    Mean,
    Objective,
    Observer,
    PluginError,
    Prediction,
    PretextTask,
    RunContext,
    RunFailedError,
    Schedule,
    StepOutput,
    StorageError,
    TrainingOptions,
    evaluate,
    pretrain,
)
from sslkit.catalog.observers import Observers
from sslkit.contract.class_address import provenance_of
from sslkit.contract.events import Event, Record, StepEnd
from sslkit.contract.runtime import Runtime
from sslkit.run.artifacts import ARTIFACT, METRICS
from sslkit.storage.metrics_log import MetricsLog, read_metrics
from sslkit.training.handover import RESERVED_METRICS, checked_notes, finite_number
from sslkit_rotnet import RotNet
from tests.evaluators.labeled import arrays, network

HERE = r" of test_handover\.py: "
EACH_STEP = Runtime(device="cpu", log_every=1)


def files(folder: Path) -> dict[str, list[Any]]:
    """The JSON in a stage's folder, by file and line; it must be valid, which NaN is not."""

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    texts = {path.name: path.read_text() for path in folder.iterdir() if path.suffix in (".json", ".jsonl")}
    return {
        name: [json.loads(part, parse_constant=refuse) for part in (text.splitlines() if name.endswith("l") else [text])]
        for name, text in texts.items()
    }


# -------------------------------------------------------------------------------------------------------------- evaluations

NUM_TEST = 15
LABELS = torch.zeros(NUM_TEST, dtype=torch.int64)

CLASSIFIED = r"prediction 'a' must be a Classified of int64 classes and targets \(M,\): Classified\.of\(logits, targets\); found "


def predicting(prediction: Any) -> Evaluation:
    return Evaluation({"a": 1.0}, predictions={"a": prediction})


ACCEPTED: dict[str, tuple[Evaluation, dict[str, float]]] = {
    "numbers": (
        Evaluation({"int": 3, "float32": np.float32(0.5), "int64": np.int64(4), "array": np.array([2.5]), "tensor": torch.tensor(7)}),
        {"int": 3.0, "float32": 0.5, "int64": 4.0, "array": 2.5, "tensor": 7.0},
    ),
    "more numbers": (
        Evaluation({"one": torch.ones(1, 1), "bfloat16": torch.tensor(0.5).bfloat16(), "grad": torch.ones((), requires_grad=True)}),
        {"one": 1.0, "bfloat16": 0.5, "grad": 1.0},
    ),
    "well predicted": (predicting(Classified(LABELS, LABELS, 3))._replace(heads={"a": nn.Linear(1, 1)}), {"a": 1.0}),
}
REFUSED: dict[str, tuple[Any, str]] = {
    "string": (Evaluation({"good": 1.0, "accuracy": "high"}), r"metric 'accuracy' must be a finite number; found 'high'$"),
    "nan": (Evaluation({"accuracy": float("nan")}), r"metric 'accuracy' must be a finite number; found nan$"),
    "inf": (Evaluation({"accuracy": torch.tensor(float("inf"))}), r"metric 'accuracy' must be a finite number; found tensor\(inf\)$"),
    "none": (Evaluation({"accuracy": None}), r"metric 'accuracy' must be a finite number; found None$"),
    "bool": (Evaluation({"accuracy": True}), r"metric 'accuracy' must be a finite number; found True$"),
    "several": (Evaluation({"accuracy": torch.ones(2)}), r"metric 'accuracy' must be a finite number; found tensor\(\[1\., 1\.\]\)$"),
    "complex": (Evaluation({"accuracy": 1j}), r"metric 'accuracy' must be a finite number; found 1j$"),
    "name": (Evaluation({3: 1.0}), r"the names of metrics must be strings in one line; found 3$"),
    "line break": (Evaluation({"a\nb": 1.0}), r"the names of metrics must be strings in one line; found 'a\\nb'$"),
    "list": (Evaluation([("accuracy", 1.0)]), r"metrics must be a dict; found \[\('accuracy', 1\.0\)\]$"),
    "dict": ({"accuracy": 1.0}, r"evaluate must return an Evaluation; found \{'accuracy': 1\.0\}$"),
    "nothing": (None, r"evaluate must return an Evaluation; found None$"),
    "head": (
        Evaluation({"a": 1.0}, heads={"a": torch.zeros(1)}),
        r"heads must be modules by names without dots; found \{'a': tensor\(\[0\.\]\)\}$",
    ),
    "head's name": (
        Evaluation({"a": 1.0}, heads={"a.b": nn.Linear(1, 1)}),
        r"heads must be modules by names without dots; found \{'a\.b': Linear",
    ),
    "prediction": (predicting(torch.zeros(NUM_TEST)), rf"{CLASSIFIED}'torch\.float32 \(15,\) on cpu'$"),
    "logits": (
        predicting(Prediction(torch.zeros(NUM_TEST, 3), LABELS)),
        rf"{CLASSIFIED}\('torch\.float32 \(15, 3\) on cpu', 'torch\.int64 \(15,\) on cpu'\)$",
    ),
    "floats": (
        predicting(Classified(LABELS.float(), LABELS, 3)),
        rf"{CLASSIFIED}\('torch\.float32 \(15,\) on cpu', .*, 'int', 'NoneType'\)$",
    ),
    "top 5": (predicting(Classified(LABELS, LABELS, 30, LABELS)), rf"{CLASSIFIED}\(.*, 'int', 'torch\.int64 "),
    "targets": (
        predicting(Classified(LABELS, LABELS + 3, 3)),
        r"the targets of prediction 'a' are out of range; found '3 to 3'; allowed: 0 to 2, its classes$",
    ),
    "classes": (
        predicting(Classified(LABELS - 1, LABELS, 3)),
        r"the classes of prediction 'a' are out of range; found '-1 to -1'; allowed: 0 to 2, its classes$",
    ),
    "few": (predicting(Classified(LABELS[:4], LABELS[:4], 3)), r"prediction 'a' must be of all 15 test images; found 4$"),
}
REPORTS: dict[str, Any] = {report: evaluation for report, (evaluation, _) in {**ACCEPTED, **REFUSED}.items()}


@dataclass(frozen=True, kw_only=True)
class Reporter(Evaluator):
    """Hands over one of ``REPORTS``."""

    report: str

    @property
    def frozen(self) -> bool:
        return True

    def check(self, backbone: Backbone, data: LabeledData) -> None:
        pass

    def evaluate(self, backbone: Backbone, data: LabeledData, context: RunContext) -> Evaluation:
        return REPORTS[self.report]


class Exporter(Reporter):
    exports_backbone = True


@pytest.mark.parametrize("report", ACCEPTED)
def test_numbers_of_any_library_arrive_as_floats(report: str, tmp_path: Path):
    metrics = ACCEPTED[report][1]
    found = evaluate(Reporter(report=report), network(), arrays(), output=tmp_path).metrics
    assert found == metrics
    assert {type(value) for value in found.values()} == {float}
    assert files(tmp_path)[ARTIFACT][0]["metrics"] == metrics
    assert evaluate(Reporter(report=report), network(), arrays(), output=tmp_path).metrics == metrics, "finished earlier"


@pytest.mark.parametrize("report", REFUSED)
def test_an_evaluation_that_is_none_leaves_no_result(report: str, tmp_path: Path):
    for _ in range(2):  # started again, it says the same: nothing is damaged
        with pytest.raises(RunFailedError, match=rf"^stage 'odd': Reporter{HERE}{REFUSED[report][1]}") as raised:
            evaluate(Reporter(report=report), network(), arrays(), output=tmp_path, name="odd")
        assert "\n" not in str(raised.value)
        assert files(tmp_path)[ARTIFACT][0]["status"] == "running"


def test_an_evaluator_that_is_to_export_a_backbone_and_does_not_leaves_no_result(tmp_path: Path):
    message = rf"^stage 'evaluate': Exporter{HERE}exports_backbone is True, so evaluate must return a backbone; found None$"
    with pytest.raises(RunFailedError, match=message):
        evaluate(Exporter(report="numbers"), network(), arrays(), output=tmp_path)


# --------------------------------------------------------------------------------------------------------------- step outputs

Change = Callable[[StepOutput, bool], Any]
SCALAR = torch.zeros(())

MEAN = r"metric 'top1' must be a Mean of scalars on the loss's device: Mean\.of\(x\); found "


def changed(**values: Any) -> Change:
    return lambda output, _train: output._replace(**values)


CHANGES: dict[str, Change] = {
    "nothing": lambda output, _train: output,
    "never counted": changed(metrics={"odd": Mean(SCALAR, 0), "even": Mean.of(torch.arange(4))}),
}
BROKEN: dict[str, tuple[Change, str]] = {
    "tuple": (lambda output, _train: (output.loss, {}), r"forward must return a StepOutput; found \(tensor"),
    "loss an image": (
        lambda output, _train: output._replace(loss=output.loss.expand(1)),
        r"the loss of phase 'main' must be a scalar tensor of floats; found 'torch\.float32 \(1,\) on cpu'$",
    ),
    "loss a number": (
        lambda output, _train: output._replace(loss=float(output.loss.detach())),
        r"the loss of phase 'main' must be a scalar tensor of floats; found 'float'$",
    ),
    "constant": (
        lambda output, _train: output._replace(loss=output.loss.detach()),
        r"the loss of phase 'main' depends on nothing that is trained$",
    ),
    "metric a float": (changed(metrics={"top1": 3.0}), rf"{MEAN}'float'$"),
    "mean of floats": (changed(metrics={"top1": Mean(3.0, 1)}), rf"{MEAN}\('float', 'int'\)$"),
    "mean of vectors": (changed(metrics={"top1": Mean(torch.ones(2), 1)}), rf"{MEAN}\('torch\.float32 \(2,\) on cpu', 'int'\)$"),
    "number of text": (changed(metrics={"top1": Mean(SCALAR, "1")}), rf"{MEAN}\('torch\.float32 \(\) on cpu', 'str'\)$"),
    "number without end": (changed(metrics={"top1": Mean(SCALAR, math.inf)}), MEAN),
    "on another device": (
        changed(metrics={"top1": Mean(torch.zeros((), device="meta"), 1)}),
        rf"{MEAN}\('torch\.float32 \(\) on meta', 'int'\)$",
    ),
    "name": (changed(metrics={1: Mean(SCALAR, 1)}), r"the names of metrics must be strings in one line; found 1$"),
    "taken name": (changed(metrics={"epoch": Mean(SCALAR, 1)}), r"no metric may be called 'epoch', because the log has that name already$"),
    "prediction": (changed(predictions={"a": Prediction(SCALAR, SCALAR)}), r"prediction 'a' must be a Prediction of logits"),
    "target": (
        changed(predictions={"a": Prediction(torch.zeros(4, 3), torch.tensor([0, 1, 2, 3]))}),
        r"the targets of prediction 'a' are out of range; found '0 to 3'; allowed: 0 to 2, its classes$",
    ),
    "nan in training": (
        lambda output, train: output._replace(metrics={"odd": Mean(SCALAR * math.nan if train else SCALAR, 1)}),
        r"metric 'odd' must be finite, and is nan in the steps up to 1$",
    ),
    "inf held out": (
        lambda output, train: output._replace(metrics={"odd": Mean(SCALAR if train else SCALAR + math.inf, 1)}),
        r"metric 'odd' must be finite, and is inf on held-out images after 3 steps$",
    ),
}
CHANGES |= {name: change for name, (change, _) in BROKEN.items()}


class Odd(Objective):
    """RotNet's, with a change to what it returns."""

    heldout_phase = "main"

    def __init__(self, backbone: Backbone, data: DataInfo, change: str) -> None:
        super().__init__(backbone)
        self.inner = RotNet().build_objective(backbone, data)
        self._change = change

    def make_views(self, batch, generator, *, train):
        return self.inner.make_views(batch, generator, train=train)

    def forward(self, views, step):
        change = CHANGES.get(self._change, CHANGES["nothing"])  # subclasses change something else
        return change(self.inner(views, step), self.training)


class Scheduled(Odd):
    def schedules(self):
        return {"odd": lambda progress: VALUES[self._change](progress, 1.0)}


class Choosing(Odd):
    def epoch_indices(self, context):
        return INDICES[self._change][0]


class Exporting(Odd):
    def exported_backbone(self):
        return self.inner.head


@dataclass(frozen=True, kw_only=True)
class OddTask(PretextTask):
    change: str = "nothing"
    kind: str = "Odd"

    def build_objective(self, backbone: Backbone, data: DataInfo) -> Objective:
        return {"Odd": Odd, "Scheduled": Scheduled, "Choosing": Choosing, "Exporting": Exporting}[self.kind](backbone, data, self.change)


def train(task: PretextTask, folder: Path | None, schedule: Schedule | None = None, **options: Any) -> dict[str, float]:
    training = TrainingOptions(epochs=2, batch_size=10, schedule=schedule or Constant())
    return pretrain(task, network(), arrays(), training=training, output=folder, runtime=EACH_STEP, **options).metrics


@pytest.mark.parametrize("change", BROKEN)
def test_a_step_output_that_is_none_ends_the_stage_in_a_line(change: str, tmp_path: Path):
    with pytest.raises(RunFailedError, match=rf"^stage 'pretrain': Odd{HERE}{BROKEN[change][1]}") as raised:
        train(OddTask(change=change), tmp_path)
    assert "\n" not in str(raised.value)
    assert files(tmp_path)[ARTIFACT][0]["status"] == "running"
    lines = [line for line in read_metrics(tmp_path / METRICS) if line["split"] != "features"]
    assert all(math.isfinite(value) for line in lines for value in line.values() if isinstance(value, float))
    assert len(lines) == (3 if change in ("inf held out", "target") else 0)


def test_what_was_never_counted_is_left_out_and_integers_are_means(tmp_path: Path):
    metrics = train(OddTask(change="never counted"), tmp_path)
    assert metrics["pretext_even"] == 1.5
    assert "pretext_odd" not in metrics
    assert len([line for line in read_metrics(tmp_path / METRICS) if line["split"] != "features"]) == 8


def test_the_names_beside_metrics_in_a_log_are_reserved(tmp_path: Path):
    train(OddTask(), tmp_path)
    keys = {key for line in read_metrics(tmp_path / METRICS) for key in line if line["split"] != "features"}
    assert (keys - {"top1"}) | {"loss_scale"} == RESERVED_METRICS, "a loss is scaled in float16 alone"


INDICES = {
    "floats": (torch.zeros(3), r"must return an \(M,\) int64 tensor; found 'torch\.float32 \(3,\) on cpu'$"),
    "matrix": (torch.zeros(2, 3, dtype=torch.int64), r"must return an \(M,\) int64 tensor; found 'torch\.int64 \(2, 3\) on cpu'$"),
    "list": ([1, 2], r"must return an \(M,\) int64 tensor; found 'list'$"),
    "none": (torch.zeros(0, dtype=torch.int64), r"chose no image$"),
    "beyond": (torch.tensor([0, 30]), r"returned indices that are out of range; found '0 to 30'; allowed: 0 to 29$"),
    "negative": (torch.tensor([0, -1]), r"returned indices that are out of range; found '-1 to 0'; allowed: 0 to 29$"),
}


@pytest.mark.parametrize("indices", INDICES)
def test_indices_of_images_that_there_are_not_end_the_stage_in_a_line(indices: str):
    with pytest.raises(RunFailedError, match=rf"^stage 'pretrain': Choosing{HERE}epoch_indices {INDICES[indices][1]}"):
        train(OddTask(change=indices, kind="Choosing"), None)


def test_an_objective_that_exports_no_backbone_is_refused_before_it_is_trained():
    events: list[Event] = []
    with pytest.raises(PluginError, match=rf"^Exporting{HERE}exported_backbone must return a Backbone; found 'Linear'$"):
        train(OddTask(kind="Exporting"), None, observers=[Noting(events)])
    assert not any(isinstance(event, StepEnd) for event in events)


# ---------------------------------------------------------------------------------------------------------------- schedules

COUNT = itertools.count()
VALUES: dict[str, Callable[[float, float], Any]] = {
    "tensor": lambda epoch, _end: torch.tensor(1 - epoch / 4),
    "numpy": lambda epoch, _end: np.float32(1 - epoch / 4),
    "integer": lambda _epoch, _end: 1,
    "vector": lambda _epoch, _end: torch.ones(2),
    "text": lambda _epoch, _end: "1",
    "none": lambda _epoch, _end: None,
    "nan": lambda epoch, end: math.nan if epoch == end else 1.0,
    "negative": lambda epoch, _end: 0.5 - epoch,
    "gap": lambda epoch, _end: math.inf if epoch == 0.5 else 1.0,
    "counted": lambda _epoch, _end: 1 / (1 + next(COUNT)),
    "drawn": lambda _epoch, _end: random.random(),
}


@dataclass(frozen=True, kw_only=True)
class OddSchedule(Schedule):
    value: str

    def scale(self, epoch: float, num_epochs: float) -> float:
        return VALUES[self.value](epoch, num_epochs)


@pytest.mark.parametrize("value", ["tensor", "numpy"])
def test_a_schedule_may_return_any_number_and_every_line_of_the_log_is_there(value: str, tmp_path: Path):
    train(OddTask(), tmp_path, OddSchedule(value=value))
    lines = [line for line in read_metrics(tmp_path / METRICS) if line["split"] == "train"]
    assert [line["lr"] for line in lines] == pytest.approx([0.1 * (1 - step / 3 / 4) for step in range(6)])
    assert files(tmp_path)[ARTIFACT][0]["status"] == "finished"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("vector", r"scale must return a finite number, 0 or more, after epoch 0 of 2; found tensor\(\[1\., 1\.\]\)$"),
        ("text", r"scale must return a finite number, 0 or more, after epoch 0 of 2; found '1'$"),
        ("none", r"scale must return a finite number, 0 or more, after epoch 0 of 2; found None$"),
        ("nan", r"scale must return a finite number, 0 or more, after epoch 2 of 2; found nan$"),
        ("negative", r"scale must return a finite number, 0 or more, after epoch 0\.5625 of 2; found -0\.0625$"),
    ],
)
def test_a_rate_that_is_none_is_refused_before_the_first_step(value: str, message: str):
    events: list[Event] = []
    with pytest.raises(PluginError, match=rf"^OddSchedule{HERE}{message}"):
        train(OddTask(), None, OddSchedule(value=value), observers=[Noting(events)])
    assert not any(isinstance(event, StepEnd) for event in events)


@pytest.mark.parametrize("notes", ["one sentence", None, [1]], ids=repr)
def test_notes_of_a_schedule_are_sentences(notes: object):
    class Noted(Schedule):
        def scale(self, epoch: float, num_epochs: float) -> float:
            return 1.0

        def notes(self, num_epochs: float) -> Any:
            return notes

    with pytest.raises(PluginError, match=rf"Noted{HERE}notes must return a tuple of sentences; found {re.escape(repr(notes))}$"):
        checked_notes(Noted(), 2)


@pytest.mark.parametrize("value", ["counted", "drawn"])
def test_a_schedule_with_a_state_is_refused(value: str):
    message = rf"^OddSchedule{HERE}scale must depend on the epoch alone, or a resumed run would have other rates; found '.*, then .* of 2'$"
    with pytest.raises(PluginError, match=message):
        train(OddTask(), None, OddSchedule(value=value))


@pytest.mark.parametrize("value", ["vector", "text", "none", "nan"])
def test_an_objectives_own_schedule_is_a_finite_number(value: str):
    message = rf"^Scheduled{HERE}schedules\['odd'\] must be a function of progress that returns finite numbers; found "
    with pytest.raises(PluginError, match=message):
        train(OddTask(change=value, kind="Scheduled"), None)


def test_an_objectives_own_schedule_is_a_finite_number_all_the_way():
    """At its ends it is asked before anything is trained, in between when it gets there."""
    message = rf"^stage 'pretrain': Scheduled{HERE}schedule 'odd' must return a finite number at progress 0\.5; found inf$"
    with pytest.raises(RunFailedError, match=message):
        train(OddTask(change="gap", kind="Scheduled"), None)


@pytest.mark.parametrize("value", ["tensor", "negative"])
def test_an_objectives_own_schedule_may_be_any_number(value: str):
    assert train(OddTask(change=value, kind="Scheduled"), None)


# ------------------------------------------------------------------------------------------------------------------- records


class Noting(Observer):
    def __init__(self, events: list[Event]) -> None:
        self._events = events

    def observe(self, event: Event) -> None:
        self._events.append(event)


STEP = StepEnd(stage="s", part="", step=3, epoch=1.0, num_images=8, metrics={"loss": 1.0})


@pytest.mark.parametrize("value", [math.nan, torch.ones(()), {1}], ids=["NaN", "tensor", "set"])
def test_a_line_that_cannot_be_written_is_an_error_of_the_run(value: Any, tmp_path: Path):
    """Nobody hands such a value over any more; should it happen, the run does not go on without its log."""
    path = tmp_path / METRICS
    step = StepEnd(stage="s", part="", step=3, epoch=1.0, num_images=8, metrics={})
    object.__setattr__(step, "metrics", {"loss": value})
    with pytest.raises(StorageError, match=rf"^{path}: what was measured in step 3 cannot be written \("):
        Observers([MetricsLog(path)]).observe(step)
    assert not path.exists() or not path.read_text()


def test_the_runs_record_is_never_left_out_and_others_are():
    class Failing(Record):
        def observe(self, event: Event) -> None:
            raise ValueError("out of ink")

    class FullDisk(Observer):
        def observe(self, event: Event) -> None:
            raise StorageError("somebody else's disk")

    events: list[Event] = []
    observers = Observers([FullDisk(), Noting(events)])
    with pytest.warns(match="FullDisk"):
        observers.observe(STEP)
    observers.observe(STEP)
    assert events[-1] == STEP
    for nested in (Observers([Failing()]), Observers([Observers([Failing()])])):
        for _ in range(2):
            with pytest.raises(ValueError, match="out of ink"):
                nested.observe(STEP)


# ------------------------------------------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (3, 3.0),
        (-0.5, -0.5),
        (Fraction(1, 4), 0.25),
        (np.float64(1.5), 1.5),
        (np.uint8(200), 200.0),
        (np.ones((1, 1)), 1.0),
        (torch.tensor([[2]]), 2.0),
        (torch.tensor(0.25, dtype=torch.float16), 0.25),
    ],
)
def test_numbers(value: object, expected: float):
    found = finite_number(value)
    assert found == expected
    assert type(found) is float


@pytest.mark.parametrize(
    "value",
    [
        True,
        np.True_,
        torch.tensor(True),
        "1",
        None,
        [],
        {},
        Decimal(1),
        1j,
        math.nan,
        -math.inf,
        10**400,
        np.ones(2),
        torch.ones(0),
        torch.zeros((), device="meta"),
        np.array("text"),
        Tensor,
    ],
    ids=repr,
)
def test_what_is_no_finite_number(value: object):
    assert finite_number(value) is None


def test_a_class_is_named_with_who_made_it():
    assert provenance_of(RotNet).startswith("RotNet of sslkit ")
    assert provenance_of(torch.optim.SGD).startswith("SGD of torch 2")
    assert provenance_of(OddTask) == "OddTask of test_handover.py"
