import math

import numpy as np
import pytest
import torch
from torch import Tensor

from sslkit.training.representation import LIMITS, Signs, assignment_entropy, feature_std, mean_cosine, quick_rankme


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


SHAPES = pytest.mark.parametrize("shape", [(40, 7), (7, 40), (20, 20), (2, 3)])


@SHAPES
def test_standard_deviation_equals_the_formula(shape: tuple[int, int]):
    features = (random(*shape) + 1).numpy().astype(np.float64)
    unit = np.stack([row / np.sqrt((row**2).sum()) for row in features])
    expected = np.mean([np.sqrt(((column - column.mean()) ** 2).mean()) for column in unit.T]) * math.sqrt(shape[1])
    assert feature_std(random(*shape) + 1) == pytest.approx(expected, rel=1e-6)


@SHAPES
def test_mean_cosine_equals_a_double_loop(shape: tuple[int, int]):
    features = (random(*shape) + 1).double()
    cosines = [float(a @ b / (a.norm() * b.norm())) for i, a in enumerate(features) for j, b in enumerate(features) if i != j]
    assert mean_cosine(features.float()) == pytest.approx(sum(cosines) / len(cosines), rel=1e-5)


@SHAPES
@pytest.mark.parametrize("offset", [0.0, 1.0, 100.0])
def test_effective_rank_equals_a_singular_value_decomposition(shape: tuple[int, int], offset: float):
    features = random(*shape) + offset
    singular = np.linalg.svd(features.numpy().astype(np.float64), compute_uv=False)
    shares = singular / singular.sum() + 1e-7
    assert quick_rankme(features) == pytest.approx(math.exp(-(shares * np.log(shares)).sum()), rel=1e-6)


def test_entropy_equals_the_formula():
    probabilities = random(30, 5).softmax(dim=1)
    mean = [float(probabilities[:, k].double().sum()) / 30 for k in range(5)]
    assert assignment_entropy(probabilities) == pytest.approx(-sum(p * math.log(p) for p in mean) / math.log(5), rel=1e-6)


def test_what_the_numbers_say_at_the_ends():
    noise, same = random(2000, 64), random(1, 64).expand(2000, 64)
    assert feature_std(noise) == pytest.approx(1.0, abs=0.01)
    assert mean_cosine(noise) == pytest.approx(0.0, abs=0.01)
    assert quick_rankme(noise) > 60
    assert (feature_std(same), mean_cosine(same), quick_rankme(same)) == pytest.approx((0.0, 1.0, 1.0), abs=1e-3)
    assert (feature_std(torch.zeros(5, 3)), mean_cosine(torch.zeros(5, 3))) == (0.0, 0.0)
    assert assignment_entropy(torch.eye(6)) == pytest.approx(1.0)
    assert assignment_entropy(torch.eye(6)[[2] * 9]) == 0.0


# --------------------------------------------------------------------------------------------------------------------- signs


def alarms(*values: float, name: str = "features.std") -> list[int]:
    """After which of the values it is said."""
    signs = Signs()
    return [number for number, value in enumerate(values) if signs.take({name: value, "features.rankme": 1.0})]


def test_a_collapse_is_said_once_after_two_measurements():
    assert alarms(0.4, 0.02, 0.02, 0.01, 0.0) == [2]
    assert alarms(0.9, 0.04, 0.04, 0.0, name="prototypes.entropy") == [2]


def test_a_moment_is_no_collapse():
    assert alarms(0.4, 0.02, 0.4, 0.01, 0.3) == []


def test_it_is_said_again_only_after_a_recovery():
    assert alarms(0.4, 0.02, 0.02, 0.04, 0.02, 0.02) == [2], "above the limit, but below twice of it"
    assert alarms(0.4, 0.02, 0.02, 0.1, 0.02, 0.02) == [2, 5]


def test_what_was_always_low_has_not_collapsed():
    """Untrained networks, and images that are all alike."""
    assert alarms(0.0, 0.0, 0.0, 0.0) == []
    assert alarms(0.02, 0.011, 0.008, 0.006) == []
    assert alarms(0.02, 0.5, 0.011, 0.008) == [3]


def test_what_falls_a_long_way_and_stays_above_the_limit_has_not_collapsed():
    assert alarms(1.0, LIMITS["std"], LIMITS["std"], LIMITS["std"]) == []


def test_signs_survive_a_checkpoint():
    whole, values = Signs(), [0.4, 0.02, 0.02, 0.2, 0.01, 0.01]
    found = [whole.take({"features.std": value}) for value in values]
    parts, again = Signs(), []
    for value in values:
        again.append(parts.take({"features.std": value}))
        parts = Signs(**parts.state())
    assert again == found
    assert parts == whole
