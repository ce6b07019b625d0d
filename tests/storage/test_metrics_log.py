import json
from pathlib import Path
from typing import Any

import pytest

from sslkit import CheckpointSaved, FitStart, HeldoutEnd, Notice, RunInterruptedError, SemiSupervised, StepEnd, evaluate
from sslkit.contract.events import Event
from sslkit.contract.runtime import Runtime
from sslkit.storage.metrics_log import MetricsLog, read_metrics
from tests.evaluators.labeled import arrays, network


def start(step: int = 0, part: str = "") -> FitStart:
    return FitStart(stage="pretrain", part=part, step=step, num_steps=9, num_epochs=3)


def step(number: int, part: str = "", **metrics: float) -> StepEnd:
    return StepEnd(stage="pretrain", part=part, step=number, epoch=number / 3, num_images=8, metrics=metrics)


def heldout(number: int, part: str = "", **metrics: float) -> HeldoutEnd:
    return HeldoutEnd(stage="pretrain", part=part, step=number, epoch=number / 3, metrics=metrics)


def write(path: Path, *events: Event) -> list[dict[str, Any]]:
    log = MetricsLog(path)
    for event in events:
        log.observe(event)
    return read_metrics(path)


def places(lines: list[dict[str, Any]]) -> list[tuple[str, str, int]]:
    return [(line["split"], line["part"], line["step"]) for line in lines]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


def test_metrics_stand_in_a_line_each(path: Path):
    lines = write(path, start(), step(1), step(2, loss=1.5, lr=0.1), heldout(3, loss=1.25, top1=50.0), step(4, loss=1.0, lr=0.1))
    assert lines == [
        {"split": "train", "part": "", "step": 2, "epoch": 0.6667, "loss": 1.5, "lr": 0.1},
        {"split": "heldout", "part": "", "step": 3, "epoch": 1.0, "loss": 1.25, "top1": 50.0},
        {"split": "train", "part": "", "step": 4, "epoch": 1.3333, "loss": 1.0, "lr": 0.1},
    ]
    assert [json.loads(line) for line in path.read_text().splitlines()] == lines


def test_other_events_leave_no_line(path: Path):
    saved = CheckpointSaved(stage="pretrain", part="", step=1, path=path)
    assert write(path, start(), step(1), saved, Notice(stage="pretrain", message="slow")) == []


def test_without_a_file_there_is_nothing_to_read(path: Path):
    assert read_metrics(path) == []


def test_a_resumed_fit_drops_what_it_repeats(path: Path):
    write(
        path,
        start(),
        step(2, loss=2.0),
        heldout(3, loss=2.5),
        step(4, loss=1.5),
        heldout(6, loss=1.25),
        step(6, loss=1.0),
        step(7, loss=9.0),
    )
    lines = write(path, start(step=6), heldout(6, loss=1.25), step(8, loss=0.5))
    assert places(lines) == [("train", "", 2), ("heldout", "", 3), ("train", "", 4), ("train", "", 6), ("heldout", "", 6), ("train", "", 8)]


def test_a_fit_that_begins_anew_drops_everything(path: Path):
    write(path, start(), step(1, loss=2.0), heldout(1, loss=2.0), step(2, loss=2.0))
    assert places(write(path, start(), step(1, loss=2.0))) == [("train", "", 1)]


def test_parts_do_not_touch_each_other(path: Path):
    write(path, start(part="k1"), step(2, "k1", loss=2.0), heldout(3, "k1", top1=10.0))
    write(path, start(part="k4"), step(2, "k4", loss=2.0), step(3, "k4", loss=2.0))
    lines = write(path, start(step=2, part="k4"), step(3, "k4", loss=2.0))
    assert places(lines) == [("train", "k1", 2), ("heldout", "k1", 3), ("train", "k4", 2), ("train", "k4", 3)]


def test_a_line_that_a_crash_cut_short_is_left_out(path: Path):
    write(path, start(), step(1, loss=2.0))
    with path.open("a", encoding="utf-8") as file:
        file.write('{"split": "train", "part": "", "st')
    assert places(read_metrics(path)) == [("train", "", 1)]
    assert places(write(path, start(step=1), step(2, loss=1.0))) == [("train", "", 1), ("train", "", 2)]


def test_after_a_resumption_every_step_stands_there_once(tmp_path: Path):
    """Also those of the fits that were finished before the interruption and only measured again."""
    evaluator = SemiSupervised(labels_per_class=(1, 2, 4), layers=("stem",), head="linear", epochs=2, batch_size=8)
    options: dict[str, Any] = {"runtime": Runtime(device="cpu", log_every=1, precision="float32")}
    evaluate(evaluator, network(), arrays(), output=tmp_path / "whole", **options)
    for stop_at in (10, 4):  # in k2, then in k4
        answers = iter([False] * (stop_at - 1) + [True])
        with pytest.raises(RunInterruptedError):
            evaluate(evaluator, network(), arrays(), output=tmp_path / "parts", should_stop=answers.__next__, **options)
    evaluate(evaluator, network(), arrays(), output=tmp_path / "parts", **options)
    whole, parts = (
        [{**line, "images_per_second": 0} for line in read_metrics(tmp_path / run / "metrics.jsonl")] for run in ("whole", "parts")
    )
    assert len(whole) == 3 * (8 + 1)
    assert sorted(places(parts)) == sorted(places(whole))
    assert sorted(parts, key=str) == sorted(whole, key=str)
