import math
import random
from itertools import combinations

import pytest
import torch
from torch import Tensor

from sslkit.audit.finding import Estimate, accuracy, groups_of, pairs
from sslkit.contract.objective import Prediction


def copies_of(num_images: int, num_classes: int) -> tuple[Tensor, Tensor]:
    """Targets and images of all copies of all images, in an order that nobody should rely on."""
    order = torch.randperm(num_images * num_classes, generator=torch.Generator().manual_seed(0))
    return (torch.arange(num_classes).repeat(num_images))[order], torch.arange(num_images).repeat_interleave(num_classes)[order]


def guesses(num_images: int, num_classes: int, seed: int, *, sway: float = 0.0, skill: float = 0.0) -> tuple[Prediction, Tensor]:
    """A classifier that sees nothing but an image's own bias, the same for all its copies, and noise; with skill it sees the class too."""
    draw = torch.Generator().manual_seed(seed)
    targets, images = copies_of(num_images, num_classes)
    bias = torch.randn(num_images, num_classes, generator=draw, dtype=torch.float64) * sway
    logits = bias[images] + torch.randn(len(targets), num_classes, generator=draw, dtype=torch.float64)
    logits[torch.arange(len(targets)), targets] += skill
    return Prediction(logits, targets), images


# --------------------------------------------------------------------------------------------------------------- accuracies


def test_accuracy_of_equal_classes_is_the_share_of_right_answers():
    prediction, images = guesses(50, 4, 0, skill=1.0)
    expected = 100 * float((prediction.logits.argmax(1) == prediction.targets).double().mean())
    found = accuracy(prediction, images)
    assert found.value == pytest.approx(expected)
    assert found.chance == 25
    assert found.low < found.value < found.high


def test_whoever_always_says_the_same_is_at_chance_however_unequal_the_classes_are():
    targets = torch.tensor([0] * 90 + [1] * 9 + [2])
    logits = torch.tensor([1.0, 0.0, 0.0]).expand(100, 3)
    found = accuracy(Prediction(logits, targets), torch.arange(100))
    assert found.value == pytest.approx(100 / 3)
    assert not found.above_chance
    assert [pair.accuracy.value for pair in pairs(Prediction(logits, targets), torch.arange(100))] == [50, 50, 50]


def test_ties_are_shared():
    logits = torch.tensor([[1.0, 1.0, 0.0], [2.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    found = accuracy(Prediction(logits, torch.tensor([0, 1, 2])), torch.arange(3))
    assert found.value == pytest.approx(100 * (1 / 2 + 0 + 1 / 3) / 3)


def test_of_two_classes_there_is_one_pair_with_the_same_accuracy():
    prediction, images = guesses(40, 2, 3, sway=1.0, skill=0.3)
    prediction.logits[::5] = 0.0
    (pair,) = pairs(prediction, images)
    assert pair.accuracy == pytest.approx(accuracy(prediction, images))


def test_pairs_equal_a_loop():
    prediction, images = guesses(30, 5, 1, sway=1.0, skill=0.5)
    prediction.logits[::7] = 1.0  # ties
    found = pairs(prediction, images)
    assert [pair.classes for pair in found] == list(combinations(range(5), 2))
    for pair in found:
        first, second = pair.classes
        shares = []
        for label, other in ((first, second), (second, first)):
            points, num = 0.0, 0
            for logits, target in zip(prediction.logits.tolist(), prediction.targets.tolist(), strict=True):
                if target == label:
                    num += 1
                    points += 1.0 if logits[label] > logits[other] else 0.5 if logits[label] == logits[other] else 0.0
            shares.append(points / num)
        assert pair.accuracy.value == pytest.approx(100 * sum(shares) / 2)
        assert pair.accuracy.chance == 50


def test_classes_that_never_occur_are_left_out():
    prediction, images = guesses(20, 4, 2)
    kept = prediction.targets != 2
    prediction = Prediction(prediction.logits[kept], prediction.targets[kept])
    assert [pair.classes for pair in pairs(prediction, images[kept])] == [(0, 1), (0, 3), (1, 3)]
    assert accuracy(prediction, images[kept]).chance == pytest.approx(100 / 3)


# ---------------------------------------------------------------------------------------------------------------- intervals


@pytest.mark.parametrize("num_classes", [2, 8])
@pytest.mark.parametrize(("sway", "skill"), [(0.0, 0.0), (3.0, 0.0), (1.0, 0.7)])
def test_95_of_100_intervals_hold_the_true_accuracy(num_classes, sway, skill):
    many, images = guesses(40_000, num_classes, 0, sway=sway, skill=skill)
    true = accuracy(many, images).value
    hits = 0
    for seed in range(1, 401):
        found = accuracy(*guesses(150, num_classes, seed, sway=sway, skill=skill))
        hits += found.low <= true <= found.high
    assert 400 * 0.95 - 3.5 * math.sqrt(400 * 0.95 * 0.05) <= hits < 400  # a half per cent and more off would not be noticed


def test_intervals_that_took_copies_for_independent_would_be_wrong():
    """Predictions of an image that is one of two: all its copies are right, or all are wrong."""
    targets, images = copies_of(100, 4)
    hits = 0
    for seed in range(300):
        right = torch.rand(100, generator=torch.Generator().manual_seed(seed)) < 0.25
        answers = torch.where(right[images], targets, (targets + 1) % 4)
        found = accuracy(Prediction(torch.nn.functional.one_hot(answers, 4).double(), targets), images)
        hits += found.low <= 25 <= found.high
        assert found.high - found.low > 100 * 3 * math.sqrt(0.25 * 0.75 / 400)
    assert hits >= 300 * 0.95 - 12


def test_of_all_pairs_at_once_95_of_100_sets_of_intervals_hold():
    held = 0
    for seed in range(200):
        held += not any(pair.accuracy.above_chance for pair in pairs(*guesses(100, 6, seed, sway=1.0)))
    assert held >= 200 * 0.95 - 10


def test_the_order_within_a_group_does_not_matter():
    prediction, images = guesses(40, 3, 5, sway=1.0)
    groups = images // 4
    shuffle = torch.tensor(random.Random(0).sample(range(120), 120))
    moved = Prediction(prediction.logits[shuffle], prediction.targets[shuffle])
    assert accuracy(moved, groups[shuffle]) == pytest.approx(accuracy(prediction, groups))


def test_all_right_is_above_chance_only_if_there_are_enough_images():
    for num_images, above in ((3, False), (100, True)):
        targets, images = copies_of(num_images, 2)
        found = accuracy(Prediction(torch.nn.functional.one_hot(targets, 2).double(), targets), images)
        assert (found.value, found.high) == (100, 100)
        assert found.above_chance is above
        assert found.low == pytest.approx(100 * num_images / (num_images + 1.96**2), abs=0.01)  # Wilson's, of as many images


def test_below_chance_is_not_above_it():
    assert not Estimate(20.0, 15.0, 24.0, chance=25.0).above_chance
    assert not Estimate(27.0, 25.0, 29.0, chance=25.0).above_chance
    assert Estimate(27.0, 25.1, 29.0, chance=25.0).above_chance


def test_groups_are_batches_of_images():
    assert groups_of(12, 3, 2).tolist() == [0] * 8 + [1] * 4  # four predictions an image
    assert groups_of(5, 5, 1).tolist() == [0, 1, 2, 3, 4]
