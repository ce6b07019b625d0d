import copy
import math

import pytest
import torch
from torch import Tensor, nn

from sslkit import KNN, FeatureInfo, FeatureQuality, OptionError, extract_features
from sslkit.contract.backbone import Backbone
from sslkit.data.loader import Loader
from sslkit.evaluators import knn
from sslkit.training.representation import alpha_req, rankme
from tests.evaluators.labeled import CPU, arrays, context, labeled, network

DATA = labeled()


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def orthonormal(rows: int, columns: int) -> Tensor:
    return torch.linalg.qr(random(rows, columns).double())[0]


def with_spectrum(eigenvalues: list[float], num: int = 400) -> Tensor:
    """Features whose covariance has just these eigenvalues: centred orthonormal columns, scaled."""
    columns = orthonormal(num, len(eigenvalues) + 1)
    centred = torch.linalg.qr(torch.cat([torch.ones(num, 1).double(), columns[:, 1:]], dim=1))[0][:, 1:]
    rotation = orthonormal(len(eigenvalues), len(eigenvalues))
    return centred * torch.tensor(eigenvalues).double().sqrt() * math.sqrt(num) @ rotation.T


def naive_rankme(features: Tensor) -> float:
    """From the eigenvalues of the Gram matrix, one share at a time."""
    singular = [math.sqrt(max(float(v), 0.0)) for v in torch.linalg.eigvalsh(features.double().T @ features.double())]
    shares = [value / sum(singular) + 1e-7 for value in singular]
    return math.exp(-sum(share * math.log(share) for share in shares))


@pytest.mark.parametrize("shape", [(50, 8), (8, 8), (30, 3)])
def test_rankme_equals_the_formula(shape: tuple[int, int]):
    features = random(*shape) + 0.5
    assert rankme(features) == pytest.approx(naive_rankme(features), rel=1e-4)


def test_rankme_counts_directions():
    assert rankme(orthonormal(60, 12)) == pytest.approx(12, rel=1e-3)
    assert rankme(random(60, 1) @ random(1, 12)) == pytest.approx(1, abs=1e-3)
    assert rankme(torch.zeros(10, 4)) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, 2.0])
def test_alpha_is_the_exponent_of_a_power_law(alpha: float):
    features = with_spectrum([3.0 * rank**-alpha for rank in range(1, 21)])
    assert alpha_req(features) == pytest.approx(alpha, abs=1e-6)


def test_alpha_does_not_see_the_mean_nor_dead_channels():
    features = with_spectrum([rank**-1.0 for rank in range(1, 11)])
    assert alpha_req(features + 100) == pytest.approx(1.0, abs=1e-6)
    assert alpha_req(torch.cat([features, torch.zeros(len(features), 5)], dim=1)) == pytest.approx(1.0, abs=1e-6)


def test_without_a_spectrum_there_is_no_exponent():
    assert alpha_req(torch.ones(10, 4)) is None
    assert alpha_req(random(10, 1)) is None


def test_the_evaluator_measures_the_held_out_images_at_each_layer():
    backbone = network()
    metrics = FeatureQuality(layers=("stem", "body"), batch_size=4).evaluate(backbone, DATA, context()).metrics
    features = extract_features(backbone, Loader(DATA.test, batch_size=15, device=CPU), ["stem", "body"], None)
    for layer in ("stem", "body"):
        assert metrics[f"{layer}.rankme"] == pytest.approx(rankme(features[layer]), rel=1e-5)
        assert metrics[f"{layer}.alpha_req"] == pytest.approx(alpha_req(features[layer]), rel=1e-4)


class LowRank(Backbone):
    """Linear features of an image's first row: twenty directions out of 24."""

    feature_info = (FeatureInfo("map", 24, 1, "map"), FeatureInfo("vector", 24, 1, "vector"))
    capabilities = frozenset({"map", "vector"})

    def __init__(self, image) -> None:
        super().__init__(image)
        self.linear = nn.Linear(24, 24)
        scales = torch.arange(1, 21).double() ** -1.0
        self.linear.weight.data = (orthonormal(24, 20) * scales @ orthonormal(24, 20).T).float()

    def extract(self, x, layers):
        features = self.linear(x[:, :, 0].flatten(1))
        return {layer: features[:, :, None, None] if layer == "map" else features for layer in layers}


@pytest.mark.parametrize("layer", ["map", "vector"])
def test_the_spectrum_is_that_of_float32_features_whatever_the_stage_computes_in(layer: str):
    """bfloat16 would fill up the four directions that are missing, and fit its rounding errors."""
    backbone = LowRank(DATA.test.image)
    data = labeled(arrays(60, 300))
    metrics = FeatureQuality(layers=(layer,)).evaluate(backbone, data, context(autocast=torch.bfloat16)).metrics
    exact = copy.deepcopy(backbone).double()
    inputs = (exact.prepare(data.test.read(range(300))).double())[:, :, 0].flatten(1)
    features = exact.linear(inputs).detach()
    assert torch.linalg.matrix_rank(features, rtol=1e-5) == 21, "20 directions and the offset"
    expected = alpha_req(features)
    assert metrics[f"{layer}.rankme"] == pytest.approx(rankme(features), rel=1e-4)
    assert metrics[f"{layer}.alpha_req"] == pytest.approx(expected, rel=1e-3)
    rounded = extract_features(backbone, Loader(data.test, batch_size=50, device=CPU), [layer], torch.bfloat16)[layer]
    assert abs(alpha_req(rounded) - expected) > 0.3, "the network is one that bfloat16 would misjudge"


def test_neighbours_are_those_of_float32_features_whatever_the_stage_computes_in(monkeypatch: pytest.MonkeyPatch):
    votes: list[Tensor] = []
    vote = knn.vote
    monkeypatch.setattr(knn, "vote", lambda *features, **options: votes.append(vote(*features, **options)) or votes[-1])
    for dtype in (torch.bfloat16, None):
        KNN(layers=("body",), k=5).evaluate(network(), labeled(arrays(60, 40)), context(autocast=dtype))
    assert torch.equal(*votes)


def test_wrong_options_are_refused():
    with pytest.raises(OptionError, match="batch_size: must be positive; found 0"):
        FeatureQuality(layers=("stem",), batch_size=0)
    with pytest.raises(OptionError, match="layers: layer does not exist in this backbone; found 'conv2'"):
        FeatureQuality(layers=("conv2",)).check(network(), DATA)
