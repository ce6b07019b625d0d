"""Accuracy on classes of unlike sizes, on many classes, and of classifiers that name few of them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sslkit import KNN, Arrays, Classified, Event, LinearProbe, Notice, SemiSupervised, Supervised, evaluate
from sslkit.contract.events import Observer
from sslkit.contract.runtime import Runtime
from sslkit.evaluators.classifier import accuracies_of, few_classes, is_uneven, recalls
from sslkit.report.metrics import better
from sslkit.report.run_folder import RunFolder, StageFolder
from sslkit.report.run_tables import recall_table
from sslkit.run.results import Results
from sslkit.storage.json_files import SavedArtifact
from sslkit.training.seeds import global_seed
from tests.contract.miniatures.backbones import TinyConv

RUNTIME = Runtime(device="cpu", precision="float32")


class Notices(Observer):
    def __init__(self) -> None:
        self.messages: list[str] = []

    def observe(self, event: Event) -> None:
        if isinstance(event, Notice):
            self.messages.append(event.message)


def accuracies(classified: Classified) -> dict[str, float]:
    """What there is to say beside the top-1 of ``a``."""
    return {name: value for name, value in accuracies_of({"a": 0.0}, {"a": classified}).items() if name != "a.top1"}


def images_of(counts: list[int], *, seed: int) -> tuple[Tensor, Tensor]:
    """Noise, whose class nothing tells."""
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    pixels = torch.randint(0, 256, (len(labels), 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return pixels, labels


def data_of(counts: list[int]) -> Arrays:
    (train, train_labels), (test, test_labels) = images_of(counts, seed=0), images_of(counts, seed=1)
    return Arrays(train_images=train, train_labels=train_labels, test_images=test, test_labels=test_labels)


def test_one_class_for_all_is_seen_through():
    prediction = Classified(torch.zeros(200, dtype=torch.int64), torch.tensor([0] * 190 + [1] * 10), 2)
    assert accuracies(prediction) == {"a.balanced": 50.0, "majority": 95.0}
    assert recalls(prediction) == [100.0, 0.0]
    assert few_classes(prediction) == (1, 2)
    assert accuracies_of({"conv2": 95.0}, {"conv2": prediction}) == {"conv2.top1": 95.0, "conv2.balanced": 50.0, "majority": 95.0}


def test_classes_of_like_sizes_bring_no_more_figures_than_they_need():
    targets = torch.arange(30) % 3
    assert accuracies_of({"a": 100.0}, {"a": Classified(targets, targets, 3)}) == {"a.top1": 100.0}
    assert few_classes(Classified(targets, targets, 3)) is None
    uneven = torch.tensor([0] * 15 + [1] * 10)
    assert is_uneven(uneven)
    assert not is_uneven(uneven[1:])
    assert not is_uneven(uneven.clamp(max=0)), "a class without test images, or one alone, is no uneven one"
    assert recalls(Classified(uneven, uneven.clamp(max=0), 3)) == [60.0, None, None]


@pytest.mark.parametrize(("num_classes", "named"), [(19, False), (20, True)])
def test_of_many_classes_the_five_most_likely_count_too(num_classes: int, named: bool):
    targets = torch.arange(num_classes)
    logits = torch.zeros(num_classes, num_classes)
    for image in range(num_classes):  # the right class is the fourth most likely, of every other image the sixth
        order = [(image + step) % num_classes for step in (1, 2, 3, *((4, 5) if image % 2 else ()), 0)]
        logits[image, order] = torch.arange(len(order), 0, -1).float()
    assert accuracies(Classified.of(logits, targets)) == ({"a.top5": 50.0} if named else {})


def test_few_classes_are_less_than_half_of_those_that_there_are():
    targets = torch.arange(10)
    assert [few_classes(Classified(targets % named, targets, 12)) for named in (1, 4, 5, 10)] == [(1, 10), (4, 10), None, None]
    assert few_classes(Classified(torch.zeros(3, dtype=torch.int64), torch.zeros(3, dtype=torch.int64), 2)) is None


@pytest.mark.parametrize(
    ("evaluator", "prefix"),
    [
        (KNN(layers=("body",), k=5), "body"),
        (LinearProbe(layers=("body",), epochs=1, batch_size=50), "body"),
        (Supervised(epochs=1, batch_size=50), "body"),
        (SemiSupervised(layers=("body",), labels_per_class=(3,), head="linear", epochs=1, batch_size=6), "body.k3"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_every_classifier_says_it(evaluator: Any, prefix: str, tmp_path: Path):
    seen = Notices()
    data = data_of([190, 10])
    result = evaluate(evaluator, TinyConv(data.image()), data, output=tmp_path, runtime=RUNTIME, observers=[seen])
    assert {f"{prefix}.top1", f"{prefix}.balanced", "majority"} <= set(result.metrics)
    assert result.metrics["majority"] == 95.0
    artifact = json.loads((tmp_path / "artifact.json").read_text())
    for name, (first, second) in artifact.get("recall", {}).items():
        assert result.metrics[f"{name}.balanced"] == pytest.approx((first + second) / 2)
        assert result.metrics[f"{name}.top1"] == pytest.approx(0.95 * first + 0.05 * second, abs=1e-4)
    told = [message for message in seen.messages if message.startswith("few classes")]
    alone = [name for name, both in artifact.get("recall", {}).items() if sorted(both) == [0.0, 100.0]]
    assert told == (["few classes are ever predicted: body 1 of 2 that the test images have"] if alone else [])


def test_a_classifier_that_names_one_class_is_noted():
    seen = Notices()
    data = data_of([190, 10])
    blind = LinearProbe(layers=("body",), epochs=20, batch_size=50)
    with global_seed(0):
        backbone = TinyConv(data.image())
    result = evaluate(blind, backbone, data, runtime=RUNTIME, observers=[seen])
    assert result.metrics == {"body.top1": 95.0, "body.balanced": 50.0, "majority": 95.0}
    assert "few classes are ever predicted: body 1 of 2 that the test images have" in seen.messages


def test_more_is_better():
    assert [better(name) for name in ("conv2.top5", "conv2.k20.balanced", "majority")] == ["higher", "higher", None]


def test_the_report_has_a_column_for_each_stages_best_classifier():
    artifacts = {
        "probe": {"classes": ["a", "b"], "recall": {"conv1": [100.0, 0.0], "conv2": [90.0, 60.0]}},
        "knn": {"classes": ["a", "b"], "recall": {"conv2": [80.0, None]}},
        "other": {"classes": ["a"], "recall": {"conv2": [80.0]}},
        "pretrain": {},
    }
    metrics = {"probe": {"conv1.top1": 50.0, "conv2.top1": 75.0}}
    stages = tuple(
        StageFolder(key, Path(key), SavedArtifact.model_validate(artifact), metrics.get(key, {})) for key, artifact in artifacts.items()
    )
    table = recall_table(RunFolder(Path(), Results("x"), stages, True, {}, ""))
    assert [column.name for column in table.columns] == ["class", "probe, conv2", "knn, conv2"]
    assert [[cell.value for cell in row] for row in table.rows] == [["a", 90.0, 80.0], ["b", 60.0, None]]
    assert recall_table(RunFolder(Path(), Results("x"), stages[3:], True, {}, "")) is None
