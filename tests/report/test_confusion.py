from pathlib import Path

import numpy as np
import pytest
import torch

from sslkit import Classified
from sslkit.report.pictures.confusion import MAX_CLASSES, Matrix, draw_confusion, read_matrices
from sslkit.run.artifacts import ARTIFACT, Predicted, save_predictions
from tests.report.drawn import words_of
from tests.report.run_folders import STAGES, finish, recipe_of

RECIPE = recipe_of()
DIGITS = tuple("0123456789")


def predicted(num_classes: int, num_images: int = 60, *, right: float = 0.7, seed: int = 0) -> Predicted:
    generator = torch.Generator().manual_seed(seed)
    targets, guesses = torch.randint(num_classes, (2, num_images), generator=generator)
    return Predicted(torch.where(torch.rand(num_images, generator=generator) < right, targets, guesses), targets)


def leave(folder: Path, key: str, classes: tuple[str, ...], **classifiers: Predicted) -> None:
    """A finished stage with what its classifiers given."""
    finish(folder, key, classes=classes)
    save_predictions(folder / key, {name: Classified(*given, len(classes)) for name, given in classifiers.items()})


@pytest.mark.parametrize("num_classes", [2, 5])
def test_a_matrix_counts_pairs(num_classes: int, tmp_path: Path):
    leave(tmp_path, "pretrain", DIGITS[: num_classes + 1], transform=predicted(num_classes))
    (found,) = read_matrices(tmp_path, RECIPE)
    given, names = predicted(num_classes), range(num_classes + 1)
    pairs = list(zip(given.targets.tolist(), given.classes.tolist(), strict=True))
    assert found.counts.tolist() == [[pairs.count((true, chosen)) for chosen in names] for true in names]


def test_rows_add_up_to_a_hundred():
    counts = np.array([[3, 1, 0], [0, 0, 0], [2, 2, 4]])
    naive = [[100 * count / (sum(row) or 1) for count in row] for row in counts.tolist()]
    assert Matrix("", "", (), counts).percent.tolist() == naive


def test_the_best_classifier_of_each_stage_is_taken(tmp_path: Path):
    leave(tmp_path, "pretrain", ("0°", "90°"), transform=predicted(2))
    leave(tmp_path, "probe", DIGITS, conv1=predicted(10, right=0.2), conv2=predicted(10, right=0.9, seed=1))
    leave(tmp_path, "snapshots/epoch=1", DIGITS, conv3=predicted(10))
    finish(tmp_path, "finetune")  # predicted nothing
    found = read_matrices(tmp_path, RECIPE)
    assert [(matrix.stage, matrix.name) for matrix in found] == [("pretrain", "transform"), ("probe", "conv2")]
    assert found[0].classes == ("0°", "90°")
    given = predicted(10, right=0.9, seed=1)
    assert found[1].top1 == pytest.approx(100 * float((given.classes == given.targets).float().mean()))


def test_names_that_are_too_few_are_replaced_by_numbers(tmp_path: Path):
    leave(tmp_path, "pretrain", ("only",), transform=predicted(3))
    assert [matrix.classes for matrix in read_matrices(tmp_path, RECIPE)] == [("0", "1", "2")]


def test_at_most_six_are_drawn(tmp_path: Path):
    pretraining_and_probe = STAGES.replace("snapshot_epochs = [1]", "").partition("[stages.snapshots]")[0]
    swept = recipe_of(pretraining_and_probe + "[sweep]\n'stages.pretrain.epochs' = [1, 2, 3, 4, 5, 6, 7, 8]\n")
    for stage in swept.stages:
        leave(tmp_path, stage.key, DIGITS, best=predicted(10))
    assert [matrix.stage.split("/")[-1] for matrix in read_matrices(tmp_path, swept)] == ["pretrain"] * 2 + ["probe"] * 4
    for probe in [stage for stage in swept.stages if stage.name == "probe"][1:]:
        (tmp_path / probe.key / ARTIFACT).unlink()
    assert [matrix.stage.split("/")[-1] for matrix in read_matrices(tmp_path, swept)] == ["pretrain"] * 5 + ["probe"]


def test_few_classes_have_numbers_in_their_cells(tmp_path: Path):
    leave(tmp_path, "pretrain", ("upright", "upside down", "$x$"), transform=predicted(3))
    found = words_of(draw_confusion(tmp_path, RECIPE).figure)
    (matrix,) = read_matrices(tmp_path, RECIPE)
    assert {f"{value:.0f}" for value in matrix.percent.flat if value} <= set(found)
    assert found.count("upside down") == 2
    assert {"pretrain", "true", "chosen", "$x$"} <= set(found)


def test_many_classes_have_no_numbers(tmp_path: Path):
    leave(tmp_path, "pretrain", tuple(f"class {i}" for i in range(13)), transform=predicted(13, 400))
    assert [text for text in words_of(draw_confusion(tmp_path, RECIPE).figure) if text.isdecimal()] == []


def test_too_many_classes_are_left_out_and_reported(tmp_path: Path):
    many = MAX_CLASSES + 1
    assert draw_confusion(tmp_path, RECIPE) is None  # nothing predicted
    leave(tmp_path, "probe", tuple(map(str, range(many))), conv1=predicted(many, 2000))
    assert draw_confusion(tmp_path, RECIPE) is None
    leave(tmp_path, "pretrain", ("0°", "90°"), transform=predicted(2))
    picture = draw_confusion(tmp_path, RECIPE)
    assert "Too large to be drawn: probe (51 classes)." in picture.caption
    assert "probe" not in picture.alt
