import pytest
import torch

from sslkit import KNN, FeatureQuality, LabeledData, RunInterruptedError, extract_features
from sslkit.data.loader import Loader
from sslkit.evaluators import quality as module
from sslkit.evaluators.quality import Quality
from sslkit.storage.identity import state_hash
from tests.evaluators.labeled import CPU, arrays, context, images_through, labeled, network

DATA = labeled(arrays(60, 40))


def quality(data: LabeledData | None = DATA, **options) -> Quality:
    return Quality(Loader(DATA.test, batch_size=7, device=CPU), data, context(**options))


def test_it_equals_what_the_evaluators_find_on_all_images():
    found = quality()(network())
    expected = FeatureQuality(layers=("body",)).evaluate(network(), DATA, context()).metrics
    expected |= KNN(layers=("body",), k=20, temperature=0.07).evaluate(network(), DATA, context()).metrics
    assert set(found) == {"rankme", "alpha_req", "knn.top1"}
    assert found["rankme"] == pytest.approx(expected["body.rankme"], rel=1e-5)
    assert found["alpha_req"] == pytest.approx(expected["body.alpha_req"], rel=1e-5)
    assert found["knn.top1"] == expected["body.top1"]


def test_without_labels_there_are_no_neighbours():
    assert set(quality(None)(network())) == {"rankme", "alpha_req"}


def test_many_images_are_drawn_from_by_the_seed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "NUM_TRAIN", 25)
    monkeypatch.setattr(module, "NUM_TEST", 10)
    one, again, other = quality(), quality(), quality(seed=5)
    assert one(network()) == again(network())
    assert one(network()) != other(network())
    backbone = network()
    sizes = images_through(backbone)
    one(backbone)
    assert sum(sizes) == 35


def test_nothing_of_the_network_changes():
    backbone = network().train()
    before = state_hash(backbone)
    quality()(backbone)
    assert state_hash(backbone) == before
    assert all(module.training for module in backbone.modules())


@pytest.mark.parametrize(("trained", "times"), [(0, 4), (4_999, 4), (5_000, 5), (10_000, 10), (10**9, 10)])
def test_how_often_depends_on_how_much_is_trained(trained: int, times: int):
    assert quality().most_times(trained) == times, "100 images each time"


def test_it_stops_when_asked_to():
    with pytest.raises(RunInterruptedError):
        quality(should_stop=lambda: True)(network())


def test_some_features_are_those_rows_of_all():
    loader, indices = Loader(DATA.test, batch_size=7, device=CPU), torch.tensor([30, 2, 2, 39])
    every = extract_features(network(), loader, ["body"], None)["body"]
    assert torch.allclose(extract_features(network(), loader, ["body"], None, indices=indices)["body"], every[indices], atol=1e-6)
